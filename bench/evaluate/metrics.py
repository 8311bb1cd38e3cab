"""Agreement of predicted with measured expression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


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
    # A column of equal values must be undefined, not a ratio of rounding errors.
    constant = (np.ptp(truth, axis=0) == 0) | (np.ptp(prediction, axis=0) == 0)
    a, b = _unit_columns(truth), _unit_columns(prediction)
    with np.errstate(invalid="ignore"):
        r = np.clip(np.einsum("sg,sg->g", a, b), -1.0, 1.0)
    r[constant] = np.nan
    return r


def _unit_columns(values: np.ndarray) -> np.ndarray:
    # Scaled before the norm is taken, so that tiny or huge values neither vanish nor overflow.
    centred = values - values.mean(axis=0)
    largest = np.abs(centred).max(axis=0)
    centred /= np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.einsum("sg,sg->g", centred, centred))
    return centred / np.where(norm > 0, norm, 1.0)


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
    truth: np.ndarray, prediction: np.ndarray, heg: np.ndarray, *, scale_free: bool = False
) -> tuple[dict[str, float], pd.DataFrame]:
    """All scores of one section.

    Parameters
    ----------
    truth, prediction : (spots, genes) float arrays on the protocol's target scale
    heg : (genes,) bool mask of the highly expressed genes
    scale_free : the prediction has a scale of its own, so errors mean nothing and are NaN

    Returns
    -------
    tuple of dict and DataFrame
        ``pcc_acg``, ``pcc_heg``, ``mse``, ``mae`` and the numbers of undefined genes; and per
        gene ``pcc``, ``mse``, ``truth_mean``, ``heg``.
    """
    pcc = pearson_per_gene(truth, prediction)
    acg, undefined = mean_defined(pcc)
    heg_mean, heg_undefined = mean_defined(pcc[heg])
    error = np.asarray(truth, dtype=np.float64) - np.asarray(prediction, dtype=np.float64)
    nothing = float("nan")
    scores = {
        "pcc_acg": acg,
        "pcc_heg": heg_mean,
        "mse": nothing if scale_free else mean_squared_error(truth, prediction),
        "mae": nothing if scale_free else mean_absolute_error(truth, prediction),
        "undefined_acg": float(undefined),
        "undefined_heg": float(heg_undefined),
    }
    genes = pd.DataFrame(
        {
            "pcc": pcc,
            "mse": np.full(len(pcc), nothing) if scale_free else (error**2).mean(axis=0),
            "truth_mean": np.asarray(truth, dtype=np.float64).mean(axis=0),
            "heg": heg,
        }
    )
    return scores, genes


def score_pooled(
    truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray], heg: Sequence[np.ndarray]
) -> dict[str, float]:
    """Correlations over all test spots of a fold together.

    Not to be compared with the per-section ones: differences between sections count here.

    Parameters
    ----------
    truth, prediction : one (spots, genes) array a section
    heg : one (genes,) bool mask a section; a gene counts as HEG where any section says so
    """
    pcc = pearson_per_gene(np.concatenate(list(truth)), np.concatenate(list(prediction)))
    either = np.logical_or.reduce(list(heg))
    return {
        "pooled_pcc_acg": mean_defined(pcc)[0],
        "pooled_pcc_heg": mean_defined(pcc[either])[0],
    }
