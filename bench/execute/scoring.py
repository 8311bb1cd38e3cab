"""What a fold's predictions are worth, and the file they are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bench.evaluate.ceiling import noise_ceiling
from bench.evaluate.metrics import mean_defined, pearson_per_gene, score_pooled, score_section
from bench.evaluate.spatial import domain_agreement, grid_neighbours, map_similarity, morans_i
from bench.protocol.normalise import normalise

if TYPE_CHECKING:
    from anndata import AnnData

    from bench.protocol.fold_data import FoldData, Truth
    from bench.protocol.rules import Protocol


@dataclass(frozen=True)
class Reference:
    """What is the same for every method that predicts a section.

    Attributes
    ----------
    ceiling
        (panel,) noise ceiling of each gene's correlation.
    weights
        (spots, spots) neighbours on the array.
    morans_i
        (panel,) Moran's I of the measured expression.
    domains
        ARI and NMI of the domains of the measured expression.
    """

    ceiling: np.ndarray
    weights: sp.csr_matrix
    morans_i: np.ndarray
    domains: tuple[float, float]


def section_ceiling(truth: Truth, protocol: Protocol) -> np.ndarray:
    """(panel,) noise ceiling of a test section; all NaN where it has fewer than three spots."""
    panel = np.arange(truth.counts.shape[1] - 1)
    if len(truth.expression) < 3:
        return np.full(len(panel), np.nan)
    return noise_ceiling(truth.counts, lambda half: normalise(half, panel, protocol.target))


def reference(truth: Truth, protocol: Protocol) -> Reference:
    """Everything about a test section that its scores are compared with."""
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
        What the rows are called.
    data, references
        The fold, and what :func:`reference` says of each test section.
    predictions
        One (spots, panel) array a test section.
    scale_free
        The predictions have a scale of their own: no errors are given.
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
        scores, genes = score_section(
            truth.expression, prediction, truth.heg, totals=truth.totals, scale_free=scale_free
        )
        genes["ceiling"] = known.ceiling
        genes["morans_i_truth"] = known.morans_i
        genes["morans_i"] = morans_i(prediction, known.weights)
        genes["ssim"] = map_similarity(truth.expression, prediction, truth.array_xy)
        ari, nmi = domain_agreement(prediction, truth.labels)
        scores |= {
            "ceiling_acg": mean_defined(known.ceiling)[0],
            "ceiling_heg": mean_defined(known.ceiling[truth.heg])[0],
            "ssim": mean_defined(genes["ssim"].to_numpy())[0],
            "morans_i_agreement": _agreement(genes["morans_i_truth"], genes["morans_i"]),
            "ari": ari,
            "nmi": nmi,
            "ari_observed": known.domains[0],
            "nmi_observed": known.domains[1],
        }
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


def _agreement(measured: pd.Series, predicted: pd.Series) -> float:
    """Correlation over genes of the autocorrelation measured with that predicted."""
    both = pd.concat([measured, predicted], axis=1).dropna().to_numpy()
    if len(both) < 3:
        return float("nan")
    return float(pearson_per_gene(both[:, :1], both[:, 1:])[0])


def as_anndata(data: FoldData, predictions: Sequence[np.ndarray]) -> AnnData:
    """Predictions in ``X`` and truth in a layer, with all that tables and figures need."""
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
