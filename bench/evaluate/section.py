"""The arrays of a test section and of its prediction, and the values that scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bench.evaluate.gene_values import GeneValues
from bench.evaluate.metrics import (
    PooledCorrelation,
    as_pair,
    concordance_per_gene,
    correlations_per_gene,
    mean_absolute_error,
    p_values,
    pearson_per_gene,
    spearman_per_gene,
    squared_error_per_gene,
)
from bench.evaluate.scores import POOLED_SCORES, SECTION_SCORES
from bench.evaluate.spatial import domain_agreement, map_similarity, morans_i


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


class ScoredSection(GeneValues):
    """A test section with its prediction; values are computed when a score first asks for them.

    Parameters
    ----------
    truth, prediction : (spots, genes) float arrays on the protocol's target scale
    heg : (genes,) bool mask of the highly expressed genes
    totals : (spots,) counts of each spot over all measured genes; without them values at fixed
        depth are NaN
    array_xy : (spots, 2) array coordinates; without them map similarities are NaN
    labels : (spots,) pathologist's labels; without them domain agreements are NaN
    reference : what does not depend on the method; without it ceilings, Moran's I and the
        agreement of measured domains are NaN

    Raises
    ------
    ValueError
        Shapes differ, there are fewer than three spots, or a value is not finite.
    """

    def __init__(
        self,
        truth: np.ndarray,
        prediction: np.ndarray,
        heg: np.ndarray,
        *,
        totals: np.ndarray | None = None,
        array_xy: np.ndarray | None = None,
        labels: Sequence[str] = (),
        reference: Reference | None = None,
    ) -> None:
        # Spatial scores take the prediction as it came, in the precision of the method.
        self._predicted = prediction
        self.truth, self.prediction = as_pair(truth, prediction, least=3)
        self.heg = heg
        self._totals, self._array_xy, self._labels = totals, array_xy, labels
        self._reference = reference
        self._nothing = np.full(self.truth.shape[1], np.nan)

    @cached_property
    def _correlations(self) -> tuple[np.ndarray, np.ndarray]:
        given = None
        if self._totals is not None:
            given = np.log1p(np.asarray(self._totals, dtype=np.float64))
        return correlations_per_gene(self.truth, self.prediction, given)

    @property
    def pcc(self) -> np.ndarray:
        """Pearson correlation of each gene."""
        return self._correlations[0]

    @property
    def pcc_given_depth(self) -> np.ndarray:
        """Partial Pearson correlation of each gene at fixed log total count of the spot."""
        return self._correlations[1]

    @property
    def p_value(self) -> np.ndarray:
        """Two-sided p-value of each correlation under independent spots."""
        return p_values(self.pcc, len(self.truth))

    @cached_property
    def spearman(self) -> np.ndarray:
        """Spearman rank correlation of each gene."""
        return spearman_per_gene(self.truth, self.prediction)

    @cached_property
    def ccc(self) -> np.ndarray:
        """Lin's concordance correlation coefficient of each gene."""
        return concordance_per_gene(self.truth, self.prediction)

    @cached_property
    def mse(self) -> np.ndarray:
        """Mean squared error of each gene."""
        return squared_error_per_gene(self.truth, self.prediction)

    @property
    def mae(self) -> float:
        """Mean absolute error over spots and genes."""
        return mean_absolute_error(self.truth, self.prediction)

    @property
    def truth_mean(self) -> np.ndarray:
        """Mean measured expression of each gene."""
        return self.truth.mean(axis=0)

    @property
    def ceiling(self) -> np.ndarray:
        """Noise ceiling of each gene's correlation."""
        return self._nothing if self._reference is None else self._reference.ceiling

    @cached_property
    def ssim(self) -> np.ndarray:
        """Structural similarity of the measured and the predicted map of each gene."""
        if self._array_xy is None:
            return self._nothing
        return map_similarity(self.truth, self._predicted, self._array_xy)

    @property
    def morans_i_truth(self) -> np.ndarray:
        """Moran's I of the measured expression of each gene."""
        return self._nothing if self._reference is None else self._reference.morans_i

    @cached_property
    def morans_i(self) -> np.ndarray:
        """Moran's I of the predicted expression of each gene."""
        if self._reference is None:
            return self._nothing
        return morans_i(self._predicted, self._reference.weights)

    @property
    def morans_i_agreement(self) -> float:
        """Correlation over genes of measured with predicted Moran's I."""
        both = np.column_stack([self.morans_i_truth, self.morans_i])
        both = both[~np.isnan(both).any(axis=1)]
        return float(pearson_per_gene(both[:, :1], both[:, 1:])[0]) if len(both) >= 3 else np.nan

    @cached_property
    def _domains(self) -> tuple[float, float]:
        if len(self._labels) == 0:
            return np.nan, np.nan
        return domain_agreement(self._predicted, self._labels)

    @property
    def ari(self) -> float:
        """Adjusted Rand index of predicted domains and the pathologist's."""
        return self._domains[0]

    @property
    def nmi(self) -> float:
        """Normalised mutual information of predicted domains and the pathologist's."""
        return self._domains[1]

    @property
    def ari_observed(self) -> float:
        """Adjusted Rand index of measured domains and the pathologist's."""
        return np.nan if self._reference is None else self._reference.domains[0]

    @property
    def nmi_observed(self) -> float:
        """Normalised mutual information of measured domains and the pathologist's."""
        return np.nan if self._reference is None else self._reference.domains[1]


GENE_COLUMNS = tuple(
    dict.fromkeys(
        [
            *("pcc", "p_value", "pcc_given_depth", "mse", "truth_mean", "heg"),
            *("ceiling", "morans_i_truth", "morans_i", "ssim"),
            *(score.per_gene for score in SECTION_SCORES if score.per_gene),
        ]
    )
)
"""Columns of ``genes.parquet`` with the values of a gene in a section."""


def score_section(
    section: ScoredSection, *, scale_free: bool = False
) -> tuple[dict[str, float], pd.DataFrame]:
    """All scores of one section, and the values of its genes.

    Parameters
    ----------
    section
        The section with its prediction.
    scale_free
        The prediction has a scale of its own: scores that need the truth's scale are NaN.

    Returns
    -------
    tuple of dict and DataFrame
        Value of every section score of :data:`bench.evaluate.scores.SCORES` by name; per gene,
        the columns :data:`GENE_COLUMNS`.
    """
    left_out = {score for score in SECTION_SCORES if scale_free and score.needs_scale}
    scores = {
        score.name: np.nan if score in left_out else score.compute(section)
        for score in SECTION_SCORES
    }
    without = {score.per_gene for score in left_out}
    columns = {
        name: np.full(len(section.heg), np.nan) if name in without else getattr(section, name)
        for name in GENE_COLUMNS
    }
    return scores, pd.DataFrame(columns)


class Pooled(GeneValues):
    """Correlation of each gene over all test spots of a fold; see :class:`PooledCorrelation`."""

    def __init__(self, pcc: np.ndarray, heg: np.ndarray) -> None:
        self.pcc, self.heg = pcc, heg


def score_pooled(
    truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray], heg: Sequence[np.ndarray]
) -> dict[str, float]:
    """Scores over all test spots of a fold together.

    Parameters
    ----------
    truth, prediction : one (spots, genes) array a section
    heg : one (genes,) bool mask a section; a gene counts as HEG where any section says so
    """
    correlation = PooledCorrelation()
    for measured, predicted in zip(truth, prediction, strict=True):
        correlation.add(measured, predicted)
    pooled = Pooled(correlation.result(), np.logical_or.reduce(list(heg)))
    return {score.name: score.compute(pooled) for score in POOLED_SCORES}
