"""Scores of a fold's predictions, and the predictions as AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.evaluate.ceiling import noise_ceiling
from bench.evaluate.section import Reference, ScoredSection, score_pooled, score_section
from bench.evaluate.spatial import domain_agreement, grid_neighbours, morans_i
from bench.protocol.normalise import target_values

if TYPE_CHECKING:
    from anndata import AnnData

    from bench.protocol.fold_data import FoldData, Truth
    from bench.protocol.rules import Protocol


def section_ceiling(truth: Truth, protocol: Protocol) -> np.ndarray:
    """(panel,) noise ceiling of a test section; all NaN where it has fewer than three spots."""
    panel = np.arange(truth.counts.shape[1] - 1)
    if len(truth.expression) < 3:
        return np.full(len(panel), np.nan)
    return noise_ceiling(
        truth.counts, lambda half: target_values(half, panel, protocol, truth.array_xy)
    )


def reference(truth: Truth, protocol: Protocol) -> Reference:
    """Reference data of a test section for computing scores."""
    weights = grid_neighbours(truth.array_xy)
    return Reference(
        ceiling=section_ceiling(truth, protocol),
        weights=weights,
        morans_i=morans_i(truth.expression, weights),
        domains=domain_agreement(truth.expression, truth.labels),
    )


def score_fold(
    label: str,
    fold: int,
    data: FoldData,
    references: Sequence[Reference],
    predictions: Sequence[np.ndarray],
    *,
    scale_free: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of a fold in long form, and one row per gene and section.

    Parameters
    ----------
    label, fold
        Label and fold of the rows.
    data, references
        The fold, and :func:`reference` of each test section.
    predictions
        One (spots, panel) array per test section.
    scale_free
        Whether the predictions have a different scale, so that MSE and MAE are omitted.
    """
    rows: list[dict[str, object]] = []
    tables = []

    def add(scores: dict[str, float], section: str, patient: str, spots: int) -> None:
        rows.extend(
            {
                "method": label,
                "fold": fold,
                "section": section,
                "patient": patient,
                "spots": spots,
                "genes": len(data.training.panel),
                "score": score,
                "value": value,
            }
            for score, value in scores.items()
        )

    for truth, known, prediction in zip(data.truth, references, predictions, strict=True):
        section = ScoredSection(
            truth.expression,
            prediction,
            truth.heg,
            totals=truth.totals,
            array_xy=truth.array_xy,
            labels=truth.labels,
            reference=known,
        )
        scores, genes = score_section(section, scale_free=scale_free)
        add(scores, truth.section, truth.patient, len(prediction))
        genes.insert(0, "gene", list(data.training.panel))
        genes.insert(0, "patient", truth.patient)
        genes.insert(0, "section", truth.section)
        genes.insert(0, "fold", fold)
        genes.insert(0, "method", label)
        tables.append(genes)
    pooled = score_pooled(
        [truth.expression for truth in data.truth],
        predictions,
        [truth.heg for truth in data.truth],
    )
    add(pooled, "", "", sum(len(prediction) for prediction in predictions))
    return pd.DataFrame(rows), pd.concat(tables, ignore_index=True)


def as_anndata(data: FoldData, predictions: Sequence[np.ndarray]) -> AnnData:
    """AnnData with predictions in ``X``, truth in a layer, and annotations of the spots."""
    from anndata import AnnData

    def column(of: str) -> list[str]:
        return [getattr(truth, of) for truth in data.truth for _ in truth.spot_names]

    names = [f"{truth.section}_{spot}" for truth in data.truth for spot in truth.spot_names]
    array_xy = np.concatenate([truth.array_xy for truth in data.truth])
    obs = pd.DataFrame(
        {
            "section": pd.Categorical(column("section")),
            "patient": pd.Categorical(column("patient")),
            "array_row": array_xy[:, 1],
            "array_col": array_xy[:, 0],
            "total_counts": np.concatenate([truth.totals for truth in data.truth]),
            "label": pd.Categorical([label for truth in data.truth for label in truth.labels]),
        },
        index=names,
    )
    heg = np.stack([truth.heg for truth in data.truth], axis=1)
    var = pd.DataFrame(
        heg, index=list(data.training.panel), columns=[f"heg_{t.section}" for t in data.truth]
    )
    return AnnData(
        X=np.concatenate(list(predictions)).astype(np.float32),
        obs=obs,
        var=var,
        layers={"truth": np.concatenate([t.expression for t in data.truth]).astype(np.float32)},
        obsm={"spatial": np.concatenate([truth.spatial for truth in data.truth])},
    )
