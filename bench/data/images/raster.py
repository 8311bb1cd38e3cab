"""The interface of an image of which regions are read, and the check of its size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from PIL import Image

from bench.errors import DataError


class Raster(ABC):
    """An image of which parts are read.

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
        """Part of the image; what lies outside of it is black.

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
            The file turns out to be damaged there.
        """

    @abstractmethod
    def thumbnail(self, side: int) -> tuple[Image.Image, float]:
        """A small RGB copy, and how many of its pixels one of the image makes.

        Parameters
        ----------
        side
            Longest edge of the copy; a smaller image keeps its size.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file and of what was decoded."""


def check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse an image that is larger than its dataset says.

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
