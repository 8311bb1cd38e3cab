"""Patches around spots, cut once and kept as a memory-mapped uint8 array."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.image import open_image
from bench.errors import DataError
from bench.files import atomic_write, cache_folder, canonical_hash

_VERSION = 1


@dataclass(frozen=True)
class PatchSource:
    """Where the patches of one section come from.

    Attributes
    ----------
    image
        Image file.
    image_hash
        Its hash; a changed image never meets the patches of the old one.
    max_image_pixels
        Largest image accepted.
    centres
        (spots, 2) float64 full-resolution pixel (x, y).
    """

    image: Path
    image_hash: str
    max_image_pixels: int
    centres: np.ndarray

    def cut(self, size: int, pixels: int | None = None) -> np.ndarray:
        """Patches of `size` x `size` image pixels centred on floor(x), floor(y).

        What lies outside the image is black, as in the released data loaders of the field.

        Parameters
        ----------
        size
            Edge of the patch in pixels of the image.
        pixels
            Edge after resampling by area averaging; `size` where None.

        Returns
        -------
        (spots, pixels, pixels, 3) uint8 array, RGB, memory-mapped and read-only
        """
        pixels = pixels or size
        if not (1 <= pixels <= size <= 4096):
            raise DataError(f"patches of {size} px resampled to {pixels} px cannot be cut")
        corners = self._corners(size)
        path = cache_folder() / "patches" / f"{self.key(size, pixels)[:32]}.npy"
        shape = (len(corners), pixels, pixels, 3)
        stored = _open_stored(path, shape)
        if stored is None:
            with atomic_write(path) as temporary:
                self._cut_into(temporary, corners, size, pixels)
            stored = np.load(path, mmap_mode="r")
        return stored

    def key(self, size: int, pixels: int | None = None) -> str:
        """Hash of image, centres and scale: what is computed from the patches is kept under it."""
        corners = self._corners(size).tolist()
        return canonical_hash([_VERSION, self.image_hash, size, pixels or size, corners])

    def _corners(self, size: int) -> np.ndarray:
        return np.floor(self.centres).astype(np.int64) - size // 2

    def _cut_into(self, path: Path, corners: np.ndarray, size: int, pixels: int) -> None:
        with open_image(self.image, self.max_image_pixels) as image:
            image.load()
            rgb = image if image.mode == "RGB" else image.convert("RGB")
        # Outside of the block above, whose errors are blamed on the image; and written in order,
        # since a write into a memory map kills the process when the disk is full.
        header = {
            "descr": "|u1",
            "fortran_order": False,
            "shape": (len(corners), pixels, pixels, 3),
        }
        with open(path, "wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for left, top in corners.tolist():
                patch = rgb.crop((left, top, left + size, top + size))
                if pixels != size:
                    patch = patch.resize((pixels, pixels), Image.Resampling.BOX)
                stream.write(patch.tobytes())


def _open_stored(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        stored = np.lib.format.open_memmap(path, mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return stored if stored.shape == shape and stored.dtype == np.uint8 else None
