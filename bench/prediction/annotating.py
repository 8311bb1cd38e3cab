"""A prediction as AnnData, with what is known of its genes and spots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.evaluate.uncertainty import PATIENTS_FOR_A_TEST
from bench.files import printable
from bench.prediction.averaging import AveragedPrediction
from bench.prediction.comparing import TrainingComparison
from bench.prediction.gene_reliability import gene_reliability
from bench.prediction.new_image import NewImage
from bench.prediction.spots import ImageSpots
from bench.prediction.stored_models import StoredModel
from bench.prediction.training_images import TrainingImages
from bench.version import __version__

if TYPE_CHECKING:
    from anndata import AnnData

HIRES = 2000
"""Longest edge in pixels of the image copy in ``uns["spatial"]``, as Space Ranger writes it."""


def as_anndata(
    model: StoredModel,
    images: TrainingImages,
    image: NewImage,
    spots: ImageSpots,
    genes: Sequence[str],
    result: AveragedPrediction,
    compared: TrainingComparison,
    notes: Sequence[str],
    min_pcc: float,
) -> AnnData:
    """The AnnData of :func:`bench.prediction.predicting.predict_image`.

    Parameters
    ----------
    model, images
        What predicted.
    image, spots, genes
        What is predicted.
    result, compared
        Predictions, and how familiar the image is.
    notes
        Notes on the image and the spots.
    min_pcc
        PCC from which a gene counts as predictable.
    """
    import pandas as pd
    from anndata import AnnData

    notes = [*notes, *result.notes, *compared.notes]
    unfamiliar, colours = compared.unfamiliar, compared.colours
    var = gene_reliability(model.run, genes, min_pcc)
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
            f" below {min_pcc:g} (var column predictable)"
        )
    patients = model.run.genes()["patient"].nunique()
    if 1 < patients < PATIENTS_FOR_A_TEST:
        notes.append(
            f"the 95 % intervals of the PCC (pcc_low, pcc_high) are over {patients} patients; with"
            f" fewer than {PATIENTS_FOR_A_TEST} they are too narrow"
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
        "min_pcc": float(min_pcc),
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
