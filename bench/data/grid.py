"""Array coordinates of spots that lie on a grid, derived from their pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.errors import DataError

_NEIGHBOUR = 1.25  # pitches, within which a spot is a neighbour
_OFF_GRID = 0.2  # of the pitch, that a spot may lie beside its place
_FEW = 30  # spots that the first fit is made on
_ADVICE = "add the columns array_row and array_col to obs"


def array_of_grid(pixels: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Array row and column of spots on a square or hexagonal grid, which may be turned.

    The form and the direction of the grid follow from the directions of neighbours, by their
    four-fold and six-fold order (Nelson and Halperin, Physical Review B 19, 2457, 1979). The places
    are then counted outwards from the middle, with a linear fit that grows with the spots. In a
    hexagonal array columns are counted as Visium does: neighbours in a row are two apart.

    Parameters
    ----------
    pixels
        (spots, 2) pixel (x, y).
    where
        File, for the message.

    Returns
    -------
    tuple of two (spots,) int64 arrays
        Rows and columns, from 0.

    Raises
    ------
    DataError
        The spots lie on no such grid, or two at one place.
    """
    from scipy import spatial

    spots = np.asarray(pixels, dtype=np.float64)
    if len(spots) < 4:
        raise DataError(f"{where}: has no array coordinates; {_ADVICE}")
    tree = spatial.cKDTree(spots)
    nearest = tree.query(spots, k=2)[0][:, 1]
    pitch = float(np.median(nearest))
    if not pitch > 0 or float(nearest.min()) < pitch / 2:
        raise DataError(f"{where}: spots share their pixel coordinates; {_ADVICE}")
    pairs = tree.query_pairs(_NEIGHBOUR * pitch, output_type="ndarray")
    steps = spots[pairs[:, 1]] - spots[pairs[:, 0]]
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    order = {fold: np.exp(1j * fold * angles).mean() for fold in (4, 6)}
    hexagonal = abs(order[6]) > abs(order[4])
    fold = 6 if hexagonal else 4
    turn = float(np.angle(order[fold])) / fold
    pitch = float(np.median(np.hypot(*steps.T)))
    # Steps of a column and of a row in pixels; rows run along x as far as that can be had.
    unit = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * pitch
    basis = unit * [[0.5], [np.sqrt(3) / 2]] if hexagonal else unit
    places = _counted(spots, basis, hexagonal)
    off = np.linalg.norm(spots - _fitted(places, spots)(places), axis=1)
    if off.max() > _OFF_GRID * pitch or len(np.unique(places, axis=0)) < len(places):
        raise DataError(
            f"{where}: has no array coordinates, and its spots are on no square or hexagonal grid;"
            f" {_ADVICE}"
        )
    places -= places.min(axis=0)
    return places[:, 1], places[:, 0]


def _counted(spots: np.ndarray, basis: np.ndarray, hexagonal: bool) -> np.ndarray:
    """(spots, 2) int64 column and row, counted outwards from the middle spot."""
    distance = np.linalg.norm(spots - np.median(spots, axis=0), axis=1)
    outwards = np.argsort(distance, kind="stable")
    origin = spots[outwards[0]]
    places = np.zeros((len(spots), 2), dtype=np.int64)
    inverse = np.linalg.inv(basis)
    number = min(_FEW, len(spots))
    while True:
        near = outwards[:number]
        places[near] = _rounded((spots[near] - origin) @ inverse, hexagonal)
        if number == len(spots):
            return places
        fit = _fitted(places[near], spots[near])
        origin = fit(np.zeros((1, 2)))[0]
        basis = fit(np.eye(2)) - origin
        if abs(np.linalg.det(basis)) < 1e-9:
            return places
        inverse = np.linalg.inv(basis)
        number = min(2 * number, len(spots))


def _rounded(steps: np.ndarray, hexagonal: bool) -> np.ndarray:
    """Nearest places of the grid; in a hexagonal one column and row are both even or both odd."""
    if not hexagonal:
        return np.rint(steps).astype(np.int64)
    rows = np.rint(steps[:, 1]).astype(np.int64)
    columns = 2 * np.rint((steps[:, 0] - rows) / 2).astype(np.int64) + rows
    return np.column_stack([columns, rows])


def _fitted(places: np.ndarray, spots: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Linear map from places to pixels."""
    design = np.column_stack([places, np.ones(len(places))])
    solution = np.linalg.lstsq(design, spots, rcond=None)[0]
    return lambda at: np.column_stack([at, np.ones(len(at))]) @ solution
