"""Features of a whole slide, computed stripe by stripe."""

import numpy as np
import pytest

from bench.blocks.features import FrozenEncoder
from bench.blocks.frozen import QUICK_ENCODER, FrozenEncoderConfig
from bench.data.images.patches import PatchSource
from bench.data.images.slide_patches import Stripes, slide_patches, stripe_ranges
from bench.data.images.tissue import find_tissue, tissue_grid
from bench.data.images.whole_slide import open_slide, slide_hash
from bench.data.inputs import Slide
from tests.data.images.made_slides import tissue_like, write_svs

SCALE = 0.5


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "slide.svs"
    pixels = tissue_like(640, 800, left=60, top=80, right=700, bottom=560)
    write_svs(path, pixels, mpp=str(SCALE), compression="deflate")
    return path


def encoder():
    settings = FrozenEncoderConfig(**{**QUICK_ENCODER, "patch_size": "20um", "input_size": 32})
    return FrozenEncoder(settings, 1, "cpu")


def slide_of(grid, spots, source):
    some = slice(spots.start, spots.stop)
    return Slide(
        "slide", grid.array_xy[some], grid.spatial[some], 40, source, micrometres_per_pixel=SCALE
    )


def grid_and_source(path, levels):
    with open_slide(path) as slide:
        grid = tissue_grid(find_tissue(slide), 20, slide.micrometres_per_pixel)
        return grid, slide_patches(slide, grid.spatial, levels=levels)


def test_features_of_stripes_are_those_of_the_whole_slide(path, own_cache):
    grid, source = grid_and_source(path, "full")
    spots = range(len(grid))
    plain = PatchSource(path, slide_hash(path), 10**9, grid.spatial)
    (whole,) = encoder().encode([slide_of(grid, spots, plain)])
    ranges = stripe_ranges(grid.array_xy[:, 1], 32)
    assert len(ranges) > 3
    with Stripes(source, ranges) as stripes:
        parts = [encoder().encode([slide_of(grid, some, part)])[0] for some, part in stripes]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-5)


def test_work_that_was_stopped_goes_on_with_the_features_that_are_there(
    path, own_cache, monkeypatch
):
    grid, source = grid_and_source(path, "best")
    ranges = stripe_ranges(grid.array_xy[:, 1], 32)
    computed = []
    compute = FrozenEncoder._compute

    def count(self, patches, **options):
        computed.append(len(patches))
        return compute(self, patches, **options)

    monkeypatch.setattr(FrozenEncoder, "_compute", count)
    with Stripes(source, ranges) as stripes:
        for number, (some, part) in enumerate(stripes):
            if number == 2:
                break
            encoder().encode([slide_of(grid, some, part)])
    with Stripes(source, ranges) as stripes:
        for some, part in stripes:
            encoder().encode([slide_of(grid, some, part)])
    assert computed == [len(some) for some in ranges]
    assert not (own_cache / "patches").exists()
