"""Pictures of a dataset, by what is drawn in them."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from bench.report import dataset_figures


@pytest.fixture
def drawn(make_section, tmp_path, monkeypatch):
    """Draws a gene of a section in memory; gives the axes of the picture."""
    counts = np.ones((30, 3), dtype=int) * 5
    counts[:20, 1], counts[:, 2] = 0, 0
    section = make_section("S_1", "P$1$", counts, ["A_$x^2$", "HALF", "NONE"])
    factors = {"spot_diameter_fullres": 10.0}
    section.adata.uns["spatial"] = {"S_1": {"scalefactors": factors}}
    kept = []

    def keep(figure, path):
        kept.append(figure)
        return path

    monkeypatch.setattr(dataset_figures, "_save", keep)

    def draw(gene):
        dataset_figures.draw_gene(section, gene, tmp_path / "a.png")
        kept[-1].canvas.draw()
        return kept[-1].axes

    return draw


def spots_of(axes):
    return [one for one in axes.collections if isinstance(one, PathCollection)]


def test_spots_without_counts_are_empty_and_the_others_coloured(drawn):
    _, coloured, bar = drawn("HALF")
    empty, full = spots_of(coloured)
    assert len(empty.get_offsets()) == 20
    assert len(empty.get_facecolors()) == 0
    assert len(full.get_offsets()) == 10
    assert "percentiles 2 to 98 of the spots with counts" in bar.get_ylabel()


def test_a_gene_without_counts_says_so_and_has_no_colours(drawn):
    _, coloured = drawn("NONE")
    assert not spots_of(coloured)
    assert [text.get_text() for text in coloured.texts] == ["no counts in this section"]


def test_names_are_drawn_as_they_are_and_symbols_in_italics(drawn):
    plain, coloured, _ = drawn("A_$x^2$")
    assert plain.get_title() == r"S_1, patient P\$1\$"
    assert coloured.get_title() == r"A_\$x^2\$"
    assert coloured.title.get_style() == "italic"


def test_the_scale_bar_has_its_length_and_the_spots_fill_the_frame(drawn):
    plain, _, _ = drawn("HALF")
    (bar,) = plain.lines
    length = np.ptp(bar.get_xdata())  # a pixel is a micrometre in this section
    (text,) = plain.texts
    assert text.get_text() == f"{length:,.0f} µm"
    left, right = plain.get_xlim()
    assert (right - left) < 2 * (9 * 20)
    assert left < 50 < 230 < right
