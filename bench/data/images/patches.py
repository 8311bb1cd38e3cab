"""Patches around spots, cut once and kept as a memory-mapped uint8 array."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import numpy as np
from PIL import Image
from pydantic import Field

from bench.cache import Cache
from bench.data.images.image import image_size, open_raster
from bench.data.images.raster import Raster
from bench.errors import DataError
from bench.files import canonical_hash, one_line

_VERSION = 1
_LARGEST = 4096
_MICROMETRES = r"^\d+(\.\d+)?um$"

PatchSize = (
    Annotated[int, Field(ge=8, le=_LARGEST)] | Annotated[str, Field(pattern=_MICROMETRES)] | None
)
"""Edge of a patch as a setting: full-resolution pixels, micrometres as in ``"150um"``, or None
for what the dataset's card recommends."""


def patch_edge(size: int | str, micrometres_per_pixel: float | None, where: str) -> int:
    """Edge of a patch in full-resolution pixels.

    Parameters
    ----------
    size
        Pixels, or micrometres as in ``"150um"`` or ``"112.5um"``.
    micrometres_per_pixel
        Scale of the full-resolution image; None where it is not known.
    where
        What the error names.

    Raises
    ------
    DataError
        Micrometres are asked for and the scale is not known; or `size` is neither.
    """
    if not isinstance(size, str):
        return size
    if not re.fullmatch(_MICROMETRES, size):
        raise DataError(f"{where}: patch size '{size}' is neither pixels nor micrometres ('150um')")
    if micrometres_per_pixel is None:
        raise DataError(
            f"{where}: patches of {size} need the scale of the image, which is not known; give"
            " micrometres_per_pixel in the dataset's card, or the patch size in pixels"
        )
    return round(float(size.removesuffix("um")) / micrometres_per_pixel)


Resampling = Literal["area", "bilinear", "bicubic"]
_KERNELS = {
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def kernel(resampling: Resampling, *, grows: bool) -> Image.Resampling:
    """Kernel of Pillow; ``area`` is bicubic where the edge grows."""
    return Image.Resampling.BICUBIC if resampling == "area" and grows else _KERNELS[resampling]


@dataclass(frozen=True)
class PatchSource:
    """Image and spot centres from which the patches of one section are cut.

    Attributes
    ----------
    image
        Image file.
    image_hash
        Its hash, part of the key of the patches.
    max_image_pixels
        Largest image accepted.
    centres
        (spots, 2) float64 full-resolution pixel (x, y).
    image_scale
        Pixels of the image file per full-resolution pixel: less than 1 where the file is a
        reduced copy of the image that the centres were measured on.
    """

    image: Path
    image_hash: str
    max_image_pixels: int
    centres: np.ndarray
    image_scale: float = 1.0

    def cut(
        self, size: int, pixels: int | None = None, resampling: Resampling = "area"
    ) -> np.ndarray:
        """Patches of `size` x `size` full-resolution pixels centred on floor(x), floor(y).

        Pixels outside the image are black, as in the released data loaders of the field. From a
        reduced image the same square of tissue is cut, to fractions of a pixel.

        Parameters
        ----------
        size
            Edge of the patch in full-resolution pixels.
        pixels
            Edge after resampling; `size` where None.
        resampling
            Kernel, widened where the edge shrinks; ``area`` averages then, and is bicubic where
            the edge grows.

        Returns
        -------
        (spots, pixels, pixels, 3) uint8 array, RGB, memory-mapped and read-only

        Raises
        ------
        DataError
            A size that is not between 1 and 4096, or less than 2 pixels of a reduced image; an
            image that cannot be read.
        """
        return np.load(self.store(size, pixels, resampling), mmap_mode="r")

    def store(self, size: int, pixels: int | None = None, resampling: Resampling = "area") -> Path:
        """File of the patches that :meth:`cut` gives, made if it is not there.

        Raises
        ------
        DataError
            As :meth:`cut`.
        """
        pixels = size if pixels is None else pixels
        self._check(size, pixels, resampling)
        key, shape = self.key(size, pixels, resampling), (len(self.centres), pixels, pixels, 3)
        stored = _PATCHES.get(key)
        if stored is None or stored.shape != shape or stored.dtype != np.uint8:
            with _PATCHES.new_entry(key) as temporary:
                self._cut_into(temporary, size, pixels, resampling)
        return _PATCHES.path(key)

    def cut_once(
        self, spots: range, size: int, pixels: int | None = None, resampling: Resampling = "area"
    ) -> np.ndarray:
        """Patches of a few spots that are not kept on disk; the same as of :meth:`cut`.

        Parameters
        ----------
        spots
            Consecutive spots.
        size, pixels, resampling
            As of :meth:`cut`.

        Returns
        -------
        (spots, pixels, pixels, 3) uint8 array, RGB

        Raises
        ------
        DataError
            As :meth:`cut`.
        """
        pixels = size if pixels is None else pixels
        self._check(size, pixels, resampling)
        patches = np.empty((len(spots), pixels, pixels, 3), dtype=np.uint8)
        for spot, patch in self._of(spots)._patches(size, pixels, resampling):
            patches[spot] = patch
        return patches

    def extent(self) -> tuple[float, float]:
        """Width and height of the image in full-resolution pixels.

        Raises
        ------
        DataError
            There is no whole image, or it cannot be read.
        """
        width, height = image_size(self.image, self.max_image_pixels)
        return width / self.image_scale, height / self.image_scale

    def _of(self, spots: range) -> Self:
        """The source of some consecutive spots."""
        return replace(self, centres=self.centres[spots.start : spots.stop])

    def _check(self, size: int, pixels: int, resampling: Resampling) -> None:
        """Refuse patches that cannot be cut."""
        if not (1 <= size <= _LARGEST and 1 <= pixels <= _LARGEST):
            raise DataError(f"patches of {size} px resampled to {pixels} px cannot be cut")
        if resampling not in get_args(Resampling):
            raise DataError(f"patches cannot be resampled by '{one_line(resampling, 40)}'")
        if self.image_scale != 1 and size * self.image_scale < 2:
            raise DataError(
                f"{self.image}: patches of {size} px are {size * self.image_scale:.2g} px of this"
                f" reduced image and cannot be cut; ask for {math.ceil(2 / self.image_scale)} px"
                " or more"
            )

    def key(self, size: int, pixels: int | None = None, resampling: Resampling = "area") -> str:
        """Hash of image, centres and scale, a key for values computed from the patches."""
        corners = self._corners(size).tolist()
        edge = size if pixels is None else pixels
        facts = [_VERSION, self.image_hash, size, edge, corners]
        if self.image_scale != 1:
            facts.append(self.image_scale)
        if resampling != "area" and edge != size:
            facts.append(resampling)
        return canonical_hash(facts)

    def _corners(self, size: int) -> np.ndarray:
        return np.floor(self.centres).astype(np.int64) - size // 2

    def _cut_into(self, path: Path, size: int, pixels: int, resampling: Resampling) -> None:
        shape = (len(self.centres), pixels, pixels, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with open(path, "wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            first = stream.tell()
            # Into its place in a plain file, since a write into a memory map kills the process
            # when the disk is full.
            for spot, patch in self._patches(size, pixels, resampling):
                stream.seek(first + spot * pixels * pixels * 3)
                stream.write(patch.tobytes())

    def _patches(
        self, size: int, pixels: int, resampling: Resampling
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Patches with the indices of their spots, in the order in which they are read."""
        corners = self._corners(size)
        with open_raster(self.image, self.max_image_pixels) as raster:
            for spot in _order(corners * self.image_scale, raster.rows_together):
                yield int(spot), self._patch(raster, corners[spot], size, pixels, resampling)

    def _patch(
        self, raster: Raster, corner: np.ndarray, size: int, pixels: int, resampling: Resampling
    ) -> np.ndarray:
        left, top = (float(edge) * self.image_scale for edge in corner)
        edge = size * self.image_scale
        # Whole pixels that hold the square, and the square in them; at scale 1 the same.
        first_x, first_y = math.floor(left), math.floor(top)
        width = math.ceil(left + edge) - first_x
        height = math.ceil(top + edge) - first_y
        patch = raster.crop(first_x, first_y, width, height)
        if self.image_scale == 1 and pixels == size:
            return patch
        box = (left - first_x, top - first_y, left - first_x + edge, top - first_y + edge)
        how = kernel(resampling, grows=pixels > edge)
        return np.asarray(Image.fromarray(patch).resize((pixels, pixels), how, box=box))


def _order(corners: np.ndarray, rows_together: int | None) -> np.ndarray:
    """Order of spots that decodes each tile few times: band by band, from left to right."""
    if rows_together is None:
        return np.arange(len(corners))
    left, top = corners.T
    return np.lexsort((top, left, top // rows_together))


def _map(path: Path) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="r")


_PATCHES = Cache("patches", ".npy", _map)
