"""Oracles: shown the truth on purpose, to tell what a score rewards. Never methods."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def depth(totals: np.ndarray, genes: int) -> np.ndarray:
    """Predict every gene by the log of the spot's own total count.

    Parameters
    ----------
    totals : (spots,) counts of each spot over all measured genes
    genes : number of panel genes

    Returns
    -------
    (spots, genes) float64, ``log(1 + total)`` in every column: a scale of its own, so only
    correlations mean something
    """
    return np.repeat(np.log1p(np.asarray(totals, dtype=np.float64))[:, None], genes, axis=1)


ORACLES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"depth": depth}
