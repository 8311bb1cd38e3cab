"""Positions of spots as rows of a network's position tables. Importing this imports no torch."""

from __future__ import annotations

import numpy as np

from bench.errors import ConfigError


def check_positions(position: np.ndarray, rows: int, *, method: str, section: str) -> np.ndarray:
    """The positions, if position tables of so many rows hold them.

    Parameters
    ----------
    position : (spots, 2) int64
    rows : rows of each of the two tables
    method, section : names for the error

    Returns
    -------
    `position` itself

    Raises
    ------
    ConfigError
        A position is negative or beyond the last row.
    """
    if len(position) and (position.min() < 0 or position.max() >= rows):
        raise ConfigError(
            f"{method}: section {section} has positions {position.min()} to {position.max()}, but"
            f" the position tables have {rows} rows (position_rows)"
        )
    return position


def sinusoids(rows: int, width: int) -> np.ndarray:
    """Fixed sines and cosines of positions, as in Vaswani et al., arXiv 1706.03762.

    Parameters
    ----------
    rows
        Positions from 0 on.
    width
        Features of each: sines at even places, cosines at odd ones.

    Returns
    -------
    (rows, width) float32
    """
    features = np.arange(width)
    rates = 10_000.0 ** (-(features // 2 * 2) / width)
    angles = np.arange(rows)[:, None] * rates
    return np.where(features % 2, np.cos(angles), np.sin(angles)).astype(np.float32)
