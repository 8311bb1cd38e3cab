"""Array coordinates counted from pixels, and the pitch of arrays of every form."""

import numpy as np
import pytest

from bench.data.grid import array_of_grid
from bench.data.pitch import pitch_disagreement, spot_pitch
from bench.errors import DataError

ROWS, COLUMNS = 30, 40


def square(pitch=40.0):
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(COLUMNS), np.arange(ROWS)))
    return np.column_stack([column, row]), np.column_stack([column, row]) * pitch


def visium(pitch=40.0):
    array = np.array([(c, r) for r in range(ROWS) for c in range(r % 2, 2 * COLUMNS, 2)])
    return array, array * (pitch / 2, pitch * np.sqrt(3) / 2)


def staggered(pitch=40.0):
    array, _ = square()
    column, row = array.T
    return array, np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2]) * pitch


def turned(xy, degrees):
    a = np.deg2rad(degrees)
    return xy @ [[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]


@pytest.mark.parametrize("form", [square, visium])
@pytest.mark.parametrize("degrees", [0, 0.7, -3, 12])
def test_places_are_counted_however_the_grid_is_turned(form, degrees):
    random = np.random.default_rng(0)
    array, xy = form()
    kept = random.random(len(array)) < 0.8
    shifted = turned(xy, degrees)[kept] + random.normal(0, 1.0, (kept.sum(), 2))
    rows, columns = array_of_grid(shifted, "made up")
    found = np.column_stack([columns, rows])
    assert len(np.unique(found, axis=0)) == len(found)
    # Neighbours in the array stay neighbours: the pitch comes out again.
    assert spot_pitch(found, shifted) == pytest.approx(40, rel=5e-3)
    if degrees == 0:
        np.testing.assert_array_equal(found - found[0], array[kept] - array[kept][0])


@pytest.mark.parametrize(
    "pixels",
    [
        np.random.default_rng(1).uniform(0, 1000, (200, 2)),
        np.zeros((10, 2)),
        np.array([[0.0, 0.0], [1.0, 0.0]]),
    ],
    ids=["scattered", "one place", "two spots"],
)
def test_spots_on_no_grid_are_refused(pixels):
    with pytest.raises(DataError, match="array_row and array_col"):
        array_of_grid(pixels, "made up")


@pytest.mark.parametrize("form", [square, visium, staggered])
def test_the_pitch_is_the_distance_of_neighbours_in_every_form(form):
    array, xy = form(37.0)
    assert spot_pitch(array, turned(xy, 5)) == pytest.approx(37, rel=1e-3)


def test_a_staggered_array_is_said_and_one_that_fits_no_form_warned_of():
    assert pitch_disagreement(*square()) == ""
    assert pitch_disagreement(*visium()) == ""
    assert "every second row shifted, 40.0 px" in pitch_disagreement(*staggered())
    array, xy = square()
    assert "neither a square nor a hexagonal" in pitch_disagreement(array, xy * (1.0, 1.4))
