"""Patches that a dataset ships: joined to spots by row, cropped from the centre, resampled."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image

from bench.data.images.stored_patches import stored_patches
from bench.data.inputs import Slide
from bench.errors import DataError

EDGE, PATCHES = 20, 7


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (PATCHES, EDGE, EDGE, 3), dtype=np.uint8)


@pytest.fixture
def write(tmp_path):
    def make(values, name="s.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("img", data=values, chunks=(1, *values.shape[1:]))
        return tmp_path / name

    return make


def source_of(path, rows):
    spatial = np.arange(2.0 * len(rows)).reshape(-1, 2)
    return stored_patches(path, "sha256:" + "a" * 64, spatial, np.array(rows))


def test_spots_get_the_patches_of_their_rows(write, images):
    rows = [4, 0, 6]
    np.testing.assert_array_equal(source_of(write(images), rows).cut(EDGE), images[rows])


@pytest.mark.parametrize("size", [8, 13, EDGE])
def test_smaller_patches_are_the_centre_of_the_stored_ones(write, images, size):
    start = (EDGE - size) // 2
    wanted = images[[2, 1], start : start + size, start : start + size]
    np.testing.assert_array_equal(source_of(write(images), [2, 1]).cut(size), wanted)


@pytest.mark.parametrize(
    ("pixels", "how"), [(10, Image.Resampling.BOX), (30, Image.Resampling.BICUBIC)]
)
def test_patches_are_resampled_as_those_of_an_image(write, images, pixels, how):
    (patch,) = source_of(write(images), [3]).cut(EDGE, pixels)
    np.testing.assert_array_equal(
        patch, np.asarray(Image.fromarray(images[3]).resize((pixels, pixels), how))
    )


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_the_kernel_is_the_one_that_is_asked_for(write, images, name):
    source, how = source_of(write(images), [3]), Image.Resampling[name.upper()]
    (patch,) = source.cut(EDGE, 10, name)
    np.testing.assert_array_equal(
        patch, np.asarray(Image.fromarray(images[3]).resize((10, 10), how))
    )
    assert source.key(EDGE, 10, name) != source.key(EDGE, 10)


def test_larger_patches_are_refused(write, images):
    with pytest.raises(DataError, match=r"s\.h5: patches of 21 px .* stored ones are 20 px"):
        source_of(write(images), [0]).cut(EDGE + 1)


def test_the_key_tells_files_rows_and_sizes_apart(write, images):
    path = write(images)
    first = source_of(path, [0, 1])
    keys = {
        first.key(EDGE),
        source_of(path, [1, 0]).key(EDGE),
        stored_patches(path, "sha256:" + "b" * 64, first.centres, first.rows).key(EDGE),
        first.key(10),
        first.key(EDGE, 10),
    }
    assert len(keys) == 5
    assert source_of(path, [0, 1]).key(EDGE) == first.key(EDGE)


def test_a_slide_asks_in_micrometres(write, images):
    source = source_of(write(images), [5])
    slide = Slide("S", np.zeros((1, 2), int), source.centres, EDGE, source, None, 0.5)
    np.testing.assert_array_equal(slide.patches("5um", pixels=10)[0], images[5, 5:15, 5:15])
    with pytest.raises(DataError, match="40 px"):
        slide.patches("20um")


def test_shuffled_images_are_other_patches_of_the_section(write, images):
    source = source_of(write(images), list(range(PATCHES)))
    slide = Slide("S", np.zeros((PATCHES, 2), int), source.centres, EDGE, source)
    order = np.random.default_rng(3).permutation(PATCHES)
    np.testing.assert_array_equal(slide.with_images_shuffled(3).patches(), images[order])


def test_a_row_that_is_not_there_is_refused(write, images):
    with pytest.raises(DataError, match="holds 7 patches, but row 7"):
        source_of(write(images), [0, PATCHES]).cut(EDGE)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((2, 4, 5, 3), np.uint8), "edge x edge x 3"),
        (np.zeros((2, 4, 4), np.uint8), "edge x edge x 3"),
        (np.zeros((2, 4, 4, 3), np.float32), "float32"),
        (np.zeros((2, 4, 4, 3), np.uint16), "uint16"),
    ],
)
def test_other_data_sets_are_refused(write, values, match):
    with pytest.raises(DataError, match=match):
        source_of(write(values), [0]).cut(4)


def test_a_file_that_is_not_there_is_refused(write, images, tmp_path):
    source = replace(source_of(write(images), [0]), image=tmp_path / "gone.h5")
    with pytest.raises(DataError, match=r"gone\.h5: file is missing"):
        source.cut(EDGE)
