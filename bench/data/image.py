"""Opening images that may be damaged or made to exhaust the memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from bench.errors import DataError

FORMATS = ("JPEG", "PNG", "TIFF")


@contextmanager
def open_image(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image lazily; nothing is decoded before its size has been checked.

    Parameters
    ----------
    path
        JPEG, PNG or TIFF file.
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
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(
                    f"{path}: image of {width} x {height} px exceeds the card's ceiling of"
                    f" {max_pixels} px; raise max_image_pixels in the card if it is genuine"
                )
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: image is missing") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: image cannot be read ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def image_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels, from the header alone."""
    with warnings.catch_warnings(), open_image(path, max_pixels) as image:
        return image.size


def thumbnail(path: Path, max_pixels: int, side: int) -> tuple[Image.Image, float]:
    """A small RGB copy of an image, and how many of its pixels one of the image makes.

    Parameters
    ----------
    path, max_pixels
        See :func:`open_image`.
    side
        Longest edge of the copy; a smaller image keeps its size.
    """
    with open_image(path, max_pixels) as image:
        width = image.size[0]
        # JPEG files are decoded at a fraction of their size where that is enough.
        image.draft("RGB", (side, side))
        image.thumbnail((side, side))
        small = image.convert("RGB")
    return small, small.size[0] / width
