"""What a logged model of MLflow holds beside the files of the method: the members of a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data.card import DatasetCard
from bench.errors import BenchError
from bench.prediction.bundle_writing import BundleMembers, bundle_members
from bench.prediction.stored_models import StoredModel, stored_model
from bench.prediction.training_images import TrainingImages, TrainingPatches, training_images
from bench.registry import find_methods
from bench.store import MODEL
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    from bench.data.inputs import Slide


@dataclass(frozen=True)
class DatasetOnHand:
    """The dataset of runs, as far as it is on this machine.

    Attributes
    ----------
    card
        Its card.
    data_root
        Folder of its files; None: the default one.
    read
        Sections that have been looked at, so that each is read once for all folds.
    """

    card: DatasetCard
    data_root: Path | None = None
    read: dict[str, Slide] = field(default_factory=dict, repr=False, compare=False)


def fold_bundle(run: StoredRun, index: int, data: DatasetOnHand) -> BundleMembers:
    """The members of a bundle of one fold, whose scores are those of its own test sections.

    Nothing is computed for it: training patches are described by the features that the fit has
    left in the cache.

    Raises
    ------
    BenchError
        The method looks at no image, is a file of the user's own, or has saved what may hold code.
    """
    if run.facts["method"] not in find_methods():
        raise BenchError(f"{run.facts['label']} is a method of a file")
    model = stored_model(replace(run, done=(index,)), run.facts["method"], index)
    images = replace(training_images(data.card, model, data.data_root), read=data.read)
    device = str(run.folder.fold(index).facts()["device"])
    return bundle_members(model, images, _described(model, images, device), (MODEL,))


def _described(model: StoredModel, images: TrainingImages, device: str) -> TrainingPatches:
    from bench.method import Context

    (fit,) = model.fits
    context = Context(seed=int(model.run.facts["seed"]), device=device, precision=fit.precision)
    try:
        return images.stored_reference(model, model.kind.Config.model_validate(fit.config), context)
    except (BenchError, OSError) as error:
        return TrainingPatches([], [], "", [], str(error))
