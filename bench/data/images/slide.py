"""Interface of images that are read in tiles and never as a whole."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from PIL import Image

from bench.errors import DataError

SlideReader = Literal["tifffile", "pillow", "openslide"]
"""Library that decodes a slide."""

LARGEST_REGION = 1 << 26
"""Pixels that are read at a time: 192 MB of RGB."""

_PIECE_EDGE = 4096  # of what is averaged at a time for an overview
_SMALLEST_OVERVIEW = 512


@dataclass(frozen=True)
class SlideLevel:
    """One resolution of a slide.

    Attributes
    ----------
    width, height
        Pixels.
    reduction
        Full-resolution pixels along an edge of one of its pixels.
    """

    width: int
    height: int
    reduction: float

    @classmethod
    def of(cls, size: tuple[int, int], full: tuple[int, int]) -> SlideLevel | None:
        """Level of a size (width, height); None where it cannot be a copy of the full image.

        Writers of pyramids leave out or add the pixels that fill no pixel of a level, so that
        100,003 px become 25,000 or 25,001: such a level is reduced by 4 exactly.
        """
        (width, height), (full_width, full_height) = size, full
        whole = max(1, round(full_width / width))
        sides = ((width, full_width), (height, full_height))
        if all(abs(own * whole - of) < whole for own, of in sides):
            return cls(width, height, float(whole))
        # Where the other side is rounded by up to 2 px of this level.
        if abs(height - full_height * width / full_width) > 2:
            return None
        return cls(width, height, math.sqrt(full_width / width * full_height / height))


class WholeSlide(ABC):
    """An image whose regions are read on demand, at the resolution of one of its levels.

    Attributes
    ----------
    path
        Image file.
    reader
        Library that decodes it.
    levels
        Resolutions, the full one first.
    micrometres_per_pixel
        Edge of a full-resolution pixel by the file's metadata; None where they do not tell.
    scale_fault
        Reason why a scale that the metadata state is not taken; empty where they state none.
    background
        Red, green and blue of transparent pixels and of pixels outside of the image.
    rows_together
        Full-resolution rows that are decoded together. When reading many regions, read the image
        in horizontal bands of that height.
    """

    path: Path
    reader: SlideReader
    levels: tuple[SlideLevel, ...]
    micrometres_per_pixel: float | None = None
    scale_fault: str = ""
    background: tuple[int, int, int] = (255, 255, 255)
    rows_together: int = 256

    @property
    def width(self) -> int:
        """Pixels at full resolution."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Pixels at full resolution."""
        return self.levels[0].height

    def read(
        self,
        left: int,
        top: int,
        width: int,
        height: int,
        *,
        level: int = 0,
        outside: tuple[int, int, int] | None = None,
    ) -> np.ndarray:
        """Region of the image.

        Parameters
        ----------
        left, top
            First column and row in pixels of the level; may lie outside of the image.
        width, height
            Extent in pixels of the level.
        level
            Number of the level.
        outside
            Colour of pixels outside of the image; :attr:`background` where None.

        Returns
        -------
        (height, width, 3) uint8 array, RGB

        Raises
        ------
        DataError
            The file is damaged in this region; no such level; an empty region, or one of more
            than :data:`LARGEST_REGION` pixels.
        """
        if not (0 <= level < len(self.levels)):
            raise DataError(f"{self.path}: has {len(self.levels)} levels; {level} is none of them")
        if width < 1 or height < 1 or width * height > LARGEST_REGION:
            raise DataError(f"{self.path}: a region of {width} x {height} px cannot be read")
        there = self.levels[level]
        x0, x1 = max(left, 0), min(left + width, there.width)
        y0, y1 = max(top, 0), min(top + height, there.height)
        if (x0, y0, x1, y1) == (left, top, left + width, top + height):
            return self._inside(level, left, top, width, height)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        pixels[:] = self.background if outside is None else outside
        if x0 < x1 and y0 < y1:
            part = self._inside(level, x0, y0, x1 - x0, y1 - y0)
            pixels[y0 - top : y1 - top, x0 - left : x1 - left] = part
        return pixels

    @abstractmethod
    def _inside(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Region that lies in the image as a whole; see :meth:`read`."""

    def level_for(self, reduction: float) -> int:
        """Number of the smallest level that is reduced by no more than asked for."""
        enough = [n for n, level in enumerate(self.levels) if level.reduction <= reduction + 1e-6]
        return max(enough, key=lambda n: self.levels[n].reduction, default=0)

    def overview(self, side: int) -> Image.Image:
        """A reduced RGB copy of the whole image.

        Averaged piece by piece from the smallest level that is no smaller; without such a level
        every tile is decoded once.

        Parameters
        ----------
        side
            Longest edge in pixels; a smaller image keeps its size.
        """
        wanted = max(side, _SMALLEST_OVERVIEW)
        number = self.level_for(max(1.0, max(self.width, self.height) / wanted))
        level = self.levels[number]
        factor = max(1, max(level.width, level.height) // wanted)
        small = Image.new(
            "RGB", (math.ceil(level.width / factor), math.ceil(level.height / factor))
        )
        rows = factor * max(1, min(self.rows_together, _PIECE_EDGE) // factor)
        columns = factor * max(1, _PIECE_EDGE // factor)
        for top in range(0, level.height, rows):
            tall = min(rows, level.height - top)
            for left in range(0, level.width, columns):
                wide = min(columns, level.width - left)
                piece = Image.fromarray(self._inside(number, left, top, wide, tall))
                small.paste(piece.reduce(factor), (left // factor, top // factor))
        if max(small.size) > side:
            small.thumbnail((side, side))
        return small

    @abstractmethod
    def close(self) -> None:
        """Close the file and free decoded pixels."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_slide(path: Path, width: int, height: int, most: int, advice: str = "") -> None:
    """Refuse an image without pixels or of more than are accepted.

    Parameters
    ----------
    path
        What errors name.
    width, height
        Pixels.
    most
        Largest product of the two.
    advice
        How to mend it, for the message.

    Raises
    ------
    DataError
        One of the two.
    """
    if width < 1 or height < 1:
        raise DataError(f"{path}: image cannot be read (it has no pixels)")
    if width * height > most:
        raise DataError(
            f"{path}: image of {width} x {height} px exceeds the ceiling of {most:,} px{advice}"
        )
