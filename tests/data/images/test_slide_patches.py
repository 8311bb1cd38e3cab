"""Patches of whole slides: the same as of any image, cut in stripes."""

import threading
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from PIL import Image

from bench.data.images import slide_patches as module
from bench.data.images.patches import PatchSource
from bench.data.images.slide_patches import (
    SlidePatches,
    Stripes,
    reading_order,
    slide_patches,
    stripe_ranges,
)
from bench.data.images.tiff_level import Level
from bench.data.images.whole_slide import open_slide, slide_hash
from bench.errors import DataError
from tests.data.images.made_slides import smooth, write_svs

CENTRES = np.random.default_rng(0).uniform((-10, -10), (820, 620), (60, 2))
SIZES = [(32, None, "area"), (33, 20, "area"), (24, 40, "bilinear"), (112, 28, "bicubic")]


@pytest.fixture(autouse=True)
def _own_cache(own_cache):
    """Patches that another test kept are not taken for those of this one."""


def source_of(path, centres=CENTRES, **options):
    reader = options.pop("reader", "auto")
    with open_slide(path, reader=reader) as slide:
        return slide_patches(slide, centres, **options)


def plain_source(path, centres=CENTRES, image_scale=1.0):
    return PatchSource(path, slide_hash(path), 10**9, centres, image_scale)


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "slide.svs"
    write_svs(path, smooth(608, 816), compression="deflate")
    return path


@pytest.mark.parametrize("asked", SIZES)
@pytest.mark.parametrize("form", ["svs", "png", "jpg"])
def test_patches_of_the_full_resolution_are_those_of_any_image(tmp_path, slide, asked, form):
    path = slide
    if form != "svs":
        path = tmp_path / f"image.{form}"
        Image.fromarray(smooth(608, 816)).save(path)
    source = source_of(path, levels="full")
    plain = plain_source(path)
    np.testing.assert_array_equal(source.cut(*asked), plain.cut(*asked))
    np.testing.assert_array_equal(source.cut_once(range(7, 19), *asked), plain.cut(*asked)[7:19])
    assert source.key(*asked) == plain.key(*asked)
    assert source.extent() == plain.extent() == (816, 608)


@pytest.mark.parametrize("asked", SIZES)
def test_patches_of_a_reduced_slide_are_those_of_any_reduced_image(slide, asked):
    source = source_of(slide, 2 * CENTRES, levels="full", image_scale=0.5)
    plain = plain_source(slide, 2 * CENTRES, 0.5)
    np.testing.assert_array_equal(source.cut(*asked), plain.cut(*asked))
    assert source.key(*asked) == plain.key(*asked)
    assert source.extent() == plain.extent() == (1632, 1216)


@pytest.mark.parametrize(
    ("size", "pixels", "level"), [(64, 64, 0), (64, 33, 0), (64, 32, 1), (96, 24, 2), (96, 8, 2)]
)
def test_the_smallest_level_that_needs_no_growing_is_read(slide, monkeypatch, size, pixels, level):
    shown = []
    view = module.LevelView

    def count(open_, number):
        shown.append(number)
        return view(open_, number)

    monkeypatch.setattr(module, "LevelView", count)
    inside = CENTRES[(CENTRES > 60).all(axis=1) & (CENTRES < (750, 540)).all(axis=1)]
    source = source_of(slide, np.floor(inside / 4) * 4)
    patches = source.cut(size, pixels)
    assert shown == [level]
    full = plain_source(slide, source.centres).cut(size, pixels)
    # A level is rounded to whole colours, once for each halving, and so is the patch.
    assert np.abs(patches.astype(int) - full).max() <= (0 if level == 0 else 2)


def test_patches_of_openslide_are_those_of_tifffile(slide):
    pytest.importorskip("openslide", reason="pip install 'spotbench[slides]'")
    by_openslide = source_of(slide, reader="openslide")
    by_tifffile = source_of(slide)
    for size, pixels, resampling in SIZES:
        one = by_openslide.cut(size, pixels, resampling)
        np.testing.assert_array_equal(one, by_tifffile.cut(size, pixels, resampling))
    assert by_openslide.key(32) != by_tifffile.key(32)


def test_keys_tell_levels_content_and_places_apart(slide, tmp_path):
    other = tmp_path / "other.svs"
    write_svs(other, smooth(608, 816, seed=1), compression="deflate")
    moved = tmp_path / "moved.svs"
    moved.write_bytes(slide.read_bytes())
    sources = [source_of(slide), source_of(slide, levels="full"), source_of(other)]
    sources.append(source_of(slide, CENTRES + 1))
    assert len({source.key(64, 32) for source in sources}) == 4
    assert source_of(moved).key(64, 32) == sources[0].key(64, 32)


def test_cutting_keeps_nothing_and_storing_does(slide, own_cache):
    source = source_of(slide)
    patches = source.cut(40, 20)
    assert not (own_cache / "patches").exists()
    np.testing.assert_array_equal(np.load(source.store(40, 20)), patches)


def test_a_slide_that_was_replaced_is_refused(slide):
    source = source_of(slide)
    for levels, size in ((1, (608, 816)), (3, (512, 816))):
        write_svs(slide, smooth(*size), levels=levels, compression="deflate")
        with pytest.raises(DataError, match="has been replaced") as caught:
            source.cut(96, 24)
        assert str(slide) in str(caught.value)


def test_stripes_hold_whole_rows_where_they_fit_and_cover_all_spots():
    rng = np.random.default_rng(0)
    for most in (1, 2, 7, 50, 1000):
        rows = np.sort(rng.integers(0, 12, 200))
        ranges = stripe_ranges(rows, most)
        assert [spot for spots in ranges for spot in spots] == list(range(200))
        assert all(0 < len(spots) <= most for spots in ranges)
        for spots, following in pairwise(ranges):
            split = rows[following.start] == rows[spots.stop - 1]
            # A row is divided where it alone is longer than a stripe.
            assert not split or (rows == rows[following.start]).sum() > most
    assert stripe_ranges(np.array([], dtype=int)) == []
    for rows, most in (([1, 0], 5), ([0, 1], 0)):
        with pytest.raises(ValueError, match="row by row"):
            stripe_ranges(np.array(rows), most)


def test_spots_at_any_places_are_read_in_bands():
    order, bands = reading_order(CENTRES, 100)
    assert sorted(order.tolist()) == list(range(len(CENTRES)))
    assert (np.diff(bands) >= 0).all()
    np.testing.assert_array_equal(bands, np.floor(CENTRES[order, 1] / 100))
    for band in np.unique(bands):
        assert (np.diff(CENTRES[order][bands == band, 0]) >= 0).all()
    assert stripe_ranges(bands, 10)


def test_stripes_give_the_patches_of_the_whole(slide):
    order, bands = reading_order(CENTRES, 100)
    source = source_of(slide, CENTRES[order])
    ranges = stripe_ranges(bands, 16)
    with Stripes(source, ranges) as stripes:
        assert len(stripes) == len(ranges) > 3
        pieces = [(spots, part.key(64, 32), part.cut(64, 32)) for spots, part in stripes]
    assert [spots for spots, _, _ in pieces] == ranges
    np.testing.assert_array_equal(np.concatenate([cut for _, _, cut in pieces]), source.cut(64, 32))
    assert len({key for _, key, _ in pieces}) == len(ranges)
    # Work that goes on finds the keys of before.
    with Stripes(source, ranges[2:]) as rest:
        assert [part.key(64, 32) for _, part in rest] == [key for _, key, _ in pieces[2:]]


def test_the_next_stripe_is_cut_by_another_thread_before_it_is_asked_for(slide, monkeypatch):
    begun = []
    second = threading.Event()
    cut = SlidePatches.cut_once

    def count(self, spots, size, pixels, resampling):
        begun.append((spots.start, pixels, threading.current_thread() is threading.main_thread()))
        if spots.start == 20:
            second.set()
        return cut(self, spots, size, pixels, resampling)

    monkeypatch.setattr(SlidePatches, "cut_once", count)
    source = source_of(slide)
    with Stripes(source, [range(20), range(20, 40), range(40, 60)]) as stripes:
        (_, first), (_, _), (_, third) = stripes
        first.cut(64, 32)
        assert second.wait(60)
        assert begun == [(0, 32, False), (20, 32, False)]
        third.cut(64, 16)  # another stripe and size than those that were cut ahead
    assert begun[2:] == [(40, 16, False)]
    assert not [t for t in threading.enumerate() if t.name.startswith("stripes")]


def test_tiles_that_stripes_share_are_decoded_once(slide, monkeypatch):
    decoded = []
    block = Level.block

    def count(self, row, column, bits=None):
        decoded.append((self.width, row, column))
        return block(self, row, column, bits)

    monkeypatch.setattr(Level, "block", count)
    order, bands = reading_order(CENTRES, 100)
    with Stripes(source_of(slide, CENTRES[order]), stripe_ranges(bands, 16)) as stripes:
        for _, part in stripes:
            part.cut(96, 64)
    assert len(decoded) == len(set(decoded)) > 50


def test_damage_that_is_met_ahead_is_told_at_its_stripe(slide):
    with tifffile.TiffFile(slide) as file:
        offset = file.pages[0].dataoffsets[-1]
    content = bytearray(slide.read_bytes())
    content[offset : offset + 16] = bytes(16)
    slide.write_bytes(content)
    source = source_of(slide, np.array([[30.0, 30.0], [810.0, 600.0], [810.0, 30.0]]))
    with Stripes(source, [range(1), range(1, 2), range(2, 3)]) as stripes:
        (_, first), (_, second), (_, third) = stripes
        assert first.cut(16, 16).shape == (1, 16, 16, 3)
        with pytest.raises(DataError, match="cannot be read") as caught:
            second.cut(16, 16)
        assert str(slide) in str(caught.value)
        assert third.cut(16, 16).shape == (1, 16, 16, 3)
