"""Whether an image is the one that spots are placed in, told by the sizes of reduced copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.data.images.image import image_size
from bench.errors import DataError

_LARGEST = 4_000_000_000
_ROUNDING = 2.0  # pixels of the reduced copy, by which its size may differ from the full image's


@dataclass(frozen=True)
class ReducedImage:
    """A reduced copy of an image.

    Attributes
    ----------
    name
        Name of its file, or of its place in a file.
    size
        Width and height in pixels.
    scale
        Its pixels a pixel of the full image.
    """

    name: str
    size: tuple[int, int]
    scale: float

    @classmethod
    def of_file(cls, path: Path, scale: float) -> ReducedImage:
        """Copy in a file.

        Raises
        ------
        DataError
            The file is no image.
        """
        return cls(path.name, image_size(path, _LARGEST), scale)

    @property
    def full_size(self) -> tuple[int, int]:
        """Width and height of the full image, up to rounding."""
        return round(self.size[0] / self.scale), round(self.size[1] / self.scale)

    def fits(self, size: tuple[int, int], rounding: float = _ROUNDING) -> bool:
        """Whether an image of a size can be the full one."""
        return all(
            abs(side * self.scale - own) <= rounding
            for side, own in zip(size, self.size, strict=True)
        )


def other_size(image: Path, copies: Sequence[ReducedImage], instead: str) -> str:
    """Difference of an image's size from that which reduced copies tell.

    Parameters
    ----------
    image
        Image file.
    copies
        Reduced copies, at least one; an image that fits one of them is right.
    instead
        What is used instead, for the message.

    Returns
    -------
    str
        Empty if there is none.
    """
    try:
        size = image_size(image, _LARGEST)
    except DataError as error:
        return f"{error}; {instead} is used instead"
    if any(copy.fits(size) for copy in copies):
        return ""
    expected = copies[0].full_size
    across, down = size[0] / expected[0], size[1] / expected[1]
    times = f", {across:.3g} times as large" if abs(across / down - 1) < 0.01 else ""
    return (
        f"{image.name} is not the image that the spots were placed in: it has {size[0]} x"
        f" {size[1]} px instead of {expected[0]} x {expected[1]}{times}, by {copies[0].name} and"
        f" its scale factor; {instead} is used instead"
    )


def disagreement(copies: Sequence[ReducedImage]) -> str:
    """Warning on reduced copies that tell different sizes of the full image; empty otherwise.

    Parameters
    ----------
    copies
        Reduced copies of one image.

    Returns
    -------
    str
        One line, or an empty text.
    """
    for copy, other in pairwise(copies):
        # What is rounded in the larger copy is less than that in the smaller.
        small, large = sorted((copy, other), key=lambda one: one.scale)
        if not small.fits(large.full_size):
            (a, b), (c, d) = copy.full_size, other.full_size
            return (
                f"by {copy.name} and its scale factor the full image has {a} x {b} px, by"
                f" {other.name} {c} x {d}; one of them was resized, so that patches may be cut at"
                " wrong places"
            )
    return ""
