"""TIFF and the whole-slide formats built on it, read tile by tile."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import tifffile
from cachetools import LRUCache
from PIL import Image

from bench.data.images.raster import Raster, check_pixels, effective_bits
from bench.data.images.tiff_level import Level, area, extent
from bench.errors import DataError
from bench.files import one_line

CACHED_BYTES = 256 << 20
"""Decoded tiles kept for the next crop, in bytes."""

_SMALL_TIFF = 2 << 30  # bytes; a TIFF of more needs offsets of 64 bits
_PIECE_EDGE = 4096  # of what is averaged at a time for a thumbnail
_NO_SLIDE = {"thumbnail", "label", "macro", "map", "overview"}
_NDPI_TAG = 65420
_SAMPLED_BLOCKS = 16
_SAMPLED_SIDE = 1024

# Oddities that tifffile logs are either corrected by it or end in an error of ours.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn any error of the decoders into one line that names the file."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: image is missing") from None
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise DataError(f"{path}: image cannot be read ({reason})") from error


class TiffRaster(Raster):
    """An image in a TIFF; only the tiles or strips of a requested region are decoded.

    Grey, palette, CMYK and YCbCr images become RGB as Pillow converts them; transparent pixels
    become white. Samples of more than 8 bits are scaled linearly so that the largest value becomes
    255 (16 bits: divided by 257 and rounded); 10 to 14 bits that lie in 16 are recognised by a
    sample of the image. Tiles that the file leaves out are black.

    Parameters
    ----------
    path, max_pixels
        See :func:`~bench.data.images.image.open_raster`.

    Raises
    ------
    DataError
        Damaged, larger than `max_pixels`, of samples that are no image, or stored in tiles or
        strips too large to be decoded one at a time.
    """

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path = path
        with _blaming(path):
            self._file = _open(path)
            try:
                series = _slide_of(self._file)
                largest = max(series.levels, key=area)
                height, width = extent(largest)
                if not (height and width):
                    raise DataError(f"{path}: image cannot be read (it has no pixels)")
                check_pixels(path, width, height, max_pixels)
                self._levels = [largest, *(x for x in series.levels if area(x) < area(largest))]
                self._opened = {0: Level(path, self._file, largest)}
            except BaseException:
                self._file.close()
                raise
        self._bits = self._used_bits()
        self.size = (width, height)
        self.rows_together = self._opened[0].block_height
        block = self._opened[0].block_bytes
        self._blocks: LRUCache[tuple[int, int, int], np.ndarray] = LRUCache(
            max(CACHED_BYTES, block), getsizeof=lambda held: int(held.nbytes)
        )

    def _used_bits(self) -> int | None:
        """Number of bits in use, from a sample of blocks, for 16-bit images; None for others."""
        if self._opened[0].bits != 16:
            return None
        number = self._level_for(_SAMPLED_SIDE)
        level = self._opened[number]
        down = math.ceil(level.height / level.block_height)
        across = math.ceil(level.width / level.block_width)
        every = max(1, down * across // _SAMPLED_BLOCKS)
        largest = 0
        with _blaming(self.path):
            for place in range(0, down * across, every):
                largest = max(largest, int(level.samples(*divmod(place, across)).max(initial=0)))
        return effective_bits(largest, 16)

    def close(self) -> None:
        """Close the file and free decoded tiles."""
        self._blocks.clear()
        self._file.close()

    def crop(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """See :meth:`Raster.crop`; only the tiles that overlap the region are decoded."""
        return self._crop(0, left, top, width, height)

    def _crop(self, number: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        level = self._opened[number]
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        first_x, last_x = max(left, 0), min(left + width, level.width)
        first_y, last_y = max(top, 0), min(top + height, level.height)
        if first_x >= last_x or first_y >= last_y:
            return pixels
        tall, wide = level.block_height, level.block_width
        for row in range(first_y // tall, (last_y - 1) // tall + 1):
            for column in range(first_x // wide, (last_x - 1) // wide + 1):
                block = self._block(number, row, column)
                y0, y1 = max(first_y, row * tall), min(last_y, row * tall + tall)
                x0, x1 = max(first_x, column * wide), min(last_x, column * wide + wide)
                pixels[y0 - top : y1 - top, x0 - left : x1 - left] = block[
                    y0 - row * tall : y1 - row * tall, x0 - column * wide : x1 - column * wide
                ]
        return pixels

    def _block(self, number: int, row: int, column: int) -> np.ndarray:
        key = (number, row, column)
        block = self._blocks.get(key)
        if block is None:
            with _blaming(self.path):
                block = self._opened[number].block(row, column, self._bits)
            if block.nbytes <= self._blocks.maxsize:
                self._blocks[key] = block
        return block

    def thumbnail(self, side: int) -> tuple[Image.Image, float]:
        """See :meth:`Raster.thumbnail`; from the level that is large enough."""
        number = self._level_for(side)
        level = self._opened[number]
        factor = max(1, max(level.width, level.height) // max(side, 1))
        width, height = math.ceil(level.width / factor), math.ceil(level.height / factor)
        small = Image.new("RGB", (width, height))
        # Averaged piece by piece, each a whole number of averaged pixels that holds a whole row
        # of tiles or a part of one; nothing but the small copy is kept.
        rows = factor * max(1, min(level.block_height, _PIECE_EDGE) // factor)
        columns = factor * max(1, _PIECE_EDGE // factor)
        for top in range(0, level.height, rows):
            tall = min(rows, level.height - top)
            for left in range(0, level.width, columns):
                wide = min(columns, level.width - left)
                piece = Image.fromarray(self._crop(number, left, top, wide, tall))
                small.paste(piece.reduce(factor), (left // factor, top // factor))
        small.thumbnail((side, side))
        return small, small.size[0] / self.size[0]

    def _level_for(self, side: int) -> int:
        """Number of the smallest level that is no smaller than the thumbnail."""
        enough = [
            number
            for number, level in enumerate(self._levels)
            if max(extent(level)) >= side or number == 0
        ]
        chosen = min(enough, key=lambda number: area(self._levels[number]))
        if chosen not in self._opened:
            with _blaming(self.path):
                self._opened[chosen] = Level(self.path, self._file, self._levels[chosen])
        return chosen


def write_tiles(path: Path, pixels: np.ndarray) -> None:
    """Write a TIFF of compressed tiles, without loss; the same pixels give the same bytes.

    Parameters
    ----------
    path
        Temporary file of an atomic write.
    pixels
        (height, width, 3) uint8 RGB.
    """
    tifffile.imwrite(
        path,
        pixels,
        bigtiff=pixels.nbytes > _SMALL_TIFF,
        photometric="rgb",
        tile=(256, 256),
        compression="deflate",
        metadata=None,
        software=False,
    )


def _open(path: Path) -> tifffile.TiffFile:
    # NDPI is told by its tag, not by the ending that tifffile would go by; and a file that says
    # it goes on in other files is not followed there.
    file = tifffile.TiffFile(path, is_ndpi=False, _multifile=False)
    if _NDPI_TAG in cast("Any", file.pages.first).tags:
        file.close()
        file = tifffile.TiffFile(path, is_ndpi=True, _multifile=False)
    return file


def _slide_of(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The largest series, that is the slide and not its label or a thumbnail; the first of such."""
    images = [
        series
        for series in file.series
        if series.dtype is not None and {"X", "Y"} <= set(series.axes)
    ]
    named = [series for series in images if series.name.lower() not in _NO_SLIDE]
    whole = [series for series in named if not series.keyframe.is_reduced]
    candidates = whole or named or images
    if not candidates:
        raise ValueError("there is no image in it")
    return max(candidates, key=area)
