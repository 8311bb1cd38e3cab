"""Which tiles around a spot are inside the image."""

from __future__ import annotations

import numpy as np

_RELEASED_EDGE = 224
"""Edge of a tile that the released mask takes for granted, in pixels of any image."""


def tiles_inside(
    centres: np.ndarray, size: int, tiles: int, extent: tuple[float, float]
) -> np.ndarray:
    """Tiles that are not partly outside of the image.

    Parameters
    ----------
    centres : (spots, 2) full-resolution pixel (x, y)
    size : edge of a tile in full-resolution pixels
    tiles : tiles along an edge of the neighbourhood, odd
    extent : width and height of the image in full-resolution pixels

    Returns
    -------
    (spots, tiles**2) bool, tile ``tiles * row + column``, rows from the top of the image; the
    row and column of the spot itself, which is in the image, always count as inside
    """
    corner = np.floor(centres).astype(np.int64) - tiles * size // 2
    edges = size * np.arange(tiles + 1)
    along = corner[:, :, None] + edges
    inside = (along[..., :-1] >= 0) & (along[..., 1:] <= np.array(extent)[:, None])
    inside[..., tiles // 2] = True
    columns, rows = inside[:, 0], inside[:, 1]
    return (rows[:, :, None] & columns[:, None, :]).reshape(len(centres), -1)


def released_mask(
    centres: np.ndarray, size: int, tiles: int, extent: tuple[float, float]
) -> np.ndarray:
    """The mask of the 2025 code; parameters and result as of :func:`tiles_inside`.

    It takes x for the row of a tile, measures from the corner of the neighbourhood in place of
    the spot, and takes tiles for 224 pixels wide whatever the scale of the image.
    """
    corner = np.floor(centres).astype(np.int64) - tiles * size // 2
    middle = tiles // 2
    rings = np.abs(np.arange(tiles) - middle)
    # Ring 2 of five tiles reaches 5 half tiles from the middle, ring 1 reaches 3.
    reach = _RELEASED_EDGE // 2 * (2 * rings + 1)
    low, high = corner[:, :, None] - reach, corner[:, :, None] + reach
    before = np.arange(tiles) < middle
    after = np.arange(tiles) > middle
    beyond = np.array(extent)[:, None]
    outside = (before & (low < 0)) | (after & (high > beyond))
    rows, columns = ~outside[:, 0], ~outside[:, 1]
    return (rows[:, :, None] & columns[:, None, :]).reshape(len(centres), -1)
