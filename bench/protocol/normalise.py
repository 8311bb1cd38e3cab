"""Normalisation of counts to expression on the scale of a protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from bench.errors import DataError

if TYPE_CHECKING:
    from bench.protocol.rules import Protocol, Scale

TARGET_SUM = 10_000.0


def normalise(counts: sp.csr_matrix, panel: np.ndarray, scale: Scale) -> np.ndarray:
    """Expression of the panel genes of one section.

    Parameters
    ----------
    counts
        (spots, genes) raw counts over all measured genes.
    panel
        (panel,) int column of each panel gene; -1 for a gene the section did not measure, whose
        counts are then zero.
    scale
        Divisor of the counts, and logarithm.

    Returns
    -------
    (spots, panel) float64: ``log(1 + 10,000 * count / total)``, where an empty spot or gene stays
    0; ``log(1 + count)`` for a scale without a total

    Notes
    -----
    With ``log10`` and totals over the panel this equals scprep's ``library_size_normalize`` and
    ``log`` give, per spot or, on the transposed matrix, per gene.
    """
    listed = panel_counts(counts, panel)
    if scale.total == "none":
        return np.log10(1.0 + listed) if scale.log == "log10" else np.log1p(listed)
    if scale.total == "gene":
        totals = listed.sum(axis=0, keepdims=True)
    elif scale.genes == "panel":
        totals = listed.sum(axis=1, keepdims=True)
    else:
        totals = np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1, 1)
    share = np.divide(listed, totals, out=np.zeros_like(listed), where=totals > 0)
    if scale.log == "log10":
        return np.log10(1.0 + TARGET_SUM * share)
    return np.log1p(TARGET_SUM * share)


def target_values(
    counts: sp.csr_matrix, panel: np.ndarray, protocol: Protocol, array_xy: np.ndarray
) -> np.ndarray:
    """Target and truth of one section under a protocol: its scale, then its smoothing.

    Parameters
    ----------
    counts, panel
        As of :func:`normalise`.
    protocol
        Scale of the target, and smoothing.
    array_xy
        (spots, 2) integer array coordinates.

    Returns
    -------
    (spots, panel) float64
    """
    values = normalise(counts, panel, protocol.target)
    return smooth(values, array_xy) if protocol.smoothing == "3x3" else values


def smooth(values: np.ndarray, array_xy: np.ndarray) -> np.ndarray:
    """Mean of the values of the spots within one array column and row, the spot included.

    Parameters
    ----------
    values
        (spots, genes) values of one section.
    array_xy
        (spots, 2) integer array coordinates; spots at one place all count.

    Returns
    -------
    (spots, genes) float64
    """
    from scipy.spatial import cKDTree

    spots = len(values)
    pairs = cKDTree(array_xy).query_pairs(1, p=np.inf, output_type="ndarray")
    ends = np.concatenate([pairs, pairs[:, ::-1], np.arange(spots)[:, None].repeat(2, axis=1)])
    beside = sp.csr_matrix((np.ones(len(ends)), ends.T), shape=(spots, spots))
    return np.asarray(beside @ values) / np.asarray(beside.sum(axis=1))


def panel_counts(counts: sp.csr_matrix, panel: np.ndarray) -> np.ndarray:
    """(spots, panel) float64 raw counts; zero where the section did not measure a gene.

    Raises
    ------
    DataError
        A count is negative or not finite.
    """
    if counts.data.size and not (np.isfinite(counts.data).all() and counts.data.min() >= 0):
        raise DataError("counts must be finite and not negative")
    measured = np.flatnonzero(panel >= 0)
    listed = np.zeros((counts.shape[0], len(panel)), dtype=np.float64)
    listed[:, measured] = counts[:, panel[measured]].toarray()
    return listed
