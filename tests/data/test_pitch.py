import numpy as np
import pytest

from bench.data.pitch import spot_pitch
from bench.errors import DataError

SQUARE = np.stack(np.meshgrid(np.arange(2, 9), np.arange(3, 12)), axis=-1).reshape(-1, 2)
ROWS, COLUMNS = np.divmod(np.arange(200), 20)
HEXAGONAL = np.column_stack([2 * COLUMNS + ROWS % 2, ROWS])


def turned(points, degrees):
    angle = np.radians(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("degrees", [0, 7, 90, 181])
def test_the_pitch_of_a_square_array_is_found_however_it_lies(degrees):
    spatial = turned(SQUARE * 291.0, degrees) + 5000
    assert spot_pitch(SQUARE, spatial) == pytest.approx(291.0)


@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_the_pitch_of_a_hexagonal_array_is_that_of_neighbours(degrees):
    spatial = turned(HEXAGONAL * [50.0, 100 * np.sqrt(3) / 2], degrees)
    nearest = np.sort(np.linalg.norm(spatial[45] - spatial, axis=1))[1:7]
    np.testing.assert_allclose(nearest, 100)
    assert spot_pitch(HEXAGONAL, spatial) == pytest.approx(100)


def test_crooked_spots_and_gaps_do_not_matter_much():
    rng = np.random.default_rng(0)
    kept = rng.random(len(SQUARE)) < 0.6
    spatial = SQUARE[kept] * 291.0 + rng.normal(0, 6, (kept.sum(), 2))
    assert spot_pitch(SQUARE[kept], spatial) == pytest.approx(291, rel=0.01)


@pytest.mark.parametrize("chosen", [SQUARE[:7], SQUARE[::7], SQUARE[:2], SQUARE[[0, 0, 0, 0]]])
def test_spots_in_one_line_have_no_pitch(chosen):
    with pytest.raises(DataError, match="one line"):
        spot_pitch(chosen, chosen * 10.0)


def test_spots_in_one_place_have_no_pitch():
    with pytest.raises(DataError, match="no measurable pitch"):
        spot_pitch(SQUARE, np.full(SQUARE.shape, 7.0))
