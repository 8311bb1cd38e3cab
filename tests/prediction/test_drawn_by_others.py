"""Predictions and exports are drawn by scanpy, squidpy and spatialdata-plot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from tests.cli.tiny_dataset import call
from tests.conftest import REPOSITORY

SCRIPT = Path(__file__).with_name("drawn_by_others.py")
PICTURES = (
    *("scanpy-prediction", "squidpy-prediction", "scanpy-export-X", "scanpy-export-truth"),
    *("squidpy-export", "spatialdata-global", "spatialdata-micrometres"),
)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Interpreter of a new environment with squidpy, scanpy and spatialdata-plot."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*install, "squidpy", "spatialdata-plot"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("squidpy and spatialdata-plot cannot be installed here")
    return python


def spot_colours(path):
    """Number of colours of viridis that fill 20 pixels or more: those of the image do not."""
    with Image.open(path) as image:
        colours, counts = np.unique(
            np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0, return_counts=True
        )
    viridis = {tuple(colour) for colour in colormaps["viridis"](range(256), bytes=True)[:, :3]}
    return sum(tuple(colour) in viridis for colour in colours[counts >= 20])


@pytest.mark.slow
def test_others_draw_predictions_and_exports(python, ridge, tmp_path):
    ridge.spots("A1", tmp_path / "spots.csv")
    given = ("--spots", tmp_path / "spots.csv", "--um-per-px", ridge.scale("A1"))
    for command in (
        ("predict", ridge.image("A1"), *given, "--out", tmp_path / "prediction.h5ad"),
        ("export", "--out", tmp_path / "export.h5ad"),
    ):
        done = call(*command, *ridge.model, "--method", "ridge")
        assert done.status == 0, done.stderr
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    drawn = subprocess.run(
        [
            *(python, SCRIPT, tmp_path / "prediction.h5ad"),
            *(tmp_path / "export.h5ad", "GENE1", pictures),
        ],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert drawn.returncode == 0, drawn.stderr
    colours = {name: spot_colours(pictures / f"{name}.png") for name in PICTURES}
    assert min(colours.values()) > 2, colours
