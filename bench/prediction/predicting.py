"""Prediction of an image by a stored run, with what its scores say of the prediction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.scales import matching_scale
from bench.devices import choose_device, choose_precision
from bench.errors import BenchError, DataError, UnknownNameError
from bench.files import printable
from bench.prediction import MIN_PCC
from bench.prediction.fitted import LARGE_IMAGE, predict_slide
from bench.prediction.gene_reliability import gene_reliability
from bench.prediction.new_image import NewImage, new_image, stripes
from bench.prediction.spots import ImageSpots
from bench.prediction.stored_models import FittedFold, StoredModel, find_run, one_fold, stored_model
from bench.prediction.training_images import TrainingImages, training_images
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
from bench.registry import dataset_card
from bench.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from bench.data.inputs import Slide
    from bench.method import Context, Method

HIRES = 2000
"""Longest edge in pixels of the image copy in ``uns["spatial"]``, as Space Ranger writes it."""


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
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BenchError(f"{option} {value}: must be a finite number above 0")
        if not -1 <= self.min_pcc <= 1:
            raise BenchError(f"--min-pcc {self.min_pcc}: a PCC lies between -1 and 1")
        if self.bundle is not None and (self.dataset or self.method or self.refit):
            raise BenchError(
                f"{self.bundle} is a model: --dataset, --method and --refit choose another one"
            )
        if self.bundle is None and not (self.dataset and self.method):
            raise BenchError("name a model: a bundle before the image, or --dataset and --method")
        if self.refit and self.fold is not None:
            raise BenchError("--refit fits on all sections and --fold names one fit; ask for one")


@dataclass
class _Result:
    """Mean and spread over fits, with what was noted on the way."""

    mean: np.ndarray
    spread: np.ndarray
    fits: np.ndarray
    notes: list[str] = field(default_factory=list)


def predict_image(request: PredictionRequest, say: Callable[[str], None] = _nothing) -> AnnData:
    """Predict the expression of an image's spots.

    Parameters
    ----------
    request
        Model, image and spots.
    say
        Told what is being done.

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
    with opened_model(request, say) as (model, images):
        return _predicted(request, model, images, say)


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
    say: Callable[[str], None],
) -> AnnData:
    device = choose_device(request.device)
    largest = max(images.card.max_image_pixels, LARGE_IMAGE)
    image = new_image(request.image, largest, request.um_per_px, request.image_scale)
    spots, tissue = image.spots(request.spots, request.grid)
    chosen = _chosen_genes(model, request.genes)
    slide, notes = _slide(image, model, images, spots)
    if tissue is not None and request.mask is not None:
        tissue.write_picture(request.mask)

    contexts = {fit.name: context_of(request, model, fit, device) for fit in model.fits}
    result = _predictions(model, slide, contexts, chosen, say)
    say("comparing the image with the training images")
    told, unfamiliar, colours = _compared(model, images, slide, contexts[model.fits[0].name])
    notes += [*spots.notes, *result.notes, *told]
    return _as_anndata(
        request, image, model, images, spots, chosen, result, unfamiliar, colours, notes
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


def _slide(
    image: NewImage,
    model: StoredModel,
    images: TrainingImages,
    spots: ImageSpots,
) -> tuple[Slide, list[str]]:
    """The image as methods see it, at the scale of the training, and notes on its scale."""
    from bench.data.inputs import Slide

    notes, scale, factor = [], image.micrometres_per_pixel, 1.0
    if image.from_metadata:
        notes.append(f"the pixel size, {scale:.4g} um, is that of the image's metadata")
    in_um = any(str(fit.config.get("patch_size")).endswith("um") for fit in model.fits)
    if scale is None and in_um:
        raise DataError(
            f"{image.path}: its pixel size is not known, and {model.label} takes patches in"
            " micrometres; give --um-per-px"
        )
    if scale is None:
        notes.append("the pixel size is not known: it is taken to be that of the training images")
    elif not (known := images.scales()):
        notes.append("the scale of the training images is not known here, and is not compared")
    elif (same := matching_scale(known, scale)) is not None:
        factor = scale / same
        notes.append(
            f"scale mismatch: the image has {scale:.4g} um a pixel; patches are resampled to the"
            f" {same:.4g} um of the training images"
        )
        scale = same
    centres = spots.spatial if factor == 1.0 else spots.spatial * factor
    source = image.source(centres, factor)
    if (twin := images.section_with(image.path)) in model.sections:
        notes.append(f"the image is that of training section {twin}: this is no unseen tissue")
    slide = Slide(
        name=image.path.stem,
        array_xy=spots.array_xy,
        spatial=centres,
        patch_pixels=images.card.patch_pixels,
        patch_source=source,
        micrometres_per_pixel=scale,
    )
    return slide, notes


def _predictions(
    model: StoredModel,
    slide: Slide,
    contexts: dict[str, Context],
    genes: Sequence[str],
    say: Callable[[str], None],
) -> _Result:
    """Mean over the fits that have a gene, by Welford's sums."""
    shape = (len(slide), len(genes))
    mean, squares = np.zeros(shape), np.zeros(shape)
    fits = np.zeros(len(genes), dtype=np.int64)
    notes: list[str] = []
    fitted: list[tuple[FittedFold, Method, np.ndarray, np.ndarray]] = []
    for fit in model.fits:
        places = {gene: number for number, gene in enumerate(fit.panel)}
        here = np.array([number for number, gene in enumerate(genes) if gene in places], dtype=int)
        columns = np.array([places[genes[number]] for number in here], dtype=int)
        fitted.append((fit, fit.load(model.kind), here, columns))
    done = 0
    for rows, part in stripes(slide, model.kind.reads_section):
        fits[:] = 0
        for fit, method, here, columns in fitted:
            if len(rows) == len(slide):
                say(f"predicting with {fit.name} of {model.label}")
            values = predict_slide(method, part, fit.panel, contexts[fit.name])
            fits[here] += 1
            cells = np.ix_(rows, here)
            before = values[:, columns].astype(np.float64) - mean[cells]
            mean[cells] += before / fits[here]
            squares[cells] += before * (values[:, columns] - mean[cells])
        done += len(rows)
        if len(rows) < len(slide):
            say(f"predicted {done:,} of {len(slide):,} spots with {model.label}")
    for fit in model.fits:
        notes += contexts[fit.name].notes
    spread = np.full(shape, np.nan)
    several = fits > 1
    spread[:, several] = np.sqrt(squares[:, several] / (fits[several] - 1))
    return _Result(mean, spread, fits, list(dict.fromkeys(notes)))


def _compared(
    model: StoredModel, images: TrainingImages, slide: Slide, context: Context
) -> tuple[list[str], Distances | None, Stain | None]:
    """Notes on unfamiliar patches and colours, the distances, and the colours."""
    config = model.kind.Config.model_validate(model.fits[0].config)
    known = images.reference(model, config, context)
    if known.reason:
        return [f"no comparison with the training images: {known.reason}"], None, None
    parts = list[tuple[np.ndarray, PatchStatistics, np.ndarray]]()
    for rows, part in stripes(slide, model.kind.reads_section):
        (described,), what = described_patches([part], config, context)
        statistics = patch_statistics(part, config)
        parts.append((rows, statistics, described))
    order = np.argsort(np.concatenate([rows for rows, _, _ in parts]))
    own = PatchStatistics(np.concatenate([of.values for _, of, _ in parts])[order])  # noqa: PD011
    colours = stain(own, known.statistics)
    notes = [text] if (text := colours.mismatch()) else []
    described = np.concatenate([values for _, _, values in parts])[order]
    unfamiliar = distances(described, known.described, known.groups)
    if unfamiliar is None:
        notes.append("no out-of-distribution score: it needs two training sections")
        return notes, None, colours
    far = int((unfamiliar.scores > 1).sum())
    if far > FAR_SHARE * len(slide):
        notes.append(
            f"{far} of {len(slide)} patches are unlike the training's: their {what} lie beyond the"
            f" {100 * QUANTILE:.0f}th percentile of the training's own distances (obs column ood)"
        )
    return notes, unfamiliar, colours


def _as_anndata(
    request: PredictionRequest,
    image: NewImage,
    model: StoredModel,
    images: TrainingImages,
    spots: ImageSpots,
    genes: tuple[str, ...],
    result: _Result,
    unfamiliar: Distances | None,
    colours: Stain | None,
    notes: list[str],
) -> AnnData:
    import pandas as pd
    from anndata import AnnData

    var = gene_reliability(model.run, genes, request.min_pcc)
    var["folds"] = result.fits
    facts = model.run.facts
    if facts["rules"]["split"] != "patient":
        notes.append(
            f"protocol {facts['protocol']} does not divide by patient: the scores in var may not"
            " hold for a new patient"
        )
    if low := int((~var["predictable"]).sum()):
        notes.append(
            f"{low} of {len(genes)} genes are not predictable: their PCC on unseen sections is"
            f" below {request.min_pcc:g} (var column predictable)"
        )
    scores = np.full(len(spots), np.nan) if unfamiliar is None else unfamiliar.scores
    obs = pd.DataFrame(
        {
            "array_row": spots.array_xy[:, 1],
            "array_col": spots.array_xy[:, 0],
            "in_tissue": np.ones(len(spots), dtype=np.int64),
            "ood_score": scores,
            "ood": scores > 1,
        },
        index=pd.Index(spots.names, dtype=object),
    )
    about: dict[str, Any] = {
        "version": __version__,
        "dataset": facts["dataset"],
        "protocol": facts["protocol"],
        "method": model.label,
        "run": facts["key"],
        "fits": ", ".join(fit.name for fit in model.fits),
        "preset": facts["preset"],
        "seed": int(facts["seed"]),
        "target": json.dumps(facts["rules"]["target"]),
        "min_pcc": float(request.min_pcc),
        "notes": "\n".join(notes),
    }
    if image.micrometres_per_pixel is not None:
        about["micrometres_per_pixel"] = float(image.micrometres_per_pixel)
    if colours is not None:
        about["stain"] = {name: np.asarray(value) for name, value in vars(colours).items()}
    layers = {"fold_sd": result.spread.astype(np.float32)} if len(model.fits) > 1 else {}
    return AnnData(
        X=result.mean.astype(np.float32),
        obs=obs,
        var=var,
        layers=layers,
        obsm={"spatial": spots.spatial},
        uns={"spatial": _picture(image, images), "spotbench": about},
    )


def _picture(image: NewImage, images: TrainingImages) -> dict[str, Any]:
    """``uns["spatial"]`` in the form of Space Ranger, which scanpy and squidpy draw."""
    card, known = images.card, images.scales()
    small, scale = image.thumbnail(HIRES)
    um = image.micrometres_per_pixel or (float(np.median(known)) if known else 1.0)
    factors = {
        # Of full-resolution pixels, as obsm["spatial"] is.
        "tissue_hires_scalef": float(scale * image.image_scale),
        "spot_diameter_fullres": float(card.spot_diameter_micrometres / um),
    }
    if image.micrometres_per_pixel is not None:
        factors["microns_per_pixel"] = float(image.micrometres_per_pixel)
    return {
        printable(image.path.stem): {
            "images": {"hires": np.asarray(small.convert("RGB"))},
            "scalefactors": factors,
            "metadata": {"source_image_path": printable(str(image.path))},
        }
    }
