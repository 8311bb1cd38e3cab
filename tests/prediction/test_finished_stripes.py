"""Stripes of a slide that an ended call has finished are not predicted again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bench
from bench.cache import cache_folder
from bench.data.images import slide_patches
from bench.prediction import averaging, finished_stripes, predicting
from bench.prediction import new_image as module
from tests.data.images.made_slides import tissue_like, write_svs

SIDE = 400
SPOTS = 90


@pytest.fixture
def striped(predicted, tmp_path, monkeypatch):
    """Predicts a slide in three stripes with a method that trains its own encoder."""
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "cache"))
    assert not predicted.run(["stnet"], [0]).failures
    ranges = slide_patches.stripe_ranges
    monkeypatch.setattr(predicting, "LARGE_IMAGE", 100 * 100)
    monkeypatch.setattr(module, "stripe_ranges", lambda bands: ranges(bands, 30))
    monkeypatch.setattr(module, "_BAND_PATCHES", 1)
    path = tmp_path / "slide.svs"
    write_svs(path, tissue_like(SIDE, SIDE, left=0, top=0, right=SIDE, bottom=SIDE))
    # In the order of reading, so that the stripes are full.
    places = [(40 + 35 * column, 30 + 40 * row) for row in range(9) for column in range(10)]
    spots = pd.DataFrame(places, columns=["x", "y"], dtype=float).rename(index="s{}".format)

    def predict(**changes):
        given = {
            "dataset": str(predicted.dataset.card), "method": "stnet", "device": "cpu",
            "results": predicted.results, "data_root": predicted.dataset.root, "spots": spots,
            "um_per_px": 2.0, **changes,
        }  # fmt: skip
        return bench.predict(path, **given)

    return predict


@pytest.fixture
def calls(monkeypatch):
    """Spots that methods were asked to predict, a call an entry; `ends_after` ends the program."""

    class Calls(list[int]):
        ends_after: int | None = None

    seen = Calls()
    predict_slide = averaging.predict_slide

    def watched(method, slide, panel, context):
        if seen.ends_after == len(seen):
            raise KeyboardInterrupt
        seen.append(len(slide))
        return predict_slide(method, slide, panel, context)

    monkeypatch.setattr(averaging, "predict_slide", watched)
    return seen


def kept():
    return sorted((cache_folder() / "prediction-stripes").glob("*"))


def test_a_second_call_predicts_what_the_first_has_not_finished(striped, calls):
    whole = striped()
    assert calls == [30, 30, 30]
    assert not kept(), "forgotten when the prediction is complete"
    calls.clear()
    calls.ends_after = 1
    with pytest.raises(KeyboardInterrupt):
        striped()
    assert len(kept()) == 1
    calls.ends_after = None
    calls.clear()
    resumed = striped()
    assert calls == [30, 30], "the first stripe is there"
    np.testing.assert_array_equal(resumed.X, whole.X)
    assert resumed.uns["spotbench"]["notes"] == whole.uns["spotbench"]["notes"]
    assert not kept()


@pytest.mark.parametrize("changes", [{"genes": ["GENE3", "GENE1"]}, {"um_per_px": 1.9}])
def test_stripes_of_another_request_are_not_taken(striped, calls, changes):
    calls.ends_after = 2
    with pytest.raises(KeyboardInterrupt):
        striped()
    calls.ends_after = None
    calls.clear()
    striped(**changes)
    assert calls == [30, 30, 30]


def test_a_damaged_stripe_is_predicted_again(striped, calls):
    whole = striped()
    calls.clear()
    calls.ends_after = 2
    with pytest.raises(KeyboardInterrupt):
        striped()
    path = kept()[0]
    path.write_bytes(path.read_bytes()[:-20])
    calls.ends_after = None
    calls.clear()
    np.testing.assert_array_equal(striped().X, whole.X)
    assert calls == [30, 30]


def test_kept_stripes_have_a_limit(striped, calls, monkeypatch):
    calls.ends_after = 2
    with pytest.raises(KeyboardInterrupt):
        striped()
    assert len(kept()) == 2
    monkeypatch.setattr(finished_stripes, "LARGEST", 100)
    calls.ends_after = 4
    with pytest.raises(KeyboardInterrupt):
        striped(genes=["GENE1"])
    assert not kept(), "the old ones made room, and the new ones are too large"
