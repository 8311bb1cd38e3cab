"""One rule for hexagonal arrays, by values, and what follows from it."""

import numpy as np
import pytest

from bench.data.pitch import spot_pitch
from bench.evaluate.grid import is_hexagonal
from bench.evaluate.spatial import grid_neighbours

COLUMNS, ROWS = (axis.ravel() for axis in np.meshgrid(np.arange(9), np.arange(11)))
SQUARE = np.column_stack([COLUMNS, ROWS])
VISIUM = np.column_stack([2 * COLUMNS + ROWS % 2, ROWS])


@pytest.mark.parametrize(
    ("array_xy", "hexagonal"),
    [
        pytest.param(SQUARE, False, id="square"),
        pytest.param(VISIUM, True, id="visium"),
        pytest.param(VISIUM + np.array([1, 0]), True, id="visium, one column on"),
        pytest.param(VISIUM - 50, True, id="negative coordinates"),
        pytest.param(VISIUM[::-3], True, id="some spots"),
        pytest.param(VISIUM.astype(float), True, id="floating point"),
        pytest.param(2 * SQUARE, False, id="square in steps of two"),
        pytest.param(VISIUM[ROWS % 2 == 0], False, id="even rows alone"),
        pytest.param(VISIUM[ROWS == 3], False, id="one row"),
        pytest.param(VISIUM[:1], False, id="one spot"),
        pytest.param(VISIUM[:0], False, id="no spot"),
        pytest.param(np.vstack([VISIUM, [[1, 0]]]), False, id="a spot between two columns"),
    ],
)
def test_a_hexagonal_array_is_told_by_its_coordinates(array_xy, hexagonal):
    assert is_hexagonal(array_xy) is hexagonal


@pytest.mark.parametrize(
    ("array_xy", "spatial", "neighbours"),
    [(SQUARE, SQUARE * 100.0, 4), (VISIUM, VISIUM * [50.0, 50 * np.sqrt(3)], 6)],
)
def test_pitch_and_neighbours_go_by_the_same_rule(array_xy, spatial, neighbours):
    middle = len(array_xy) // 2
    inner = grid_neighbours(array_xy)[middle]
    assert inner.nnz == neighbours
    distance = np.linalg.norm(spatial[inner.indices] - spatial[middle], axis=1)
    np.testing.assert_allclose(distance, spot_pitch(array_xy, spatial), rtol=1e-12)
