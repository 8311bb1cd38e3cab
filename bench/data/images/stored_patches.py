"""Patches that a dataset ships in an HDF5 file in place of the image they were cut from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from bench.data.images.patches import PatchSource, Resampling, kernel
from bench.data.reading.hdf5 import open_hdf5
from bench.errors import DataError
from bench.files import canonical_hash

IMAGES = "img"
"""Data set of the patches in the file: (patches, edge, edge, 3) uint8 RGB."""


def stored_edge(shape: tuple[int, ...], where: Path) -> int:
    """Edge in pixels of the patches of a data set of this shape.

    Parameters
    ----------
    shape
        Of the data set: (patches, edge, edge, 3).
    where
        File, for the message.

    Returns
    -------
    int
        Edge in pixels.

    Raises
    ------
    DataError
        They are not square RGB images.
    """
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or shape[1] < 1:
        shown = " x ".join(map(str, shape))
        raise DataError(f"{where}: '{IMAGES}' is {shown}; patches x edge x edge x 3 are needed")
    return shape[1]


@dataclass(frozen=True)
class StoredPatches(PatchSource):
    """Stored patches of one section; ``image`` is their file.

    Spot coordinates are in pixels of the patches, so that a stored patch is as many pixels of the
    section wide as the file has. Smaller patches are cut from the centre of the stored ones; larger
    ones cannot be had, because there is no tissue around them.

    Attributes
    ----------
    rows
        (spots,) int64 row of each spot in the file.
    """

    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def extent(self) -> tuple[float, float]:
        """Refuse: stored patches show no border of an image."""
        raise DataError(
            f"{self.image}: holds patches and no whole image, so that it shows neither the border"
            " of the tissue's image nor what lies around a patch"
        )

    def _of(self, spots: range) -> Self:
        some = slice(spots.start, spots.stop)
        return replace(self, centres=self.centres[some], rows=self.rows[some])

    def _patches(
        self, size: int, pixels: int, resampling: Resampling
    ) -> Iterator[tuple[int, np.ndarray]]:
        spots: dict[int, list[int]] = {}
        for spot, row in enumerate(self.rows.tolist()):
            spots.setdefault(row, []).append(spot)
        with open_hdf5(self.image) as file:
            edge = stored_edge(file.shape(IMAGES), self.image)
            if size > edge:
                raise DataError(
                    f"{self.image}: patches of {size} px are asked for, but the stored ones are"
                    f" {edge} px wide and there is no image; ask for {edge} px or fewer"
                )
            begin, start = 0, (edge - size) // 2
            for block in file.blocks(IMAGES, "u", 4):
                if block.dtype != np.uint8:
                    raise DataError(f"{self.image}: '{IMAGES}' is {block.dtype}, not uint8")
                for row, patch in enumerate(block, begin):
                    for spot in spots.pop(row, ()):
                        centre = patch[start : start + size, start : start + size]
                        yield spot, _resampled(centre, pixels, resampling)
                begin += len(block)
        if spots:
            raise DataError(f"{self.image}: holds {begin} patches, but row {min(spots)} is named")


def _resampled(patch: np.ndarray, pixels: int, resampling: Resampling) -> np.ndarray:
    if len(patch) == pixels:
        return patch
    how = kernel(resampling, grows=pixels > len(patch))
    image = Image.fromarray(np.ascontiguousarray(patch))
    return np.asarray(image.resize((pixels, pixels), how))


def stored_patches(
    path: Path, file_hash: str, spatial: np.ndarray, rows: np.ndarray
) -> StoredPatches:
    """Source of the patches of a section.

    Parameters
    ----------
    path, file_hash
        File of the patches and its hash.
    spatial
        (spots, 2) pixel (x, y) of the spots.
    rows
        (spots,) row of each spot in the file.
    """
    # The rows are part of the identity: a worker's key is made of the hash and coordinates alone.
    identity = canonical_hash(["stored patches", file_hash, rows.tolist()])
    return StoredPatches(
        image=path,
        image_hash=f"sha256:{identity}",
        max_image_pixels=1,
        centres=spatial,
        rows=rows,
    )
