"""The benchmark of whole slides on a small one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.data.images.tissue import find_tissue
from bench.data.images.whole_slide import open_slide
from benchmarks.whole_slide import write_slide

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("reader", ["tifffile", "openslide"])
def test_the_slide_is_one_of_aperio_with_an_ellipse_of_tissue(tmp_path, reader):
    if reader == "openslide":
        pytest.importorskip("openslide", reason="pip install 'spotbench[slides]'")
    path = tmp_path / "slide.svs"
    write_slide(path, 8000, 6000)
    with open_slide(path, reader=reader) as slide:
        assert (slide.width, slide.height, slide.micrometres_per_pixel) == (8000, 6000, 0.25)
        assert [level.reduction for level in slide.levels] == [1, 4, 16, 64]
        mask = find_tissue(slide)
    assert mask.share == pytest.approx(np.pi * 0.36 * 0.22, rel=0.1)


@pytest.mark.slow
def test_seconds_memory_and_the_share_beyond_the_encoder_are_printed():
    command = [
        sys.executable, "-m", "benchmarks.whole_slide", "--width", "8000", "--height", "6000",
        "--encoder", "test_resnet", "--image-size", "32", "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["size"] == [8000, 6000]
    assert 50 < found["tiles"] < 150
    assert found["seconds_of_features"] > 0
    assert found["beyond_encoder"] > -1
    assert found["peak_memory_mb"] > 50
