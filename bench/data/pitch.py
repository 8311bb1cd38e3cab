"""Pitch of a spatial array in pixels of the image, from which its scale follows."""

from __future__ import annotations

import numpy as np

from bench.errors import DataError
from bench.evaluate.grid import HEXAGONAL_ROWS

_SMALLEST = 1e-6  # pixels, which rounding alone may leave


_TOLERANCE = 0.03  # of the ratio of two steps, by which an array is recognised
_SHIFTED = 0.15  # of the pitch, that a fit leaves where rows are shifted
_FORMS = {
    "square": (1.0, 1.0),
    "hexagonal, columns counted twice": (0.5, HEXAGONAL_ROWS),
    "hexagonal, rows counted twice": (HEXAGONAL_ROWS, 0.5),
    "hexagonal, every second row shifted": (1.0, HEXAGONAL_ROWS),
    "hexagonal, every second column shifted": (HEXAGONAL_ROWS, 1.0),
}
"""Forms of arrays: steps of a column and of a row in pitches."""


def spot_pitch(array_xy: np.ndarray, spatial: np.ndarray) -> float:
    """Distance of neighbouring spots, from a linear fit of pixel on array coordinates.

    The ratio of the fitted steps of a column and of a row tells the form of the array: 1 for a
    square one, 1 to the square root of 3 for Visium's, which counts columns twice, and so on.
    Where it fits none, the mean of both steps is the pitch; see :func:`pitch_disagreement`.

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
    column, row, residual = _steps(array_xy, spatial)
    column_step, row_step = _FORMS[_form(column, row, residual) or "square"]
    return (column / column_step + row / row_step) / 2


def pitch_disagreement(array_xy: np.ndarray, spatial: np.ndarray) -> str:
    """Warning on an array whose steps in the image fit no usual form; empty otherwise.

    See :func:`spot_pitch` for the parameters.
    """
    column, row, residual = _steps(array_xy, spatial)
    form = _form(column, row, residual)
    steps = f"columns of the array are {column:.1f} px apart and rows {row:.1f} px"
    if form is None:
        return (
            f"{steps}, which is neither a square nor a hexagonal array; the scale is measured from"
            " their mean and may be wrong, check the array coordinates"
        )
    if form.endswith("shifted"):
        pitch = spot_pitch(array_xy, spatial)
        return f"{steps}: taken as {form}, {pitch:.1f} px from spot to spot"
    return ""


def _steps(array_xy: np.ndarray, spatial: np.ndarray) -> tuple[float, float, float]:
    """Steps of a column and of a row in pixels, and the root mean square residual of the fit."""
    columns, rows = np.asarray(array_xy, dtype=np.float64).T
    design = np.column_stack([columns, rows, np.ones(len(columns))])
    centred = design[:, :2] - design[:, :2].mean(axis=0)
    if len(design) < 3 or np.linalg.matrix_rank(centred) < 2:
        raise DataError("the spots lie in one line of the array; their pitch cannot be measured")
    solution = np.linalg.lstsq(design, spatial, rcond=None)[0]
    (along, across), _ = np.split(solution, [2])
    residual = float(np.sqrt(((design @ solution - spatial) ** 2).sum(axis=1).mean()))
    column, row = float(np.hypot(*along)), float(np.hypot(*across))
    if not (np.isfinite([column, row]).all() and min(column, row) > _SMALLEST):
        raise DataError("the spots have no measurable pitch in the image")
    return column, row, residual


def _form(column: float, row: float, residual: float) -> str | None:
    ratio = column / row
    near = {name: abs(ratio / (across / down) - 1) for name, (across, down) in _FORMS.items()}
    best = min(near, key=lambda name: near[name])
    # Half a pitch to one side and the other leaves a quarter of it.
    shifted = residual > _SHIFTED * min(column, row)
    if near[best] > _TOLERANCE or (best.endswith("shifted") and not shifted):
        return None
    return best
