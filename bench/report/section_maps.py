"""Measured and predicted expression of one section, read from stored runs for maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError, UnknownNameError
from bench.report.figure_style import marked
from bench.report.tables import score_table
from bench.stored_runs import StoredRun


@dataclass(frozen=True)
class SectionMap:
    """Measured and predicted expression of one section.

    Attributes
    ----------
    section
        Its name.
    genes
        Panel.
    truth
        (spots, panel) measured expression.
    predictions
        (spots, panel) by label, best run first.
    spatial
        (spots, 2) full-resolution pixel (x, y).
    labels
        (spots,) a pathologist's labels, empty where there is none.
    image, scale
        Small copy of the image, None without one, and its pixels per image pixel.
    micrometres_per_pixel
        Of the full-resolution image; None where it is not known.
    unit
        Unit of the expression, for colour bars; empty where it is not known.
    kinds
        Whether a run is a method or a control, by label.
    """

    section: str
    genes: tuple[str, ...]
    truth: np.ndarray
    predictions: dict[str, np.ndarray]
    spatial: np.ndarray
    labels: np.ndarray
    image: Path | None
    scale: float
    micrometres_per_pixel: float | None = None
    unit: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)

    def name(self, label: str) -> str:
        """Name of a run as maps show it, with what it is if it is no method."""
        return marked(label, self.kinds.get(label, "method"))


def stored_sections(runs: Sequence[StoredRun]) -> list[str]:
    """Test sections that any run has stored predictions of, in alphabetical order."""
    names: set[str] = set()
    for run in runs:
        if folds := run.predicted:
            scores = run.scores()
            names |= {*scores.loc[scores["fold"].isin(folds), "section"]}
    return sorted(names - {""})


def section_map(runs: Sequence[StoredRun], section: str) -> SectionMap:
    """Truth and predictions of one section, from the runs' stored files.

    Runs with another panel for the section are left out; so are oracles, which have another scale.

    Raises
    ------
    UnknownNameError
        No run has predicted the section.
    """
    import anndata

    first: Any = None
    predictions: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    by_key = {run.facts["key"][:12]: run for run in runs if run.done}
    for row in score_table(list(by_key.values())).to_dict("records"):
        run = by_key[row["key"]]
        if row["kind"] == "oracle":
            continue
        for index in run.predicted:
            fold = run.folder.fold(index)
            adata = anndata.read_h5ad(fold.path / "predictions.h5ad", backed="r")
            chosen = np.flatnonzero((adata.obs["section"] == section).to_numpy())
            if len(chosen):
                part = adata[chosen].to_memory()
                if first is None:
                    first = part
                if list(part.var_names) == list(first.var_names):
                    label = row["method"]
                    while label in predictions:
                        label += "'"
                    predictions[label] = np.asarray(part.X)
                    kinds[label] = row["kind"]
                    facts = facts or fold.facts().get("images", {}).get(section, {})
            adata.file.close()
    if first is None:
        raise UnknownNameError("section with predictions", section, stored_sections(runs))
    image = stored_image(runs[0], facts.get("file"))
    return SectionMap(
        section=section,
        genes=tuple(first.var_names),
        truth=np.asarray(first.layers["truth"]),
        predictions=predictions,
        spatial=np.asarray(first.obsm["spatial"]),
        labels=first.obs["label"].astype(str).to_numpy(),
        image=image,
        scale=float(facts.get("scale", 1.0)),
        micrometres_per_pixel=_micrometres(by_key, section, first),
        kinds=kinds,
        unit=expression_unit(next(iter(by_key.values())).facts.get("rules")),
    )


def _micrometres(runs: Mapping[str, StoredRun], section: str, adata: Any) -> float | None:
    """Micrometres per pixel of a section by the card of its dataset, if the card is here."""
    from bench.data.pitch import spot_pitch
    from bench.registry import dataset_card

    try:
        card = dataset_card(str(next(iter(runs.values())).facts["dataset"]))
        named = card.scale(card.section(section))
        if named is not None or card.spot_pitch_micrometres is None:
            return named
        array_xy = adata.obs[["array_col", "array_row"]].to_numpy(dtype=np.float64)
        return card.spot_pitch_micrometres / spot_pitch(array_xy, np.asarray(adata.obsm["spatial"]))
    except BenchError:
        return None


def expression_unit(rules: object) -> str:
    """Unit of the expression that a protocol predicts, from its stored rules.

    Examples
    --------
    >>> expression_unit({"target": {"total": "spot", "log": "ln"}})
    'ln(1 + counts per 10,000)'
    """
    if not isinstance(rules, Mapping) or not isinstance(rules.get("target"), Mapping):
        return ""
    target = rules["target"]
    counts = {
        "spot": "counts per 10,000",
        "gene": "counts per 10,000 of the gene",
        "none": "counts",
    }.get(str(target.get("total")))
    if counts is None:
        return ""
    smoothed = ", mean of 3 x 3 spots" if rules.get("smoothing") == "3x3" else ""
    return f"{target.get('log', 'ln')}(1 + {counts}){smoothed}"


def stored_image(run: StoredRun, name: object) -> Path | None:
    """File of a small image that a fold names; None where it is not in the results folder."""
    if not isinstance(name, str):
        return None
    folder = (run.folder.results / "images").resolve()
    path = (run.folder.results / name).resolve()
    return path if path.is_relative_to(folder) and path.is_file() else None
