"""One resolution of a TIFF: its blocks, checked before they are decoded, as RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from bench.data.images.raster import on_white
from bench.errors import DataError

LARGEST_TILE = 512 << 20
"""Largest size of a decoded tile or strip, in bytes."""

_MAPPED_EDGE = 512  # of the blocks that an uncompressed image is read in
_ORIENTATION_TAG = 274
_JPEG = {6, 7, 33007, 34892}
_JPEG_2000 = {33003, 33004, 33005, 34712}
_APERIO_YCBCR = 33003
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6


def extent(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    """Height and width in pixels."""
    page = series.keyframe
    return page.imagelength, page.imagewidth


def area(series: tifffile.TiffPageSeries) -> int:
    """Number of pixels."""
    height, width = extent(series)
    return height * width


class Level:
    """One resolution of an image: position of its blocks in the file, conversion to RGB."""

    def __init__(
        self, path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries
    ) -> None:
        page = series.keyframe
        self._path = path
        self._file = file
        self._page = page
        self.height, self.width = extent(series)
        self._contiguous_samples = page.planarconfig != 2 or page.samplesperpixel == 1
        self._planes = 1 if self._contiguous_samples else page.samplesperpixel
        self._check_samples(series)
        self._channels = self._channel_pages(series)
        self._mapped = bool(page.is_memmappable)
        if page.is_tiled:
            tile = (page.tilelength, page.tilewidth)
        else:
            tile = (min(page.rowsperstrip, self.height), self.width)
        if min(tile) < 1:
            raise ValueError(f"tiles of {tile[1]} x {tile[0]} px")
        self._across = math.ceil(self.width / tile[1])
        self._down = math.ceil(self.height / tile[0])
        self._tile = tile
        if self._mapped:
            self.block_height, self.block_width = _MAPPED_EDGE, _MAPPED_EDGE
        else:
            self.block_height, self.block_width = tile
            self._check_tile_size()
        self._check_offsets()

    @property
    def block_bytes(self) -> int:
        """Bytes of a decoded block as RGB."""
        return 3 * self.block_height * self.block_width

    def _check_samples(self, series: tifffile.TiffPageSeries) -> None:
        page = self._page
        bits = page.bitspersample
        kind = np.dtype(page.dtype).kind
        if kind not in "bu" or not isinstance(bits, int) or bits > 16:
            raise DataError(
                f"{self._path}: image of {page.dtype} samples; convert it to 8 bits a sample"
            )
        colours = {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR}
        photometric = int(page.photometric)
        fewest = {_RGB: 3, _YCBCR: 3, _CMYK: 4}.get(photometric, 1)
        if photometric not in colours or page.imagedepth > 1 or page.samplesperpixel < fewest:
            raise DataError(
                f"{self._path}: image with {page.samplesperpixel} samples a pixel that mean"
                f" {getattr(page.photometric, 'name', photometric)}; convert it to RGB"
            )
        if series.transform is not None:
            raise DataError(f"{self._path}: image in a scientific format; convert it to RGB")
        orientation = page.tags.valueof(_ORIENTATION_TAG, 1)
        if orientation != 1:
            raise DataError(
                f"{self._path}: image with orientation {orientation:d}, which viewers turn"
                " for display; save it upright, so that the spots' pixels are unambiguous"
            )

    def _channel_pages(self, series: tifffile.TiffPageSeries) -> list[tuple[Any, int]]:
        """Page of each channel, and the offset in bytes of the channel's data in that page."""
        axes = series.get_axes(squeeze=False)
        shape = series.get_shape(squeeze=False)
        page = self._page
        leading = len(shape)
        size = 1
        while leading and size != page.size:
            leading -= 1
            size *= shape[leading]
        if size != page.size:
            raise ValueError(f"pages do not add up to {shape}")
        place = [0] * leading
        numbers = [0]
        if page.samplesperpixel == 1:
            # Q is what tifffile calls a dimension that nothing is said about.
            known = "CQ" if series.kind == "shaped" else "C"
            for axis in (axis for axis in range(leading) if axes[axis] in known):
                channels = shape[axis]
                if channels == 1:
                    continue
                if channels != 3:
                    raise DataError(
                        f"{self._path}: image of {channels} channels; convert it to RGB"
                    )
                numbers = []
                for channel in range(channels):
                    place[axis] = channel
                    numbers.append(int(np.ravel_multi_index(place, shape[:leading])))
                break
        if series.dataoffset is not None:
            return [(page, number * page.nbytes) for number in numbers]
        pages = [series[number] for number in numbers]
        if any(channel_page is None for channel_page in pages):
            raise ValueError("a page is missing")
        return [(channel_page, 0) for channel_page in pages]

    def _check_tile_size(self) -> None:
        page = self._page
        held = page.samplesperpixel if self._contiguous_samples else 1
        decoded = math.prod(self._tile) * held * np.dtype(page.dtype).itemsize
        if decoded > LARGEST_TILE:
            raise DataError(
                f"{self._path}: stored in {'tiles' if page.is_tiled else 'strips'} of"
                f" {self._tile[1]} x {self._tile[0]} px, too large to decode one at a time;"
                " convert it to a TIFF with tiles of 256 x 256 px"
            )

    def _check_offsets(self) -> None:
        size = self._file.filehandle.size
        tiles = self._planes * self._down * self._across
        for page, shift in self._channels:
            if self._mapped:
                end = page.dataoffsets[0] + shift + page.nbytes
            else:
                offsets = np.array(page.dataoffsets, dtype=np.int64) + shift
                counts = np.array(page.databytecounts, dtype=np.int64)
                if min(len(offsets), len(counts)) < tiles:
                    raise DataError(
                        f"{self._path}: image cannot be read (it lists {len(offsets)} of {tiles}"
                        " tiles)"
                    )
                if offsets.min() < 0 or counts.min() < 0:
                    raise ValueError("a tile begins before the file")
                # Where the sum overflows, either part is beyond the file by itself.
                end = max(
                    int(offsets.max()),
                    int(counts.max()),
                    int((offsets[:tiles] + counts[:tiles]).max()),
                )
            if end > size:
                raise DataError(
                    f"{self._path}: image is truncated, its data go on to byte {end} of {size};"
                    " fetch the file again"
                )

    @property
    def bits(self) -> int:
        """Bits of a sample."""
        return int(self._page.bitspersample)

    def block(self, row: int, column: int, bits: int | None = None) -> np.ndarray:
        """(height, width, 3) uint8 block, trimmed to the image at its right and lower border.

        Parameters
        ----------
        row, column
            Position of the block.
        bits
            Bits that samples use, where these are fewer than they are stored in.
        """
        return self._to_rgb(self.samples(row, column), bits or self.bits)

    def samples(self, row: int, column: int) -> np.ndarray:
        """(height, width, samples) block as it is stored."""
        top, left = row * self.block_height, column * self.block_width
        tall = min(self.block_height, self.height - top)
        wide = min(self.block_width, self.width - left)
        read = self._read_mapped if self._mapped else self._read_tiles
        return np.concatenate(
            [read(page, shift, top, left, tall, wide) for page, shift in self._channels], axis=-1
        )

    def _read_mapped(
        self, page: Any, shift: int, top: int, left: int, tall: int, wide: int
    ) -> np.ndarray:
        # Mapped anew for each block: pages of a map that was read count as memory in use.
        samples = self._page.samplesperpixel
        shape: tuple[int, ...] = (self.height, self.width, samples)
        if not self._contiguous_samples:
            shape = (samples, self.height, self.width)
        mapped = np.memmap(
            self._path,
            dtype=np.dtype(page.dtype).newbyteorder(self._file.byteorder),
            mode="r",
            offset=page.dataoffsets[0] + shift,
            shape=shape,
        )
        if self._contiguous_samples:
            return np.array(mapped[top : top + tall, left : left + wide])
        return np.moveaxis(mapped[:, top : top + tall, left : left + wide], 0, -1).copy()

    def _read_tiles(
        self, page: Any, shift: int, top: int, left: int, tall: int, wide: int
    ) -> np.ndarray:
        tile = top // self._tile[0] * self._across + left // self._tile[1]
        planes = [
            self._decoded(page, shift, plane * self._down * self._across + tile, tall, wide)
            for plane in range(self._planes)
        ]
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)

    def _decoded(self, page: Any, shift: int, tile: int, tall: int, wide: int) -> np.ndarray:
        samples = self._page.samplesperpixel if self._contiguous_samples else 1
        offset, count = page.dataoffsets[tile] + shift, page.databytecounts[tile]
        if page.dataoffsets[tile] == 0 or count == 0:
            return np.zeros((tall, wide, samples), dtype=self._page.dtype)
        handle = self._file.filehandle
        handle.seek(offset)
        content = handle.read(count)
        options = {}
        if page.jpegtables is not None:
            options["jpegtables"] = page.jpegtables
        if self._page.jpegheader is not None:
            options["jpegheader"] = self._page.jpegheader
        else:
            self._check_claim(content)
        pixels = self._page.decode(content, tile, **options)[0]
        if pixels is None or pixels.shape[1] < tall or pixels.shape[2] < wide:
            raise ValueError(f"tile {tile} is smaller than it should be")
        return np.asarray(pixels[0, :tall, :wide])

    def _check_claim(self, content: bytes) -> None:
        """Refuse a tile whose own header declares a larger size, before it is decoded."""
        claimed = None
        if self._page.compression in _JPEG:
            claimed = _jpeg_size(content)
        elif self._page.compression in _JPEG_2000:
            claimed = _jpeg_2000_size(content)
        if claimed is not None and math.prod(claimed) > 4 * max(math.prod(self._tile), 64 * 64):
            raise ValueError(
                f"a tile of {self._tile[1]} x {self._tile[0]} px claims"
                f" {claimed[1]} x {claimed[0]} px"
            )

    def _to_rgb(self, samples: np.ndarray, bits: int) -> np.ndarray:
        page = self._page
        photometric = int(page.photometric)
        if len(self._channels) > 1:
            photometric = _RGB
        if photometric == _PALETTE:
            colours = (np.asarray(page.colormap) >> 8).astype(np.uint8).T
            return np.ascontiguousarray(colours[np.minimum(samples[..., 0], len(colours) - 1)])
        pixels = _as_bytes(samples, bits)
        if photometric == _CMYK:
            return np.asarray(_image(pixels[..., :4], "CMYK").convert("RGB"))
        unconverted = photometric == _YCBCR and page.compression not in _JPEG
        if unconverted or page.compression == _APERIO_YCBCR:
            return np.asarray(_image(pixels[..., :3], "YCbCr").convert("RGB"))
        colour = photometric in (_RGB, _YCBCR)
        shown = pixels[..., : 3 if colour else 1]
        if photometric == _WHITE_IS_ZERO:
            shown = 255 - shown
        shown = _on_white(shown, pixels[..., shown.shape[-1] :], page.extrasamples)
        return np.ascontiguousarray(shown) if colour else np.repeat(shown, 3, axis=-1)


def _on_white(shown: np.ndarray, extra: np.ndarray, kinds: Sequence[int]) -> np.ndarray:
    """Pixels over a white ground, where one of the further samples is their opacity."""
    for number, kind in enumerate(kinds[: extra.shape[-1]]):
        if kind in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA):
            opacity = extra[..., number : number + 1]
            return on_white(shown, opacity, associated=kind == _ASSOCIATED_ALPHA)
    return shown


def _image(pixels: np.ndarray, mode: str) -> Image.Image:
    height, width = pixels.shape[:2]
    return Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())


def _as_bytes(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples of `bits` bits on the scale 0 to 255, rounded."""
    if bits == 8:
        return samples.astype(np.uint8, copy=False)
    largest = (1 << bits) - 1
    scaled = (samples.astype(np.uint32) * 255 + largest // 2) // largest
    return np.minimum(scaled, 255).astype(np.uint8)


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) in the frame header of a JPEG stream; None where none is found."""
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            place += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(content[place + 5 : place + 7], "big")
            width = int.from_bytes(content[place + 7 : place + 9], "big")
            return height, width
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None


def _jpeg_2000_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) in the SIZ marker of a JPEG 2000 stream; None where none is found."""
    place = content.find(b"\xff\x4f\xff\x51", 0, 4096)
    if place < 0:
        return None
    width, height = (int.from_bytes(content[place + at : place + at + 4], "big") for at in (8, 12))
    return height, width
