"""Agreement of predicted with measured expression."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import special


def as_pair(
    truth: np.ndarray, prediction: np.ndarray, *, least: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction as finite float64 arrays of one shape (spots, genes).

    Parameters
    ----------
    truth, prediction : (spots, genes) arrays
    least : smallest number of spots

    Raises
    ------
    ValueError
        Shapes differ, there are fewer than `least` spots, or a value is not finite.
    """
    truth = np.asarray(truth, dtype=np.float64)
    prediction = np.asarray(prediction, dtype=np.float64)
    if truth.ndim != 2 or truth.shape != prediction.shape:
        raise ValueError(
            f"truth {truth.shape} and prediction {prediction.shape} must both be (spots, genes)"
        )
    if not (np.isfinite(truth).all() and np.isfinite(prediction).all()):
        raise ValueError("truth and prediction must be finite")
    if len(truth) < least:
        raise ValueError(f"a correlation needs at least three spots, not {len(truth)}")
    return truth, prediction


def pearson_per_gene(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Pearson correlation of every gene over the spots of one section.

    Parameters
    ----------
    truth, prediction : (spots, genes) float arrays on the protocol's log scale

    Returns
    -------
    (genes,) float64; NaN where either column is constant

    Raises
    ------
    ValueError
        shapes differ, fewer than three spots, or a value is not finite

    Examples
    --------
    >>> truth = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> pearson_per_gene(truth, 3 * truth + 1)
    array([ 1., nan])
    """
    return correlations_per_gene(truth, prediction)[0]


def correlations_per_gene(
    truth: np.ndarray, prediction: np.ndarray, given: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pearson correlation of every gene, and the partial one with a third variable held fixed.

    Parameters
    ----------
    truth, prediction : (spots, genes) float arrays on the protocol's log scale
    given : (spots,) variable held fixed, such as the log of the spots' total counts

    Returns
    -------
    tuple of two (genes,) float64
        As :func:`pearson_per_gene`; and the partial correlations, NaN also where a column is
        `given` itself up to a factor, and for all without `given`.

    Raises
    ------
    ValueError
        As :func:`pearson_per_gene`, or `given` has another number of spots.
    """
    truth, prediction = as_pair(truth, prediction, least=3)
    fixed = None
    if given is not None:
        given = np.asarray(given, dtype=np.float64)
        if given.shape != (len(truth),):
            raise ValueError(f"given {given.shape} must be (spots,) of truth {truth.shape}")
        fixed = _unit_rows(given[:, None])[0][0]
    r, partial = np.full((2, truth.shape[1]), np.nan)
    for genes in _blocks(truth.shape[1]):
        a, varies_a = _unit_rows(truth[:, genes])
        b, varies_b = _unit_rows(prediction[:, genes])
        r[genes] = np.where(varies_a & varies_b, _row_products(a, b), np.nan)
        if fixed is not None:
            partial[genes] = _partial(r[genes], a @ fixed, b @ fixed)
    return r, partial


_GENES_AT_ONCE = 64
"""Genes of a block: a block of a section stays in the processor's cache."""


def _blocks(genes: int) -> Iterator[slice]:
    for start in range(0, genes, _GENES_AT_ONCE):
        yield slice(start, min(start + _GENES_AT_ONCE, genes))


def _unit_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(spots, genes) as centred (genes, spots) rows of norm 1, and which genes vary."""
    rows = np.array(values.T, dtype=np.float64, order="C")
    # A column of equal values must be undefined, not a ratio of rounding errors.
    varies = rows.max(axis=1) > rows.min(axis=1)
    rows -= rows.mean(axis=1, keepdims=True)
    # Scaled before the norm is taken, so that tiny or huge values neither vanish nor overflow.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.einsum("gs,gs->g", rows, rows))[:, None]
    rows /= np.where(norm > 0, norm, 1.0)
    return rows, varies


def _row_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.clip(np.einsum("gs,gs->g", a, b), -1.0, 1.0)


def _partial(r: np.ndarray, r_truth: np.ndarray, r_prediction: np.ndarray) -> np.ndarray:
    left = (1 - r_truth**2) * (1 - r_prediction**2)
    # What rounding leaves of a column that is the fixed variable is no variation.
    enough = left > _ROUNDING
    left = np.where(enough, left, 1.0)
    partial = np.clip((r - r_truth * r_prediction) / np.sqrt(left), -1.0, 1.0)
    return np.where(enough, partial, np.nan)


_ROUNDING = 1e-12


def p_values(r: np.ndarray, spots: int) -> np.ndarray:
    """Two-sided p-values of Pearson correlations under independent normal spots, as scipy's.

    Spots next to one another are not independent: the values rank genes, they prove nothing.

    Parameters
    ----------
    r : (genes,) correlations; NaN stay NaN
    spots : number of spots, at least three

    Returns
    -------
    (genes,) float64
    """
    half = spots / 2 - 1
    return 2 * special.betainc(half, half, (1 - np.abs(r)) / 2)


def spearman_per_gene(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Spearman rank correlation of every gene over the spots of one section; ties share a rank.

    Parameters, results and errors are those of :func:`pearson_per_gene`.
    """
    from scipy.stats import rankdata

    truth, prediction = as_pair(truth, prediction, least=3)
    return pearson_per_gene(rankdata(truth, axis=0), rankdata(prediction, axis=0))


def concordance_per_gene(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Lin's concordance correlation coefficient of every gene over the spots of one section.

    ``2 cov(t, p) / (var(t) + var(p) + (mean(t) - mean(p))²)`` with moments over all spots: the
    Pearson correlation, lowered by differences of mean and of scale.

    Parameters
    ----------
    truth, prediction : (spots, genes) float arrays on one scale

    Returns
    -------
    (genes,) float64 in [-1, 1]; NaN where either column is constant, as the correlation is

    Raises
    ------
    ValueError
        As :func:`pearson_per_gene`.

    Source
    ------
    Lin, Biometrics 45(1) (1989), equation for the estimator with 1/n moments.

    Examples
    --------
    >>> truth = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> concordance_per_gene(truth, truth + 1)
    array([0.57142857,        nan])
    """
    truth, prediction = as_pair(truth, prediction, least=3)
    ccc = np.empty(truth.shape[1])
    for genes in _blocks(truth.shape[1]):
        a, b = truth[:, genes], prediction[:, genes]
        varies = (np.ptp(a, axis=0) > 0) & (np.ptp(b, axis=0) > 0)
        gap = a.mean(axis=0) - b.mean(axis=0)
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        # Values are scaled so that tiny or huge ones neither vanish nor overflow when squared.
        scale = np.maximum(np.abs(a).max(axis=0), np.abs(b).max(axis=0))
        scale = np.maximum(scale, np.abs(gap))
        scale = np.where(scale > 0, scale, 1.0)
        a, b, gap = a / scale, b / scale, gap / scale
        covariance = np.einsum("sg,sg->g", a, b) / len(a)
        variances = (np.einsum("sg,sg->g", a, a) + np.einsum("sg,sg->g", b, b)) / len(a)
        whole = np.where(varies, variances + gap**2, 1.0)
        ccc[genes] = np.where(varies, np.clip(2 * covariance / whole, -1.0, 1.0), np.nan)
    return ccc


def squared_error_per_gene(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(genes,) mean squared error of every gene over the spots of one section."""
    truth, prediction = as_pair(truth, prediction)
    mse = np.empty(truth.shape[1])
    for genes in _blocks(truth.shape[1]):
        error = truth[:, genes] - prediction[:, genes]
        mse[genes] = np.einsum("sg,sg->g", error, error) / len(truth)
    return mse


def mean_absolute_error(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean absolute error over spots x genes."""
    truth, prediction = as_pair(truth, prediction)
    absolute = 0.0
    for genes in _blocks(truth.shape[1]):
        error = truth[:, genes] - prediction[:, genes]
        absolute += np.abs(error, out=error).sum()
    return float(absolute / truth.size)


def nanmean(values: np.ndarray) -> float:
    """Mean over the defined values; NaN, without numpy's warning, where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def nanstd(values: np.ndarray) -> float:
    """Standard deviation of the defined values, with n - 1; NaN where there are fewer than two."""
    defined = values[~np.isnan(values)]
    return float(defined.std(ddof=1)) if defined.size > 1 else float("nan")


class PooledCorrelation:
    """Pearson correlation of every gene over the spots of many sections, one at a time.

    Not to be compared with the per-section ones: differences between sections count here. The
    moments are merged as in Chan, Golub and LeVeque, The American Statistician 37(3) (1983).
    """

    def __init__(self) -> None:
        self._spots = 0
        self._mean: np.ndarray | None = None

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Take in a section.

        Parameters
        ----------
        truth, prediction : (spots, genes) float arrays on the protocol's target scale
        """
        truth, prediction = as_pair(truth, prediction)
        spots, genes = truth.shape
        if not spots:
            return
        both = (truth, prediction)
        mean = np.stack([part.mean(axis=0) for part in both])
        low = np.stack([part.min(axis=0) for part in both])
        high = np.stack([part.max(axis=0) for part in both])
        moments = np.empty((3, genes))
        for block in _blocks(genes):
            a, b = (part[:, block] - m[block] for part, m in zip(both, mean, strict=True))
            for row, (left, right) in enumerate(((a, a), (b, b), (a, b))):
                moments[row, block] = np.einsum("sg,sg->g", left, right)
        if self._mean is None:
            self._mean, self._moments = mean, moments
            self._low, self._high = low, high
        else:
            gap = mean - self._mean
            weight = self._spots * spots / (self._spots + spots)
            self._moments += moments + weight * np.stack(
                [gap[0] ** 2, gap[1] ** 2, gap[0] * gap[1]]
            )
            self._mean = self._mean + gap * (spots / (self._spots + spots))
            self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self._spots += spots

    def result(self) -> np.ndarray:
        """(genes,) float64; NaN where truth or prediction is constant over all spots.

        Raises
        ------
        ValueError
            Fewer than three spots have been added.
        """
        if self._mean is None or self._spots < 3:
            raise ValueError(f"a correlation needs at least three spots, not {self._spots}")
        varies = (self._high > self._low).all(axis=0)
        scale = np.sqrt(self._moments[0]) * np.sqrt(self._moments[1])
        r = self._moments[2] / np.where(scale > 0, scale, 1.0)
        return np.where(varies, np.clip(r, -1.0, 1.0), np.nan)
