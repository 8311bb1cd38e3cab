"""Noise ceiling: the maximum correlation attainable given the counting noise of the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from bench.evaluate.metrics import pearson_per_gene

SPLITS = 10
"""Random halvings that are averaged."""


def noise_ceiling(
    counts: sp.csr_matrix,
    normalise: Callable[[sp.csr_matrix], np.ndarray],
    *,
    splits: int = SPLITS,
    seed: int = 0,
) -> np.ndarray:
    """Maximum expected correlation with one section's measured expression, for each gene.

    Every count is split binomially in two halves, which are independent given the rate that was
    sampled. Their correlation r is the reliability of half the depth; Spearman and Brown's
    2 r / (1 + r) is that of the whole, and its square root is the correlation of the measured
    values with their expectation given the rate. What both halves share, such as a spot's capture
    efficiency, counts as signal, and the logarithm bends the extrapolation (by 0.02 upwards at
    one count a spot and less above ten): the ceiling is an upper one.

    Parameters
    ----------
    counts : (spots, genes) raw integer counts over all measured genes
    normalise : counts to (spots, panel) expression, as the protocol scales the truth
    splits : halvings to average over
    seed : of the halvings

    Returns
    -------
    (panel,) float64 in [0, 1]; NaN where a gene is constant in a half of every split

    Raises
    ------
    ValueError
        A count is no whole number, there are fewer than three spots, or `splits` < 1.

    Source
    ------
    Spearman, Brown (1910) for the reliability; binomial thinning of counts as in Neufeld et al.,
    Biostatistics 25(1) (2024).
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, not {splits}")
    counts = sp.csr_matrix(counts)
    whole = np.rint(counts.data)
    if not np.array_equal(whole, counts.data):
        raise ValueError("the noise ceiling needs raw counts, these are not whole numbers")
    rng = np.random.default_rng(seed)
    correlations = []
    for _ in range(splits):
        half = counts.astype(np.float64)
        half.data = rng.binomial(whole.astype(np.int64), 0.5).astype(np.float64)
        correlations.append(pearson_per_gene(normalise(half), normalise(counts - half)))
    halves = np.stack(correlations)
    defined = ~np.isnan(halves)
    number = defined.sum(axis=0)
    r = np.divide(
        np.where(defined, halves, 0.0).sum(axis=0),
        number,
        out=np.full(halves.shape[1], np.nan),
        where=number > 0,
    )
    # A negative mean correlation of halves is chance about zero.
    r = np.clip(r, 0.0, 1.0)
    return np.sqrt(2 * r / (1 + r))
