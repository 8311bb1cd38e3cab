"""Images that a model was fitted on: their scale, their patches, their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.data.card import DatasetCard
from bench.data.dataset import Dataset, open_dataset
from bench.data.inputs import Slide
from bench.errors import DataError
from bench.files import file_hash
from bench.prediction.stored_models import StoredModel
from bench.prediction.unfamiliar import described_patches, drawn_patches, patch_statistics
from bench.protocol.fold_data import slide_of

if TYPE_CHECKING:
    from bench.method import Context, MethodConfig


@dataclass(frozen=True)
class TrainingPatches:
    """Training patches that new ones are compared with.

    Attributes
    ----------
    statistics
        (patches, 8) arrays of :class:`bench.prediction.unfamiliar.PatchStatistics`.
    described, what
        (patches, values) array a section of what patches are compared by, and its name.
    groups
        Patient of each section, or the section where there is one patient.
    reason
        Why there is nothing to compare with; empty where there is.
    """

    statistics: list[np.ndarray]
    described: list[np.ndarray]
    what: str
    groups: list[str]
    reason: str = ""


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

    def image_hash(self, name: str) -> str | None:
        """Hash of a section's image; None where it is not here."""
        return None if self.dataset is None else self.dataset.hashes.get(name, {}).get("image")

    def reference(
        self, model: StoredModel, config: MethodConfig, context: Context
    ) -> TrainingPatches:
        """What new patches are compared with: at most 5,000 of the training, drawn from all.

        Raises
        ------
        BenchError
            An image or weights that cannot be read.
        """
        training = self.slides(model.sections)
        if not training:
            reason = self.reason or "none of its sections has an image here"
            return TrainingPatches([], [], "", [], reason)
        statistics = [patch_statistics(part, config).values for part in training]
        described, what = described_patches(training, config, context)
        patients = self.patients(tuple(part.name for part in training))
        groups = patients if len(set(patients)) > 1 else [part.name for part in training]
        return TrainingPatches(statistics, drawn_patches(described), what, groups)

    def section_with(self, image: Path) -> str | None:
        """Name of the section that has this very image."""
        if self.dataset is None:
            return None
        known = {n: of["image"] for n, of in self.dataset.hashes.items() if "image" in of}
        return same_file(image, known)


def same_file(path: Path, hashes: Mapping[str, str]) -> str | None:
    """First name whose hash, ``algorithm:hex``, is that of a file; None where there is none."""
    own: dict[str, str] = {}
    for name, stated in hashes.items():
        algorithm = stated.partition(":")[0]
        if algorithm not in own:
            own[algorithm] = f"{algorithm}:{file_hash(path, algorithm)}"
        if own[algorithm] == stated:
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
    # Test sections of another dataset are not in the card.
    tested = () if "test_dataset" in model.run.facts else ("test",)
    roles = ("train", "validation", *tested)
    names = tuple(dict.fromkeys(name for fold in folds for role in roles for name in fold[role]))
    try:
        dataset = open_dataset(card, data_root, images=True, names=names)
    except DataError as error:
        return TrainingImages(card, names, None, str(error))
    return TrainingImages(card, names, dataset)
