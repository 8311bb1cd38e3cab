"""The fold that speed is measured on: made up, or the first of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.contract.small_fold import as_slide, first_spots
from bench.data.images.patches import PatchSource
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.errors import BenchError
from bench.execute.plan import divide
from bench.files import atomic_write, file_hash
from bench.protocol.fold_data import fold_data
from bench.protocol.rules import find_protocol
from bench.registry import dataset_card

SYNTHETIC = "synthetic"
"""Name of the fold that is made up."""

_PATCHES_A_SIDE = 9
_ARRAY_SIDE = 33
SECTIONS = 4
"""Training sections of the fold that is made up."""


@dataclass(frozen=True)
class SpeedFold:
    """Sections to train on and a slide to predict."""

    training: TrainingData
    slide: Slide


def synthetic_fold(
    folder: Path, *, spots: int, test_spots: int, genes: int, patch_pixels: int, seed: int = 0
) -> SpeedFold:
    """A fold of noise, of the shapes of real data: time does not depend on what pixels show.

    Parameters
    ----------
    folder
        Where the images are written.
    spots, test_spots
        Training spots, dealt to four sections, and spots of the slide.
    genes
        Size of the panel.
    patch_pixels
        Edge of a patch.
    seed
        Of the noise.
    """
    rng = np.random.default_rng(seed)
    sizes = [len(part) for part in np.array_split(np.arange(spots), SECTIONS)]
    sections = [
        _section(folder, f"S{number}", size, genes, patch_pixels, rng)
        for number, size in enumerate((*sizes, test_spots))
        if size
    ]
    panel = tuple(f"G{number}" for number in range(genes))
    return SpeedFold(TrainingData(panel, tuple(sections[:-1])), as_slide(sections[-1]))


def dataset_fold(
    name: str, *, spots: int, test_spots: int, images: bool, data_root: Path | None = None
) -> SpeedFold:
    """The first strict fold of a dataset, cut down to so many spots.

    Raises
    ------
    BenchError
        No such dataset, damaged data, or folds that the protocol cannot make.
    """
    protocol = find_protocol("strict")
    dataset, folds, listed = divide(dataset_card(name), protocol, data_root, images=images)
    fold = folds.folds[0]
    fold = fold.model_copy(update={"test": fold.test[:1]})
    wanted = (*fold.train, *fold.validation, *fold.test)
    data = fold_data(fold, {one: dataset.section(one) for one in wanted}, protocol, listed)
    kept, left = [], spots
    for section in data.training.sections:
        if left > 0:
            kept.append(first_spots(section, left))
            left -= len(kept[-1])
    if sum(map(len, kept)) < 2:
        raise BenchError(f"dataset {name}: fewer than two training spots, nothing to measure")
    slide = first_spots(data.slides[0], test_spots)
    return SpeedFold(TrainingData(data.training.panel, tuple(kept)), slide)


def _section(
    folder: Path, name: str, spots: int, genes: int, edge: int, rng: np.random.Generator
) -> TrainingSection:
    path = folder / f"{name}.png"
    side = _PATCHES_A_SIDE * edge
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    with atomic_write(path) as temporary:
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
