"""Opening whole slides: TIFF and formats based on it, JPEG and PNG, and those OpenSlide reads."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tifffile

from bench.cache import JsonCache
from bench.data.images.image import is_tiff, open_image, open_raster
from bench.data.images.slide import SlideLevel, SlideReader, WholeSlide, check_slide
from bench.data.images.slide_scale import picture_scale, scale_fault, tiff_scale
from bench.data.images.tiff import TiffRaster
from bench.data.images.tiff_level import Level, extent
from bench.errors import DataError
from bench.files import canonical_hash, file_hash, one_line

LARGEST_SLIDE = 100_000_000_000
"""Pixels of a slide that is read in tiles: 25 x 16 mm at 0.063 micrometres per pixel."""

LARGEST_PICTURE = 300_000_000
"""Pixels of a JPEG or PNG, which is decoded as a whole: 1.2 GB as Pillow holds them, twice while
it is turned upright."""

_UNLIMITED = 1 << 62
_COMPANION_FOLDER = {".mrxs"}
_COMPANION_FILES = {".vms", ".vmu", ".dcm"}
_ONLY_OPENSLIDE = _COMPANION_FOLDER | _COMPANION_FILES | {".svslide", ".czi"}
_MOST_COMPANIONS = 10_000


def open_slide(
    path: Path,
    max_pixels: int = LARGEST_SLIDE,
    reader: SlideReader | Literal["auto"] = "auto",
) -> WholeSlide:
    """Open an image of any size to read regions of it; close it, or use it in a ``with`` block.

    Unless another reader is asked for, TIFF and the formats based on it (SVS, NDPI, QPTIFF,
    Philips, OME-TIFF, BigTIFF) are read by tifffile, as sections of datasets are, so that the same
    file gives the same pixels wherever it is read; JPEG and PNG by Pillow. What these cannot read
    is left to OpenSlide: MRXS, VMS, VMU, DICOM, Sakura, Zeiss; Ventana and Leica slides, whose
    tiles or regions have to be put together; and tiles that are too large to be decoded one at a
    time.

    Parameters
    ----------
    path
        Image file.
    max_pixels
        Largest width x height accepted; compared with the header before anything is decoded.
    reader
        Library that decodes it.

    Raises
    ------
    DataError
        Missing, not an image of a known format, damaged, larger than `max_pixels`, a JPEG or PNG
        larger than :data:`LARGEST_PICTURE`, or OpenSlide is needed and not installed.
    """
    path = Path(path)
    if reader not in {"auto", *get_args(SlideReader)}:
        raise DataError(f"{path}: slides cannot be read by '{one_line(reader, 40)}'")
    if reader == "openslide" or (reader == "auto" and path.suffix.lower() in _ONLY_OPENSLIDE):
        return _by_openslide(path, max_pixels)
    as_tiff = is_tiff(path)
    if reader == "pillow" or (reader == "auto" and not as_tiff):
        return PictureSlide(path, max_pixels)
    try:
        slide = TiffSlide(path, max_pixels)
    except DataError:
        if reader == "tifffile" or not _openslide_reads(path):
            raise
        return _by_openslide(path, max_pixels)
    if reader == "auto" and slide.is_assembled:
        slide.close()
        return _by_openslide(path, max_pixels)
    return slide


def _by_openslide(path: Path, max_pixels: int) -> WholeSlide:
    from bench.data.images.openslide_reader import OpenSlideReader

    return OpenSlideReader(path, max_pixels)


def _openslide_reads(path: Path) -> bool:
    """Whether OpenSlide is installed and knows the file as a slide of a vendor."""
    from bench.data.images.openslide_reader import vendor

    return vendor(path) not in {None, "generic-tiff"}


class TiffLevels(TiffRaster):
    """A TIFF whose smaller levels can be read too."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        super().__init__(path, _UNLIMITED)
        try:
            check_slide(path, *self.size, max_pixels)
            self.levels = self._readable()
        except BaseException:
            self.close()
            raise

    def _readable(self) -> list[tuple[int, SlideLevel]]:
        """Numbers and sizes of the levels that are copies of the full image."""
        levels = []
        for number, series in enumerate(self._levels):
            height, width = extent(series)
            level = SlideLevel.of((width, height), self.size) if width and height else None
            if level is None:
                continue
            if number not in self._opened:
                try:
                    self._opened[number] = Level(self.path, self._file, series)
                except DataError:
                    raise
                except Exception as error:
                    reason = one_line(error) or type(error).__name__
                    raise DataError(f"{self.path}: image cannot be read ({reason})") from error
            levels.append((number, level))
        return levels

    def crop_of(self, number: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Region of a level; see :meth:`crop`."""
        return self._crop(number, left, top, width, height)

    @property
    def file(self) -> tifffile.TiffFile:
        """Open file."""
        return self._file

    def scale(self) -> float | None:
        """Micrometres per pixel at full resolution."""
        return tiff_scale(self._file, self._levels[0].keyframe)

    def scale_fault(self) -> str:
        """See :func:`bench.data.images.slide_scale.scale_fault`."""
        return scale_fault(self._file, self._levels[0].keyframe)


class TiffSlide(WholeSlide):
    """A TIFF, of which only the tiles or strips of a requested region are decoded.

    Pixels are those of :class:`~bench.data.images.tiff.TiffRaster`.

    Attributes
    ----------
    is_assembled
        Whether the format lays tiles or regions over each other, which is not done here.
    """

    reader: SlideReader = "tifffile"

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path = path
        self._raster = TiffLevels(path, max_pixels)
        self._numbers = [number for number, _ in self._raster.levels]
        self.levels = tuple(level for _, level in self._raster.levels)
        self.rows_together = self._raster.rows_together or self.rows_together
        file = self._raster.file
        self.is_assembled = bool(file.is_bif or file.is_scn)
        try:
            self.micrometres_per_pixel = self._raster.scale()
            self.scale_fault = self._raster.scale_fault()
        except Exception as error:  # tags are decoded when they are asked for
            self.close()
            raise DataError(f"{path}: image cannot be read ({one_line(error)})") from error

    def _inside(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        return self._raster.crop_of(self._numbers[level], left, top, width, height)

    def close(self) -> None:
        """See :meth:`WholeSlide.close`."""
        self._raster.close()


class PictureSlide(WholeSlide):
    """A JPEG or PNG, decoded as a whole, upright as its EXIF says."""

    reader: SlideReader = "pillow"

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path = path
        with open_image(path, _UNLIMITED) as image:
            width, height = image.size
            check_slide(path, width, height, max_pixels)
            advice = "; convert it to a TIFF with tiles of 256 x 256 px"
            check_slide(path, width, height, LARGEST_PICTURE, advice)
            self.micrometres_per_pixel = picture_scale(image)
        self._stack = ExitStack()
        self._raster = self._stack.enter_context(open_raster(path, LARGEST_PICTURE))
        self.levels = (SlideLevel(*self._raster.size, 1.0),)
        self.rows_together = self._raster.size[1]

    def _inside(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        return self._raster.crop(left, top, width, height)

    def close(self) -> None:
        """See :meth:`WholeSlide.close`."""
        self._stack.close()


def slide_hash(path: Path) -> str:
    """Hash of a slide as ``sha256:hex``: of its bytes; of several files, of names and contents.

    It is remembered for as long as size and time of the last change stay the same, since a slide
    of many GB takes minutes to read.

    Raises
    ------
    DataError
        Missing, cannot be read, or changed while it was read.
    """
    path = Path(path)
    try:
        files = _files_of(path)
        state = _state(files)
        key = canonical_hash([str(path.resolve()), state])
        known = _HASHES.get(key)
        if known is not None:
            return known
        if len(files) == 1:
            hashed = file_hash(path)
        else:
            hashed = canonical_hash(
                [[str(f.relative_to(path.parent)), file_hash(f)] for f in files]
            )
        if _state(files) != state:
            raise DataError(f"{path}: changed while it was read")
    except FileNotFoundError:
        raise DataError(f"{path}: image is missing") from None
    except OSError as error:
        raise DataError(f"{path}: image cannot be read ({one_line(error)})") from error
    _HASHES.put(key, f"sha256:{hashed}")
    return f"sha256:{hashed}"


def _files_of(path: Path) -> list[Path]:
    """The file, and the files that its format keeps beside it."""
    suffix = path.suffix.lower()
    others: list[Path] = []
    if suffix in _COMPANION_FOLDER:
        others = [file for file in path.with_suffix("").rglob("*") if file.is_file()]
    elif suffix in _COMPANION_FILES:
        others = [file for file in path.parent.iterdir() if file.is_file() and file != path]
    if len(others) > _MOST_COMPANIONS:
        raise DataError(f"{path}: lies beside more than {_MOST_COMPANIONS:,} files")
    return [path, *sorted(others)]


def _state(files: list[Path]) -> list[list[int | str]]:
    states = [file.stat() for file in files]
    return [[f.name, s.st_size, s.st_mtime_ns] for f, s in zip(files, states, strict=True)]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no hash")
    return value


_HASHES = JsonCache("slide-hashes", _text)
