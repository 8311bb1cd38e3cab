"""A fold of noise with the shapes of real data: time does not depend on what pixels show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.contract.small_fold import as_slide
from bench.data.images.patches import PatchSource
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.files import atomic_write, file_hash

SECTIONS = 4
"""Training sections."""

_PATCHES_A_SIDE = 9
_ARRAY_SIDE = 33


@dataclass(frozen=True)
class SpeedFold:
    """Sections to train on and a slide to predict."""

    training: TrainingData
    slide: Slide


def synthetic_fold(
    folder: Path, *, spots: int, test_spots: int, genes: int, patch_pixels: int
) -> SpeedFold:
    """Training spots in four sections and a slide; images are written to `folder`."""
    rng = np.random.default_rng(0)
    sizes = [len(part) for part in np.array_split(np.arange(spots), SECTIONS)]
    sections = [
        _section(folder, f"S{number}", size, genes, patch_pixels, rng)
        for number, size in enumerate((*sizes, test_spots))
    ]
    panel = tuple(f"G{number}" for number in range(genes))
    return SpeedFold(TrainingData(panel, tuple(sections[:-1])), as_slide(sections[-1]))


def synthetic_slide(folder: Path, name: str, *, spots: int, patch_pixels: int) -> Slide:
    """A slide of noise that has no expression; names that differ have other spots."""
    rng = np.random.default_rng(list(name.encode()))
    return as_slide(_section(folder, name, spots, 1, patch_pixels, rng))


def _section(
    folder: Path, name: str, spots: int, genes: int, edge: int, rng: np.random.Generator
) -> TrainingSection:
    path = folder / f"{name}.png"
    side = _PATCHES_A_SIDE * edge
    with atomic_write(path) as temporary:
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(temporary, compress_level=0)
    spatial = rng.uniform(edge / 2, side - edge / 2, (spots, 2))
    counts = rng.poisson(2.0, (spots, genes)).astype(np.float32)
    scaled = np.log1p(counts)
    return TrainingSection(
        name=name,
        array_xy=rng.integers(0, _ARRAY_SIDE, (spots, 2)),
        spatial=spatial,
        patch_pixels=edge,
        patch_source=PatchSource(path, f"sha256:{file_hash(path)}", side * side, spatial),
        micrometres_per_pixel=0.5,
        patient=name,
        expression=scaled,
        target=scaled.copy(),
        counts=counts,
    )
