"""Stored predictions of a run as one AnnData that scanpy and squidpy draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.images.image import open_image
from bench.data.pitch import spot_pitch
from bench.errors import BenchError, DataError
from bench.files import atomic_write, one_line
from bench.prediction import MIN_PCC
from bench.prediction.gene_reliability import gene_reliability
from bench.prediction.places import check_place, system_reason
from bench.prediction.stored_models import find_run
from bench.registry import dataset_card
from bench.report.packing import pitch
from bench.report.page_maps import STORED_IMAGE_PIXELS
from bench.report.section_maps import stored_image
from bench.stored_runs import StoredRun, stored_runs
from bench.version import __version__

if TYPE_CHECKING:
    from anndata import AnnData

    from bench.data.card import DatasetCard
    from bench.prediction.predicting import PredictionRequest

LIBRARY = "library_id"
"""Column of ``obs`` with the key of a spot's section in ``uns["spatial"]``."""


def _nothing(text: str) -> None:
    """Notes nobody reads."""


def export_predictions(
    request: PredictionRequest, path: Path, say: Callable[[str], None] = _nothing
) -> None:
    """Write the stored predictions of a run into one ``.h5ad`` file.

    Parameters
    ----------
    request
        Run, and one of its folds; its image is not looked at.
    path
        File that is written.
    say
        Told what is missing in it.

    Raises
    ------
    BenchError
        No such run, a fit on all sections is asked for, or a file that cannot be read or written.
    """
    if request.refit:
        raise BenchError("--refit: the fit on all sections has no test sections to export")
    check_place("--out", path)
    card = dataset_card(request.dataset)
    run = find_run(
        *(request.results, card.name, request.method, request.protocol, request.run),
        with_model=False,
    )
    adata = stored_predictions(run, card, request.fold)
    for note in adata.uns["spotbench"]["notes"].splitlines():
        say(f"note: {note}")
    try:
        with atomic_write(path) as temporary:
            adata.write_h5ad(temporary, compression="lzf")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({system_reason(error)})") from error


def stored_predictions(run: StoredRun, card: DatasetCard, fold: int | None = None) -> AnnData:
    """Predictions of all test sections of a run.

    Parameters
    ----------
    run
        A run with finished folds.
    card
        Card of its dataset.
    fold
        Number of one fold; None: all that are finished.

    Returns
    -------
    AnnData
        ``X`` and ``layers["truth"]``: (spots, genes) float32 predictions and measured expression
        on the target scale of the protocol; NaN where the panel of a fold lacks the gene. ``var``:
        columns of :func:`gene_reliability`, and ``folds``, the number of panels that have the gene.
        ``obs``: section, patient, fold and ``library_id``, the section's key in
        ``uns["spatial"]``. Images are the small copies in the results folder.

    Raises
    ------
    BenchError
        The fold is not finished, or its file cannot be read.
    """
    import anndata
    import pandas as pd

    if fold is not None and fold not in run.done:
        finished = ", ".join(map(str, run.done))
        raise BenchError(f"{run.facts['label']}: fold {fold} is not finished; finished: {finished}")
    indices = run.done if fold is None else (fold,)
    parts = [_fold(run, index) for index in indices]
    sections = [name for part in parts for name in part.obs["section"].unique()]
    for part, index in zip(parts, indices, strict=True):
        part.obs["fold"] = index
        # A section that several folds test is drawn once for each.
        part.obs[LIBRARY] = [
            f"{name} (fold {index})" if sections.count(name) > 1 else name
            for name in part.obs["section"]
        ]
        part.obs_names = [
            f"{name}_fold{index}" if sections.count(section) > 1 else name
            for name, section in zip(part.obs_names, part.obs["section"], strict=True)
        ]
    folds = pd.Series([gene for part in parts for gene in part.var_names]).value_counts()
    heg = pd.concat([part.var for part in parts], axis=1)
    adata = anndata.concat(parts, join="outer", fill_value=np.nan)
    for column in ("section", "patient", "label", LIBRARY):
        adata.obs[column] = pd.Categorical(adata.obs[column].astype(str))
    genes = [str(gene) for gene in adata.var_names]
    var = gene_reliability(run, genes)
    var["folds"] = folds.reindex(genes).to_numpy()
    for column in heg:
        values = heg[column]
        first = values.iloc[:, 0] if values.ndim == 2 else values
        var[column] = first.reindex(genes).fillna(value=False).astype(bool).to_numpy()
    adata.var = var
    adata.uns["spatial"], notes = _libraries(run, card, adata)
    if run.facts["kind"] == "oracle":
        notes.append("an oracle, which reads the truth; its values have a scale of their own")
    adata.uns["spotbench"] = _about(run, indices, notes)
    return adata


def _fold(run: StoredRun, index: int) -> AnnData:
    import anndata

    path = run.folder.fold(index).path / "predictions.h5ad"
    try:
        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error, 120)}"
        raise DataError(f"{path}: cannot be read ({reason}); run it again with --force") from error


def _about(run: StoredRun, folds: Sequence[int], notes: Sequence[str]) -> dict[str, Any]:
    facts = run.facts
    return {
        "version": __version__,
        **{name: str(facts[name]) for name in ("dataset", "protocol", "preset")},
        "method": str(facts["label"]),
        "run": str(facts["key"]),
        "fits": ", ".join(f"fold {index}" for index in folds),
        "seed": int(facts["seed"]),
        "target": json.dumps(facts["rules"]["target"]),
        "min_pcc": MIN_PCC,
        "notes": "\n".join(notes),
    }


def _libraries(
    run: StoredRun, card: DatasetCard, adata: AnnData
) -> tuple[dict[str, Any], list[str]]:
    """``uns["spatial"]`` of every section, and notes on those without an image."""
    images = _images(run)
    spatial, without = {}, []
    for library in adata.obs[LIBRARY].cat.categories:
        rows = np.flatnonzero(adata.obs[LIBRARY] == library)
        section = str(adata.obs["section"].iloc[rows[0]])
        array_xy = adata.obs[["array_col", "array_row"]].to_numpy()[rows]
        um = _scale(card, section, array_xy, np.asarray(adata.obsm["spatial"])[rows])
        factors = {"spot_diameter_fullres": float(card.spot_diameter_micrometres / um)}
        pictures = {}
        if section in images:
            pictures["hires"], factors["tissue_hires_scalef"] = images[section]
        else:
            without.append(section)
        spatial[str(library)] = {
            "images": pictures,
            "scalefactors": {**factors, "microns_per_pixel": um},
            "metadata": {},
        }
    notes = []
    if without:
        names = ", ".join(dict.fromkeys(without))
        notes.append(f"no image is stored of {names}: draw with img_key=None, or img=False")
    return spatial, notes


def _scale(card: DatasetCard, section: str, array_xy: np.ndarray, pixels: np.ndarray) -> float:
    """Micrometres a full-resolution pixel, by the card or the distance of the spots."""
    known = card.scale(card.section(section))
    if known is not None:
        return float(known)
    assert card.spot_pitch_micrometres is not None  # a card names one or the other
    try:
        return card.spot_pitch_micrometres / spot_pitch(array_xy, pixels)
    except DataError:  # too few spots for a grid
        return card.spot_pitch_micrometres / pitch(pixels)


def _images(run: StoredRun) -> dict[str, tuple[np.ndarray, float]]:
    """Small images of sections and their pixels a full-resolution pixel.

    Methods that look at no image may have been run without: other runs on the dataset have them.
    """
    facts = run.facts
    others = stored_runs(run.folder.results, facts["dataset"], facts["protocol"])
    found: dict[str, tuple[np.ndarray, float]] = {}
    for other in (run, *others):
        for index in other.done:
            for section, image in other.fold_facts(index).get("images", {}).items():
                path = None if section in found else stored_image(other, image.get("file"))
                if path is None:
                    continue
                try:
                    with open_image(path, STORED_IMAGE_PIXELS) as picture:
                        pixels = np.asarray(picture.convert("RGB"))
                except DataError:
                    continue  # the note on sections without an image names it
                found[section] = (pixels, float(image["scale"]))
    return found
