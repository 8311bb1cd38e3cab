"""Comparison of a new image with the training images of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.prediction.new_image import stripes
from bench.prediction.stored_models import StoredModel
from bench.prediction.training_images import TrainingImages
from bench.prediction.unfamiliar import (
    FAR_SHARE,
    QUANTILE,
    Distances,
    PatchStatistics,
    Stain,
    described_patches,
    distances,
    patch_statistics,
    stain,
)

if TYPE_CHECKING:
    from bench.data.inputs import Slide
    from bench.method import Context


@dataclass(frozen=True)
class TrainingComparison:
    """How far a new image is from those of the training.

    Attributes
    ----------
    notes
        What is unusual, or why nothing was compared.
    unfamiliar, colours
        Distances and colours; None where they cannot be compared.
    """

    notes: list[str]
    unfamiliar: Distances | None = None
    colours: Stain | None = None


def compare_with_training(
    model: StoredModel, images: TrainingImages, slide: Slide, context: Context
) -> TrainingComparison:
    """Distances of an image's patches and colours from those of the training.

    Raises
    ------
    BenchError
        An image or weights that cannot be read.
    """
    config = model.kind.Config.model_validate(model.fits[0].config)
    known = images.reference(model, config, context)
    if known.reason:
        return TrainingComparison([f"no comparison with the training images: {known.reason}"])
    parts = list[tuple[np.ndarray, PatchStatistics, np.ndarray]]()
    for rows, part in stripes(slide, model.kind.reads_section):
        (described,), what = described_patches([part], config, context)
        statistics = patch_statistics(part, config)
        parts.append((rows, statistics, described))
    order = np.argsort(np.concatenate([rows for rows, _, _ in parts]))
    own = PatchStatistics(np.concatenate([of.values for _, of, _ in parts])[order])
    colours = stain(own, known.statistics) if known.statistics else None
    notes = [text] if colours is not None and (text := colours.mismatch()) else []
    described = np.concatenate([values for _, _, values in parts])[order]
    unfamiliar = distances(described, known.described, known.groups)
    if unfamiliar is None:
        notes.append("no out-of-distribution score: it needs two training sections")
        return TrainingComparison(notes, None, colours)
    far = int((unfamiliar.scores > 1).sum())
    if far > FAR_SHARE * len(slide):
        notes.append(
            f"{far} of {len(slide)} patches are unlike the training's: their {what} lie beyond the"
            f" {100 * QUANTILE:.0f}th percentile of the training's own distances (obs column ood)"
        )
    return TrainingComparison(notes, unfamiliar, colours)
