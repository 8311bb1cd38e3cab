"""Scales of images, and the one that new images are brought to."""

from __future__ import annotations

from collections.abc import Sequence

from bench.errors import DataError

LARGEST_FACTOR = 4.0
"""Factor between a new image's scale and the training's beyond which a prediction is refused."""

SAME_SCALE = 0.01
"""Relative difference within which two scales are one."""


def matching_scale(known: Sequence[float], new: float, what: str = "the image") -> float | None:
    """Scale that a new image is brought to: None where it is of the training's own.

    Parameters
    ----------
    known
        Micrometres a pixel of the training sections.
    new
        Of the new image.
    what
        What the error calls the new image.

    Returns
    -------
    float or None
        The nearest of the training scales, which methods then see; None where `new` lies within
        their range.

    Raises
    ------
    DataError
        It is beyond four times the training's.
    """
    if not known:
        return None
    low, high = min(known), max(known)
    if low * (1 - SAME_SCALE) <= new <= high * (1 + SAME_SCALE):
        return None
    nearest = low if new < low else high
    if max(new / nearest, nearest / new) > LARGEST_FACTOR:
        raise DataError(
            f"{what} has {new:.3g} um a pixel and the training sections have"
            f" {low:.3g} to {high:.3g}: beyond {LARGEST_FACTOR:.0f} times, the same tissue looks"
            " like another; take an image of a similar magnification"
        )
    return nearest
