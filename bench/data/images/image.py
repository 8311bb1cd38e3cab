"""Opening images that may be damaged, larger than memory, or crafted to exhaust it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bench.cache import Cache
from bench.data.images.raster import Raster, check_pixels, effective_bits
from bench.errors import DataError
from bench.files import canonical_hash, one_line

FORMATS = ("JPEG", "PNG")
"""Formats that Pillow opens, which are decoded as a whole."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_THUMBNAIL_VERSION = 1
_LARGEST_THUMBNAIL = 1 << 26


class _WholeRaster(Raster):
    """A JPEG or PNG file, decoded as a whole when its first region is read."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path = path
        self._max_pixels = max_pixels
        self._rgb: Image.Image | None = None
        with open_image(path, max_pixels) as image:
            width, height = image.size
            self.size = (height, width) if _is_sideways(image) else (width, height)

    def crop(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        if self._rgb is None:
            with open_image(self.path, self._max_pixels) as image:
                image.load()
                self._rgb = _upright_rgb(image)
        return np.asarray(self._rgb.crop((left, top, left + width, top + height)))

    def thumbnail(self, side: int) -> tuple[Image.Image, float]:
        with open_image(self.path, self._max_pixels) as image:
            # JPEG files are decoded at a fraction of their size where that is enough.
            image.draft("RGB", (side, side))
            if image.mode not in {"RGB", "L"}:
                image = _rgb(image)
            image.thumbnail((side, side))
            small = _upright_rgb(image)
        return small, small.size[0] / self.size[0]

    def close(self) -> None:
        self._rgb = None


def _orientation(image: Image.Image) -> int:
    """Orientation in the EXIF of a file, 1 (upright) to 8."""
    value = image.getexif().get(_EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_sideways(image: Image.Image) -> bool:
    return _orientation(image) >= 5


def _upright_rgb(image: Image.Image) -> Image.Image:
    """The image as it is shown: turned as its EXIF says, as RGB."""
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode: transparent pixels are white, 16 bits are scaled to 8."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > _LARGEST_16:
            raise ValueError(f"grey values of mode {image.mode} outside of 0 to {_LARGEST_16}")
        bits = effective_bits(int(values.max()), 16)
        grey = np.rint(values * 255 / ((1 << bits) - 1)).astype(np.uint8)
        turned = Image.fromarray(grey).convert("RGB")
        turned.getexif().update(image.getexif())
        return turned
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


_EXIF_ORIENTATION = 0x0112
_LARGEST_16 = (1 << 16) - 1


@contextmanager
def open_raster(path: Path, max_pixels: int) -> Iterator[Raster]:
    """Open an image to read regions of it.

    The format is recognised by content, not by the file's ending: JPEG, PNG, and formats based on
    TIFF (BigTIFF, OME-TIFF, and the whole-slide formats SVS, NDPI, SCN, BIF and Philips). Of a
    file with several images and pyramid levels the largest one is read.

    Parameters
    ----------
    path
        Image file.
    max_pixels
        Largest width x height accepted; compared with the header before anything is decoded.

    Raises
    ------
    DataError
        Missing, not an image of a known format, damaged, or larger than `max_pixels`.
    """
    raster = _raster(Path(path), max_pixels)
    try:
        yield raster
    finally:
        raster.close()


def _raster(path: Path, max_pixels: int) -> Raster:
    if not is_tiff(path):
        return _WholeRaster(path, max_pixels)
    from bench.data.images.tiff import TiffRaster

    return TiffRaster(path, max_pixels)


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF.

    Raises
    ------
    DataError
        It is missing or cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return stream.read(4) in _TIFF
    except FileNotFoundError:
        raise DataError(f"{path}: image is missing") from None
    except OSError as error:
        raise DataError(f"{path}: image cannot be read ({one_line(error)})") from error


@contextmanager
def open_image(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open a JPEG or PNG lazily; nothing is decoded before its size has been checked.

    Parameters
    ----------
    path
        JPEG or PNG file.
    max_pixels
        Largest width x height accepted.

    Raises
    ------
    DataError
        Missing, not an image, truncated while it is decoded, or larger than `max_pixels`.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # Pillow's global limit gives way to the card's
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_pixels(path, *image.size, max_pixels)
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: image is missing") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: image cannot be read ({one_line(error)})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def image_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels, from the header alone.

    Parameters
    ----------
    path
        Image file.
    max_pixels
        Largest number of pixels that is accepted.

    Returns
    -------
    tuple of int
        Width and height in pixels.

    Raises
    ------
    DataError
        Not a readable image, or one of more than `max_pixels` pixels.
    """
    with warnings.catch_warnings(), open_raster(path, max_pixels) as raster:
        return raster.size


def thumbnail(
    path: Path, max_pixels: int, side: int, image_hash: str | None = None
) -> tuple[Image.Image, float]:
    """A reduced RGB copy of an image, and its scale in pixels per pixel of the image.

    Parameters
    ----------
    path, max_pixels
        See :func:`open_raster`.
    side
        Longest edge of the copy; a smaller image keeps its size.
    image_hash
        Hash of the file, under which the copy of an image that is read in tiles is cached, since
        all tiles may have to be decoded for it; no caching where None.
    """
    with open_raster(path, max_pixels) as raster:
        if image_hash is None or raster.rows_together is None:
            return raster.thumbnail(side)
        key = canonical_hash([_THUMBNAIL_VERSION, image_hash, side])
        small = _THUMBNAILS.get(key)
        if small is None or max(small.size) > side:
            small, scale = raster.thumbnail(side)
            with _THUMBNAILS.new_entry(key) as temporary:
                small.save(temporary, format="PNG")
            return small, scale
        return small, small.size[0] / raster.size[0]


def _read_thumbnail(path: Path) -> Image.Image:
    with open_image(path, _LARGEST_THUMBNAIL) as image:
        return image.convert("RGB")


_THUMBNAILS = Cache("thumbnails", ".png", _read_thumbnail)
