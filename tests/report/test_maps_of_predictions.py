"""Maps of an image without expression: what a figure says beside its colours."""

import numpy as np

from bench.report.maps import predicted_maps
from bench.report.section_maps import SectionMap


def drawn(**changes):
    spots = np.array([[10.0, 10], [20, 10], [10, 20], [20, 20]])
    section = SectionMap(
        **{
            "section": "slide",
            "genes": ("A", "B"),
            "truth": np.empty((4, 0)),
            "predictions": {"ridge": np.arange(8.0).reshape(4, 2)},
            "spatial": spots,
            "labels": np.full(4, ""),
            "image": None,
            "scale": 1.0,
            **changes,
        }
    )
    return predicted_maps(section, {"A": "A\nPCC 0.50", "B": "B\nPCC undefined"})


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_unit_and_a_scale_bar_are_drawn_where_they_are_known():
    figure = drawn(unit="ln(1 + counts per 10,000)", micrometres_per_pixel=50.0)
    assert figure.get_suptitle().endswith("colour: ln(1 + counts per 10,000)")
    assert any("µm" in text for text in texts(figure))
    unknown = drawn()
    assert "colour:" not in unknown.get_suptitle()
    assert not any("µm" in text for text in texts(unknown))
