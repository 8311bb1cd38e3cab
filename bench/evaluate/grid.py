"""Shape of the array that spots were printed on, told from their array coordinates."""

from __future__ import annotations

import numpy as np

HEXAGONAL_ROWS = np.sqrt(3) / 2
"""Distance of two rows of a hexagonal array in pitches."""


def is_hexagonal(array_xy: np.ndarray) -> bool:
    """Whether array coordinates are those of a hexagonal array, as Visium's.

    Column and row of every spot are both even or both odd, or one even and one odd for all spots;
    neighbours in a row are two columns apart, and there are even and odd rows. A square array of
    which only every second row is left has no odd rows, or no even ones, and is not hexagonal.

    Parameters
    ----------
    array_xy : (spots, 2) array coordinates (column, row)

    Examples
    --------
    >>> is_hexagonal(np.array([[0, 0], [2, 0], [1, 1], [3, 1]]))
    True
    >>> is_hexagonal(np.array([[0, 0], [1, 0], [0, 1], [1, 1]]))
    False
    """
    array_xy = np.asarray(array_xy)
    return len(np.unique(array_xy.sum(axis=1) % 2)) == 1 and len(np.unique(array_xy[:, 1] % 2)) == 2
