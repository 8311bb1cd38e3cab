"""Pitch of a spatial array in pixels of the image, from which its scale follows."""

from __future__ import annotations

import numpy as np

from bench.errors import DataError
from bench.evaluate.grid import HEXAGONAL_ROWS, is_hexagonal

_SMALLEST = 1e-6  # pixels, which rounding alone may leave


def spot_pitch(array_xy: np.ndarray, spatial: np.ndarray) -> float:
    """Distance of neighbouring spots, from a linear fit of pixel on array coordinates.

    A hexagonal array is recognised by its coordinates, see
    :func:`bench.evaluate.grid.is_hexagonal`.

    Parameters
    ----------
    array_xy
        (spots, 2) array coordinates (column, row).
    spatial
        (spots, 2) pixel (x, y).

    Returns
    -------
    float
        Pixels.

    Raises
    ------
    DataError
        All spots lie in one line, or in one place: no grid can be told from them.
    """
    columns, rows = np.asarray(array_xy, dtype=np.float64).T
    design = np.column_stack([columns, rows, np.ones(len(columns))])
    centred = design[:, :2] - design[:, :2].mean(axis=0)
    if len(design) < 3 or np.linalg.matrix_rank(centred) < 2:
        raise DataError("the spots lie in one line of the array; their pitch cannot be measured")
    (along, across), _ = np.split(np.linalg.lstsq(design, spatial, rcond=None)[0], [2])
    column, row = float(np.hypot(*along)), float(np.hypot(*across))
    if is_hexagonal(array_xy):
        column, row = 2 * column, row / HEXAGONAL_ROWS
    if not (np.isfinite([column, row]).all() and min(column, row) > _SMALLEST):
        raise DataError("the spots have no measurable pitch in the image")
    return (column + row) / 2
