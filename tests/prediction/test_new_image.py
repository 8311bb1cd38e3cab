"""Images that cannot be read or whose pixel size is not known: what is wrong is named."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tifffile

from bench.errors import DataError
from bench.prediction.bundle import check_bundle
from bench.prediction.new_image import new_image
from tests.cli.tiny_dataset import assert_refused, call

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def opened(path):
    return new_image(path, 10**9, None, 1.0)


def test_what_is_no_file_is_said_to_be_that(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is a pipe, and an image is a file"):
        opened(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a folder, and an image is a file"):
        opened(tmp_path)
    with pytest.raises(DataError, match="image is missing"):
        opened(tmp_path / "absent.tif")
    with pytest.raises(DataError, match="pipe: is a pipe; name a bundle"):
        check_bundle(tmp_path / "pipe")


@pytest.mark.parametrize("held", [8, 15])
def test_a_tiff_that_is_cut_off_is_damaged(tmp_path, held):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", compression="lzw")
    path.write_bytes(path.read_bytes()[:held])
    with pytest.raises(DataError, match=r"cut\.tif: image is damaged or cut off"):
        opened(path)


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.9}, "unequal sides, 0.5 x 0.9 um"),
        (
            {"PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeXUnit": "pixel"},
            "state '1.* pixel', which is no length",
        ),
        ({"PhysicalSizeX": 1e9, "PhysicalSizeY": 1e9}, "which is implausible"),
        ({}, "its pixel size is not known, which a grid needs"),
    ],
)
def test_a_pixel_size_that_is_not_taken_is_told_with_the_reason(tmp_path, sides, words):
    path = tmp_path / "slide.ome.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata={"axes": "YXS", **sides})
    with pytest.raises(DataError, match=words):
        opened(path).spots(None, 50.0)


def test_an_image_that_is_reduced_too_far_is_refused_by_the_option(ridge, tmp_path):
    ridge.spots("A1", tmp_path / "spots.csv")
    answer = call(
        *("predict", ridge.image("A1"), *ridge.model, "--method", "ridge", "--image-scale", "1e-9"),
        *("--spots", tmp_path / "spots.csv", "--out", tmp_path / "out.csv"),
    )
    assert_refused(answer, "--image-scale 1e-09: patches of", "--image-scale must be")
    assert not (tmp_path / "out.csv").exists()
