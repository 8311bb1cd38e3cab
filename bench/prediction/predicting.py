"""Prediction of an image by a stored run, with what its scores say of the prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.devices import choose_device, choose_precision
from bench.errors import BenchError, DataError, UnknownNameError
from bench.prediction import MIN_PCC
from bench.prediction.annotating import as_anndata
from bench.prediction.arguments import number
from bench.prediction.averaging import average_fits
from bench.prediction.comparing import compare_with_training
from bench.prediction.finished_stripes import FinishedStripes
from bench.prediction.fitted import LARGE_IMAGE
from bench.prediction.new_image import new_image
from bench.prediction.places import system_reason
from bench.prediction.slides import TrainedScale, slide_of_image, takes_micrometres
from bench.prediction.stored_models import FittedFold, StoredModel, find_run, one_fold, stored_model
from bench.prediction.training_images import TrainingImages, training_images
from bench.prediction.watching import PredictionWatcher
from bench.registry import dataset_card

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from bench.method import Context


_SMALLEST_PATCH = 2  # px of a reduced image


def _nothing(text: str) -> None:
    """Progress nobody watches."""


@dataclass(frozen=True)
class PredictionRequest:
    """What is predicted, and by which model; see the options of ``bench predict``.

    Attributes
    ----------
    image
        Image file.
    bundle
        Bundle of a model, in place of a stored run.
    dataset
        Name, or the path of a card.
    method, protocol, run, results
        See :func:`bench.prediction.stored_models.find_run`; `run` is the beginning of a key.
    spots
        See :func:`bench.prediction.spots.spots_of`.
    grid, mask
        Pitch in micrometres of a grid over the tissue, in place of spots; PNG file to which the
        tissue is drawn.
    fold
        Number of the fold whose model predicts; None: the mean of all finished folds.
    refit
        Whether the method is fitted once on all sections; that fit is kept beside the folds.
    um_per_px
        Micrometres a full-resolution pixel; None: not known.
    image_scale
        Pixels of the image file a full-resolution pixel of the spots.
    genes
        Genes in the order of the result; empty: all.
    min_pcc
        PCC from which a gene counts as predictable.
    data_root
        Folder of the dataset's files.
    device, precision
        Where and in what networks compute; precision ``auto`` is that of the fits.
    """

    image: Path
    bundle: Path | None = None
    dataset: str = ""
    method: str = ""
    spots: Path | pd.DataFrame | None = None
    grid: float | None = None
    mask: Path | None = None
    protocol: str | None = None
    run: str | None = None
    results: Path = Path("results")
    fold: int | None = None
    refit: bool = False
    um_per_px: float | None = None
    image_scale: float = 1.0
    genes: tuple[str, ...] = ()
    min_pcc: float = MIN_PCC
    data_root: Path | None = None
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.grid is not None and self.spots is not None:
            raise BenchError("--grid makes spots and --spots reads them; ask for one")
        if self.mask is not None and self.grid is None:
            raise BenchError("--mask draws the tissue that --grid covers; ask for a grid too")
        options = {"um_per_px": "--um-per-px", "image_scale": "--image-scale", "grid": "--grid"}
        for name, option in options.items():
            value = number(option, getattr(self, name))
            if value is not None and not 0 < value < math.inf:
                raise BenchError(f"{option} {value}: must be a finite number above 0")
        if not -1 <= (number("--min-pcc", self.min_pcc) or 0) <= 1:
            raise BenchError(f"--min-pcc {self.min_pcc}: a PCC lies between -1 and 1")
        if self.bundle is not None and (self.dataset or self.method or self.refit):
            raise BenchError(
                f"{self.bundle} is a model: --dataset, --method and --refit choose another one"
            )
        if self.bundle is None and not (self.dataset and self.method):
            raise BenchError("name a model: a bundle before the image, or --dataset and --method")
        if self.refit and self.fold is not None:
            raise BenchError("--refit fits on all sections and --fold names one fit; ask for one")


def predict_image(
    request: PredictionRequest,
    watcher: PredictionWatcher | None = None,
    finished: FinishedStripes | None = None,
) -> AnnData:
    """Predict the expression of an image's spots.

    Parameters
    ----------
    request
        Model, image and spots.
    watcher
        Told how it goes on.
    finished
        Keeps finished stripes of a slide that is read in tiles, so that a call that was ended can
        go on; the caller lets it forget them once the result is written. None: they are forgotten
        when the prediction is complete.

    Returns
    -------
    AnnData
        ``X``: (spots, genes) float32 on the target scale of the run's protocol. ``layers``:
        ``fold_sd``, the standard deviation over folds (n - 1; NaN where fewer than two have the
        gene). ``var``: columns of :func:`gene_reliability`, and ``folds``, the number of fits that
        have the gene. ``obs``: array coordinates, ``ood_score`` and ``ood``.
        ``obsm["spatial"]``: full-resolution pixel (x, y). ``uns["spatial"]``: image and scale
        factors; ``uns["spotbench"]``: model, settings and notes.

    Raises
    ------
    BenchError
        The model, the image or the spots cannot be used; the message says why.
    """
    watcher = watcher or PredictionWatcher()
    kept = finished or FinishedStripes()
    with opened_model(request, watcher.say) as (model, images):
        adata = _predicted(request, model, images, watcher, kept)
    if finished is None:
        kept.forget()
    return adata


@contextmanager
def opened_model(
    request: PredictionRequest, say: Callable[[str], None] = _nothing
) -> Iterator[tuple[StoredModel, TrainingImages]]:
    """The model of a request, and what is known of its training images.

    Raises
    ------
    BenchError
        As :func:`predict_image`.
    """
    if request.bundle is not None:
        from bench.prediction.bundle import open_bundle

        with open_bundle(request.bundle) as (model, images):
            yield (model if request.fold is None else one_fold(model, request.fold)), images
        return
    card = dataset_card(request.dataset)
    run = find_run(request.results, card.name, request.method, request.protocol, request.run)
    model = stored_model(run, request.method, request.fold)
    if request.refit:
        from bench.prediction.refit import final_model

        model = final_model(model, card, request.data_root, choose_device(request.device), say)
    yield model, training_images(card, model, request.data_root)


def _predicted(
    request: PredictionRequest,
    model: StoredModel,
    images: TrainingImages,
    watcher: PredictionWatcher,
    finished: FinishedStripes,
) -> AnnData:
    device = choose_device(request.device)
    largest = max(images.card.max_image_pixels, LARGE_IMAGE)
    image = new_image(request.image, largest, request.um_per_px, request.image_scale)
    spots, tissue = image.spots(request.spots, request.grid)
    chosen = _chosen_genes(model, request.genes)
    micrometres = takes_micrometres([fit.config for fit in model.fits])
    patch = images.card.patch_pixels
    scale = TrainedScale(model.label, patch, micrometres, images.scales())
    slide, notes = slide_of_image(image, spots, scale)
    for fit in model.fits:
        _check_reduction(request, slide.patch_edges(fit.config.get("patch_size"))[0])
    if (twin := images.section_with(image.path)) in model.sections:
        notes.append(f"the image is that of training section {twin}: this is no unseen tissue")
    if tissue is not None and request.mask is not None:
        try:
            tissue.write_picture(request.mask)
        except OSError as error:
            reason = system_reason(error)
            raise DataError(f"--mask {request.mask}: cannot be written ({reason})") from error
    contexts = {fit.name: context_of(request, model, fit, device) for fit in model.fits}
    names = ", ".join(fit.name for fit in model.fits)
    watcher.say(f"predicting {len(slide):,} spots with {names} of {model.label}")
    result = average_fits(model, slide, contexts, chosen, watcher, finished)
    watcher.say("comparing the image with the training images")
    compared = compare_with_training(model, images, slide, contexts[model.fits[0].name])
    notes += spots.notes
    return as_anndata(model, images, image, spots, chosen, result, compared, notes, request.min_pcc)


def _check_reduction(request: PredictionRequest, edge: int) -> None:
    """Refuse a reduced image in which a patch is too small to be cut."""
    if (pixels := edge * request.image_scale) < _SMALLEST_PATCH and request.image_scale < 1:
        raise BenchError(
            f"--image-scale {request.image_scale:g}: patches of {edge} px are {pixels:.2g} px of"
            f" {request.image}; --image-scale must be {_SMALLEST_PATCH / edge:.2g} or more"
        )


def _chosen_genes(model: StoredModel, asked: Sequence[str]) -> tuple[str, ...]:
    known = set(model.genes)
    for gene in asked:
        if gene not in known:
            raise UnknownNameError(f"gene of {model.label}", gene, known)
    return tuple(dict.fromkeys(asked)) or model.genes


def context_of(
    request: PredictionRequest, model: StoredModel, fit: FittedFold, device: str
) -> Context:
    """Seed of the run, and the precision asked for or that of the fit."""
    from bench.method import Context

    auto = request.precision == "auto"
    precision = fit.precision if auto else choose_precision(request.precision, device)
    return Context(seed=int(model.run.facts["seed"]), device=device, precision=precision)
