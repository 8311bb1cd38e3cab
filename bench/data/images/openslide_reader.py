"""Slides of the formats that OpenSlide reads (https://openslide.org/formats)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.data.images.slide import SlideLevel, SlideReader, WholeSlide, check_slide
from bench.data.images.slide_scale import COARSEST, COARSEST_BY_RESOLUTION, one_scale
from bench.errors import DataError
from bench.files import one_line

_MISSING = "pip install 'spotbench[slides]'"
_TALLEST_TILE = 4096
_CACHED_BYTES = 256 << 20


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn errors of the library into one line that names the file."""
    import openslide

    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: image is missing") from None
    except openslide.OpenSlideUnsupportedFormatError:
        raise DataError(f"{path}: image cannot be read (OpenSlide knows no such format)") from None
    except (openslide.OpenSlideError, OSError, ValueError, LookupError, MemoryError) as error:
        reason = one_line(error) or type(error).__name__
        raise DataError(f"{path}: image cannot be read ({reason})") from error


def vendor(path: Path) -> str | None:
    """Vendor of the format of a file; None where OpenSlide does not know it or is missing."""
    try:
        import openslide
    except ImportError:
        return None
    with _blaming(path):
        name = openslide.OpenSlide.detect_format(path)
    return None if name is None else str(name)


class OpenSlideReader(WholeSlide):
    """A slide decoded by OpenSlide.

    Where a level is not reduced by a whole number, OpenSlide interpolates regions of it: they are
    those asked for to a pixel of the full resolution.

    Parameters
    ----------
    path
        Image file; of formats of several files the one that OpenSlide is given.
    max_pixels
        Largest width x height accepted.

    Raises
    ------
    DataError
        OpenSlide is not installed; missing, of another format, damaged, or larger than
        `max_pixels`.
    """

    reader: SlideReader = "openslide"

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path = path
        try:
            import openslide
        except ImportError as error:
            raise DataError(
                f"{path}: slides of this format need OpenSlide; install it with {_MISSING}"
            ) from error
        if not path.is_file():
            raise DataError(f"{path}: image is missing")
        with _blaming(path):
            self._slide = openslide.OpenSlide(path)
        try:
            with _blaming(path):
                sizes = self._slide.level_dimensions
                width, height = sizes[0]
                check_slide(path, width, height, max_pixels)
                self._slide.set_cache(openslide.OpenSlideCache(_CACHED_BYTES))
                self._describe(sizes, dict(self._slide.properties))
        except BaseException:
            self.close()
            raise

    def _describe(self, sizes: tuple[tuple[int, int], ...], facts: dict[str, str]) -> None:
        levels = [(n, SlideLevel.of(size, sizes[0])) for n, size in enumerate(sizes) if min(size)]
        self._numbers = [number for number, level in levels if level is not None]
        self.levels = tuple(level for _, level in levels if level is not None)
        by_resolution = facts.get("openslide.vendor") == "generic-tiff"
        self.micrometres_per_pixel = one_scale(
            _number(facts.get("openslide.mpp-x")),
            _number(facts.get("openslide.mpp-y")),
            COARSEST_BY_RESOLUTION if by_resolution else COARSEST,
        )
        colour = facts.get("openslide.background-color", "FFFFFF")
        red, green, blue = bytes.fromhex(colour)
        self.background = (red, green, blue)
        tall = facts.get("openslide.level[0].tile-height", "")
        if tall.isdecimal():
            self.rows_together = min(max(1, int(tall)), _TALLEST_TILE)

    def _inside(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        number = self._numbers[level]
        with _blaming(self.path):
            # OpenSlide is told the corner in pixels of its level 0.
            factor = self._slide.level_downsamples[number]
            corner = (round(left * factor), round(top * factor))
            region = self._slide.read_region(corner, number, (width, height))
        pixels = np.asarray(region)
        if pixels[..., 3].min() == 255:
            return np.ascontiguousarray(pixels[..., :3])
        opacity = pixels[..., 3:].astype(np.uint32)
        ground = np.array(self.background, dtype=np.uint32) * (255 - opacity)
        return ((pixels[..., :3] * opacity + ground + 127) // 255).astype(np.uint8)

    def close(self) -> None:
        """See :meth:`WholeSlide.close`."""
        self._slide.close()


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
