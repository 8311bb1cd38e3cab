"""Agreement of predicted with measured expression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import special


def _checked(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth = np.asarray(truth, dtype=np.float64)
    prediction = np.asarray(prediction, dtype=np.float64)
    if truth.ndim != 2 or truth.shape != prediction.shape:
        raise ValueError(
            f"truth {truth.shape} and prediction {prediction.shape} must both be (spots, genes)"
        )
    if not (np.isfinite(truth).all() and np.isfinite(prediction).all()):
        raise ValueError("truth and prediction must be finite")
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
    truth, prediction = _checked(truth, prediction)
    if len(truth) < 3:
        raise ValueError(f"a correlation needs at least three spots, not {len(truth)}")
    r = np.empty(truth.shape[1])
    for genes in _blocks(truth.shape[1]):
        a, varies_a = _unit_rows(truth[:, genes])
        b, varies_b = _unit_rows(prediction[:, genes])
        r[genes] = _row_products(a, b)
        r[genes][~(varies_a & varies_b)] = np.nan
    return r


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


def partial_pearson_per_gene(
    truth: np.ndarray, prediction: np.ndarray, given: np.ndarray
) -> np.ndarray:
    """Correlation of every gene over the spots of one section, a third variable held fixed.

    Parameters
    ----------
    truth, prediction : (spots, genes) float arrays on the protocol's log scale
    given : (spots,) what is held fixed, such as the log of the spots' total counts

    Returns
    -------
    (genes,) float64; NaN where either column is constant, or is `given` itself up to a factor

    Raises
    ------
    ValueError
        As :func:`pearson_per_gene`.
    """
    given = np.asarray(given, dtype=np.float64)
    if given.shape != (len(truth),):
        raise ValueError(f"given {given.shape} must be (spots,) of truth {np.shape(truth)}")
    fixed = np.broadcast_to(given[:, None], np.shape(truth))
    r = pearson_per_gene(truth, prediction)
    # A variable that does not vary explains nothing.
    r_truth = np.nan_to_num(pearson_per_gene(truth, fixed))
    r_prediction = np.nan_to_num(pearson_per_gene(prediction, fixed))
    return _partial(r, r_truth, r_prediction)


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


def mean_squared_error(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean squared error over spots x genes."""
    truth, prediction = _checked(truth, prediction)
    return float(np.mean((truth - prediction) ** 2))


def mean_absolute_error(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean absolute error over spots x genes."""
    truth, prediction = _checked(truth, prediction)
    return float(np.mean(np.abs(truth - prediction)))


def mean_defined(values: np.ndarray) -> tuple[float, int]:
    """Mean over the defined values, and how many are undefined.

    Returns
    -------
    tuple of float and int
        NaN where every value is undefined.
    """
    defined = values[~np.isnan(values)]
    return (float(defined.mean()) if defined.size else float("nan")), len(values) - defined.size


def score_section(
    truth: np.ndarray,
    prediction: np.ndarray,
    heg: np.ndarray,
    *,
    totals: np.ndarray | None = None,
    scale_free: bool = False,
) -> tuple[dict[str, float], pd.DataFrame]:
    """All scores of one section that look at one spot at a time.

    Parameters
    ----------
    truth, prediction : (spots, genes) float arrays on the protocol's target scale
    heg : (genes,) bool mask of the highly expressed genes
    totals : (spots,) counts of each spot over all measured genes; with them the correlations are
        also given at fixed log total count
    scale_free : the prediction has a scale of its own, so errors mean nothing and are NaN

    Returns
    -------
    tuple of dict and DataFrame
        ``pcc_acg``, ``pcc_heg``, the same with ``_given_depth``, ``mse``, ``mae`` and the numbers
        of undefined genes; and per gene ``pcc``, ``p_value``, ``pcc_given_depth``, ``mse``,
        ``truth_mean``, ``heg``.
    """
    truth, prediction = _checked(truth, prediction)
    spots, genes = truth.shape
    if spots < 3:
        raise ValueError(f"a correlation needs at least three spots, not {spots}")
    depth = None
    if totals is not None:
        depth = _unit_rows(np.log1p(np.asarray(totals, dtype=np.float64))[:, None])[0][0]
    columns = {name: np.empty(genes) for name in ("pcc", "given", "mse", "mean")}
    absolute = 0.0
    for block in _blocks(genes):
        a, varies_a = _unit_rows(truth[:, block])
        b, varies_b = _unit_rows(prediction[:, block])
        r = np.where(varies_a & varies_b, _row_products(a, b), np.nan)
        columns["pcc"][block] = r
        columns["given"][block] = np.nan if depth is None else _partial(r, a @ depth, b @ depth)
        columns["mean"][block] = truth[:, block].mean(axis=0)
        error = truth[:, block] - prediction[:, block]
        columns["mse"][block] = np.einsum("sg,sg->g", error, error) / spots
        absolute += np.abs(error, out=error).sum()
    acg, undefined = mean_defined(columns["pcc"])
    heg_mean, heg_undefined = mean_defined(columns["pcc"][heg])
    nothing = float("nan")
    scores = {
        "pcc_acg": acg,
        "pcc_heg": heg_mean,
        "pcc_acg_given_depth": mean_defined(columns["given"])[0],
        "pcc_heg_given_depth": mean_defined(columns["given"][heg])[0],
        "mse": nothing if scale_free else float(columns["mse"].mean()),
        "mae": nothing if scale_free else float(absolute / truth.size),
        "undefined_acg": float(undefined),
        "undefined_heg": float(heg_undefined),
    }
    table = pd.DataFrame(
        {
            "pcc": columns["pcc"],
            "p_value": p_values(columns["pcc"], spots),
            "pcc_given_depth": columns["given"],
            "mse": np.full(genes, nothing) if scale_free else columns["mse"],
            "truth_mean": columns["mean"],
            "heg": heg,
        }
    )
    return scores, table


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
        truth, prediction = _checked(truth, prediction)
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


def score_pooled(
    truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray], heg: Sequence[np.ndarray]
) -> dict[str, float]:
    """Correlations over all test spots of a fold together; see :class:`PooledCorrelation`.

    Parameters
    ----------
    truth, prediction : one (spots, genes) array a section
    heg : one (genes,) bool mask a section; a gene counts as HEG where any section says so
    """
    pooled = PooledCorrelation()
    for measured, predicted in zip(truth, prediction, strict=True):
        pooled.add(measured, predicted)
    pcc = pooled.result()
    either = np.logical_or.reduce(list(heg))
    return {
        "pooled_pcc_acg": mean_defined(pcc)[0],
        "pooled_pcc_heg": mean_defined(pcc[either])[0],
    }
