"""Features of the tiles around spots, and the pixels that they are computed of."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from bench.api import Context
from bench.blocks.features import FrozenEncoder
from bench.blocks.frozen import QUICK_ENCODER, FrozenEncoderConfig
from bench.data.images.patches import PatchSource
from bench.data.images.stored_patches import StoredPatches
from bench.data.inputs import Slide
from bench.errors import DataError

EDGE, TILES = 32, 3


def encoder(**changes):
    settings = FrozenEncoderConfig(**{**QUICK_ENCODER, "input_size": EDGE, **changes})
    return FrozenEncoder(settings, 1, "cpu")


@pytest.fixture
def slide(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    centres = np.array([[120.7, 100.2], [5.0, 100.0], [239.0, 199.0], [100.0, 60.0]])
    source = PatchSource(tmp_path / "image.png", "sha256:tiles", 10**6, centres)
    return Slide("S", np.arange(8).reshape(4, 2), centres, EDGE, source)


def stored(cache, name):
    return sorted((cache / name).glob("*")) if (cache / name).is_dir() else []


@pytest.mark.parametrize("edge", [32, 33])
def test_a_tile_has_the_features_of_the_patch_at_its_place(own_cache, slide, edge):
    of = encoder(input_size=edge)
    slide = replace(slide, patch_pixels=edge)
    (tiles,) = of.encode_tiles([slide], TILES)
    assert tiles.shape == (4, TILES**2, 96)
    for row in range(TILES):
        for column in range(TILES):
            shift = edge * np.array([column - 1, row - 1])
            source = replace(slide.patch_source, centres=slide.spatial + shift)
            (wanted,) = of.encode([replace(slide, patch_source=source)])
            found = tiles[:, TILES * row + column]
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_tiles_are_computed_once_and_no_pixels_of_them_are_kept(own_cache, slide, monkeypatch):
    (first,) = encoder().encode_tiles([slide], TILES)
    assert len(stored(own_cache, "features")) == 1
    assert stored(own_cache, "patches") == []
    monkeypatch.setattr(FrozenEncoder, "_compute", lambda *_: pytest.fail("computed again"))
    (again,) = encoder().encode_tiles([slide], TILES)
    np.testing.assert_array_equal(again, first)


def test_each_number_of_tiles_and_the_plain_features_have_entries_of_their_own(own_cache, slide):
    encoder().encode([slide])
    for tiles in (1, 3, 5):
        encoder().encode_tiles([slide], tiles)
    names = {path.name for path in stored(own_cache, "features")}
    assert len(names) == 4


def test_a_section_of_several_parts_is_that_of_one(own_cache, slide, monkeypatch):
    (whole,) = encoder().encode_tiles([slide], TILES)
    monkeypatch.setattr("bench.blocks.features._BLOCKS_AT_ONCE", 3)
    shorter = replace(slide, name="T")
    other = replace(shorter.patch_source, image_hash="sha256:others")
    (parts,) = encoder().encode_tiles([replace(shorter, patch_source=other)], TILES)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


def test_tiles_of_a_shuffled_twin_are_those_of_the_permuted_spots(own_cache, slide):
    shuffled = slide.with_images_shuffled(3)
    (plain,), (permuted,) = (encoder().encode_tiles([s], TILES) for s in (slide, shuffled))
    np.testing.assert_array_equal(permuted, plain[shuffled.image_order])


def test_progress_names_the_section(own_cache, slide):
    notes = []
    context = Context(progress=lambda done, total, note: notes.append((done, total, note)))
    encoder().encode_tiles([slide], TILES, context)
    assert notes == [(0, 1, "features around spots of S")]


def test_patches_cut_once_are_those_that_are_kept(own_cache, slide):
    source = slide.patch_source
    for arguments in ((20,), (20, 16), (20, 32, "bicubic")):
        wanted = source.cut(*arguments)
        np.testing.assert_array_equal(source.cut_once(range(1, 3), *arguments), wanted[1:3])
    assert source.extent() == (240.0, 200.0)
    assert replace(source, image_scale=0.5).extent() == (480.0, 400.0)


@pytest.mark.parametrize("size", [0, 5000])
def test_sizes_that_cannot_be_cut_are_refused(slide, size):
    with pytest.raises(DataError, match="cannot be cut"):
        slide.patch_source.cut_once(range(2), size)


def test_stored_patches_show_no_tiles(own_cache, slide):
    source = slide.patch_source
    given = (source.image, source.image_hash, source.max_image_pixels, source.centres)
    patches = StoredPatches(*given, rows=np.arange(4))
    encode = partial(encoder().encode_tiles, [replace(slide, patch_source=patches)], TILES)
    with pytest.raises(DataError, match="holds patches and no whole image"):
        encode()
