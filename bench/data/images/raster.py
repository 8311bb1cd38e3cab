"""Interface for reading regions of an image, and the check of its size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from PIL import Image

from bench.errors import DataError


class Raster(ABC):
    """An image whose regions are read on demand.

    Attributes
    ----------
    path
        Image file.
    size
        Width and height in pixels, at full resolution.
    rows_together
        Rows of pixels that are decoded together; None where the whole image is. When reading
        many regions, read the image in horizontal bands of that height.
    """

    path: Path
    size: tuple[int, int]
    rows_together: int | None = None

    @abstractmethod
    def crop(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Region of the image; pixels outside the image are black.

        Parameters
        ----------
        left, top
            First column and row; may lie outside.
        width, height
            Extent in pixels.

        Returns
        -------
        (height, width, 3) uint8 array, RGB

        Raises
        ------
        DataError
            The file is damaged in this region.
        """

    @abstractmethod
    def thumbnail(self, side: int) -> tuple[Image.Image, float]:
        """A reduced RGB copy, and its scale in pixels per pixel of the image.

        Parameters
        ----------
        side
            Longest edge of the copy; a smaller image keeps its size.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file and free decoded pixels."""


def check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse an image that is larger than its card allows.

    Raises
    ------
    DataError
        More than `max_pixels`.
    """
    if width * height > max_pixels:
        raise DataError(
            f"{path}: image of {width} x {height} px exceeds the card's ceiling of"
            f" {max_pixels} px; raise max_image_pixels in the card if it is genuine"
        )


def on_white(colours: np.ndarray, opacity: np.ndarray, *, associated: bool = False) -> np.ndarray:
    """Pixels over a white ground, as glass is.

    Parameters
    ----------
    colours
        (height, width, samples) uint8.
    opacity
        (height, width, 1) uint8, 0 for transparent.
    associated
        Whether the colours have been multiplied by the opacity.

    Returns
    -------
    (height, width, samples) uint8 array
    """
    alpha = opacity.astype(np.uint32)
    covered = colours.astype(np.uint32)
    if not associated:
        covered = (covered * alpha + 127) // 255
    return np.asarray(np.minimum(covered + 255 - alpha, 255).astype(np.uint8))


def effective_bits(largest: int, bits: int) -> int:
    """Bits that samples use of those that they are stored in.

    Cameras of 10 to 14 bits store 16-bit samples, in which white is far below the maximum.

    Parameters
    ----------
    largest
        Largest sample, which in a bright-field image is close to white.
    bits
        Bits that a sample is stored in.

    Examples
    --------
    >>> effective_bits(4080, 16), effective_bits(60_000, 16), effective_bits(200, 16)
    (12, 16, 8)
    """
    used = max(8, largest.bit_length())
    return used if used <= bits - 2 else bits
