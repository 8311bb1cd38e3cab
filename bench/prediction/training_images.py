"""Images that a model was fitted on: their scale, their patches, their hashes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.data.card import DatasetCard
from bench.data.dataset import Dataset, open_dataset
from bench.data.inputs import Slide
from bench.errors import DataError
from bench.prediction.stored_models import StoredModel
from bench.protocol.fold_data import slide_of

LARGEST_FACTOR = 4.0
"""Factor between a new image's scale and the training's beyond which a prediction is refused."""

SAME_SCALE = 0.01
"""Relative difference within which two scales are one."""


@dataclass(frozen=True)
class TrainingImages:
    """The dataset of a run, as far as it is on this machine.

    Attributes
    ----------
    card
        Its card.
    names
        Sections of the run's finished folds, test sections included.
    dataset
        Those of them that have images; None where none is here.
    reason
        Why they are not; empty where they are.
    """

    card: DatasetCard
    names: tuple[str, ...]
    dataset: Dataset | None
    reason: str = ""

    def slides(self, names: tuple[str, ...]) -> list[Slide]:
        """Images and coordinates of sections, those with an image alone."""
        if self.dataset is None:
            return []
        slides = [slide_of(self.dataset.section(n)) for n in names if n in self.dataset.hashes]
        return [slide for slide in slides if slide.patch_source is not None]

    def patients(self, names: tuple[str, ...]) -> list[str]:
        """Patient of each section."""
        return [self.card.section(name).patient for name in names]

    def scales(self) -> list[float]:
        """Micrometres a full-resolution pixel of the sections, as far as known."""
        known = []
        for name in self.names:
            scale = self.card.scale(self.card.section(name))
            if scale is None and self.dataset is not None and name in self.dataset.hashes:
                scale = self.dataset.section(name).micrometres_per_pixel
            known.append(scale)
        return [scale for scale in known if scale is not None]

    def section_with(self, image_hash: str) -> str | None:
        """Name of the section that has this very image."""
        if self.dataset is None:
            return None
        for name, roles in self.dataset.hashes.items():
            if roles.get("image") == image_hash:
                return name
        return None


def training_images(
    card: DatasetCard, model: StoredModel, data_root: Path | None
) -> TrainingImages:
    """Open the dataset of a run, if it is on this machine.

    Parameters
    ----------
    card
        Card of the dataset.
    model
        Model whose sections are asked for.
    data_root
        Folder of the dataset's files.
    """
    folds = [model.run.fold_facts(index) for index in model.run.done]
    roles = ("train", "validation", "test")
    names = tuple(dict.fromkeys(name for fold in folds for role in roles for name in fold[role]))
    try:
        dataset = open_dataset(card, data_root, images=True, names=names)
    except DataError as error:
        return TrainingImages(card, names, None, str(error))
    return TrainingImages(card, names, dataset)


def matching_scale(known: list[float], new: float) -> float | None:
    """Scale that a new image is brought to: None where it is of the training's own.

    Parameters
    ----------
    known
        Micrometres a pixel of the training sections.
    new
        Of the new image.

    Returns
    -------
    float or None
        The nearest of the training scales, which methods then see; None where `new` lies within
        their range.

    Raises
    ------
    DataError
        It is beyond four times the training's.
    """
    if not known:
        return None
    low, high = min(known), max(known)
    if low * (1 - SAME_SCALE) <= new <= high * (1 + SAME_SCALE):
        return None
    nearest = low if new < low else high
    if max(new / nearest, nearest / new) > LARGEST_FACTOR:
        raise DataError(
            f"the image has {new:.3g} um a pixel and the training sections have"
            f" {low:.3g} to {high:.3g}: beyond {LARGEST_FACTOR:.0f} times, the same tissue looks"
            " like another; take an image of a similar magnification"
        )
    return nearest
