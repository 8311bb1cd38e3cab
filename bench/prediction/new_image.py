"""The image that is predicted: an ordinary one, or a whole slide that is read in tiles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from bench.data.images.image import thumbnail
from bench.data.images.patches import PatchSource
from bench.data.images.slide_patches import (
    SlidePatches,
    Stripes,
    reading_order,
    slide_patches,
    stripe_ranges,
)
from bench.data.images.tissue import TissueMask, find_tissue, tissue_grid
from bench.data.images.whole_slide import open_slide
from bench.data.inputs import Slide
from bench.errors import DataError
from bench.prediction.fitted import image_source
from bench.prediction.spots import ImageSpots, spots_of

_BAND_PATCHES = 4
"""Height in patches of the bands in which spots of a whole slide are read."""


_WITHOUT_DIRECTORY = re.compile(r"image cannot be read \((\d+|corrupted IFD structure)\)$")
"""What is told of a TIFF that ends before the directory of its images."""


@dataclass(frozen=True)
class NewImage:
    """An image without expression.

    Attributes
    ----------
    path
        Image file.
    extent
        Width and height in full-resolution pixels of the spots.
    image_scale
        Pixels of the file a full-resolution pixel.
    micrometres_per_pixel
        Scale of the full-resolution image, as given, else by the file's metadata; None: unknown.
    from_metadata
        Whether the metadata told it.
    unknown_scale
        What errors say where the scale is not known, with the reason if there is one.
    largest
        Pixels of the largest image that is read as a whole.
    in_tiles
        Whether it is read in tiles: too large to be read as a whole, or of a slide scanner's
        format.
    """

    path: Path
    extent: tuple[float, float]
    image_scale: float
    micrometres_per_pixel: float | None
    from_metadata: bool
    largest: int
    in_tiles: bool
    unknown_scale: str = "its pixel size is not known"

    def source(self, centres: np.ndarray, factor: float = 1.0) -> PatchSource:
        """Patches around centres.

        Parameters
        ----------
        centres
            (spots, 2) pixel (x, y).
        factor
            Pixels of these a full-resolution pixel.
        """
        scale = self.image_scale / factor
        if not self.in_tiles:
            return image_source(self.path, centres, self.largest, scale)
        with open_slide(self.path) as slide:
            return slide_patches(slide, centres, image_scale=scale)

    def spots(
        self, positions: Path | pd.DataFrame | None, pitch: float | None
    ) -> tuple[ImageSpots, TissueMask | None]:
        """Spots that are read, or the tiles of a grid over the tissue and the tissue.

        Parameters
        ----------
        positions
            See :func:`bench.prediction.spots.spots_of`; None with a grid.
        pitch
            Pitch of the grid in micrometres.

        Raises
        ------
        DataError
            As :func:`spots_of`; the scale is not known; no tissue, or fewer than three tiles.
        """
        if pitch is None:
            return spots_of(self.path, self.extent, positions), None
        if self.micrometres_per_pixel is None:
            raise DataError(
                f"{self.path}: {self.unknown_scale}, which a grid needs; give --um-per-px"
            )
        with open_slide(self.path) as slide:
            tissue = find_tissue(slide)
        grid = tissue_grid(tissue, pitch, self.micrometres_per_pixel / self.image_scale)
        note = (
            f"{len(grid):,} tiles of {pitch:g} um with tissue, {tissue.share:.0%} of the image;"
            " array coordinates are column and row of this grid"
        )
        spatial = grid.spatial / self.image_scale
        return ImageSpots(grid.names, spatial, grid.array_xy, (note,)), tissue

    def thumbnail(self, side: int) -> tuple[Image.Image, float]:
        """Copy of at most `side` pixels, and its pixels a pixel of the file."""
        if not self.in_tiles:
            return thumbnail(self.path, self.largest, side)
        with open_slide(self.path) as slide:
            small = slide.overview(side)
            return small, small.width / slide.width


def new_image(path: Path, largest: int, um_per_px: float | None, image_scale: float) -> NewImage:
    """Look at an image file.

    Parameters
    ----------
    path
        Image file.
    largest
        Pixels of the largest image that is read as a whole.
    um_per_px
        Micrometres a full-resolution pixel, where they are given.
    image_scale
        Pixels of the file a full-resolution pixel.

    Raises
    ------
    DataError
        There is no such file, or it is no image.
    """
    source = image_source(path, np.empty((0, 2)), largest, image_scale)
    told, in_tiles, unknown = None, False, NewImage.unknown_scale
    try:
        with open_slide(path) as slide:
            told = slide.micrometres_per_pixel
            if slide.scale_fault:
                unknown += f" ({slide.scale_fault})"
            in_tiles = slide.reader == "openslide" or slide.width * slide.height > largest
            extent = (slide.width / image_scale, slide.height / image_scale)
    except DataError:
        pass  # what reads ordinary images gives the reason, if it cannot read this one either
    if not in_tiles:
        try:
            extent = source.extent()
        except DataError as error:
            if _WITHOUT_DIRECTORY.search(str(error)):
                raise DataError(f"{path}: image is damaged or cut off; fetch it again") from error
            raise
    scale = um_per_px if um_per_px is not None or told is None else told * image_scale
    from_metadata = um_per_px is None and told is not None
    return NewImage(path, extent, image_scale, scale, from_metadata, largest, in_tiles, unknown)


def stripes(slide: Slide, reads_section: bool) -> Iterator[tuple[np.ndarray, Slide]]:
    """A slide, or the stripes of a whole slide, with the rows of their spots.

    Parameters
    ----------
    slide
        The slide.
    reads_section
        Whether a spot's prediction depends on others of its section: then it stays whole.
    """
    source = slide.patch_source
    if reads_section or not isinstance(source, SlidePatches):
        yield np.arange(len(slide)), slide
        return
    order, bands = reading_order(slide.spatial, _BAND_PATCHES * slide.patch_pixels)
    ordered = replace(source, centres=source.centres[order])
    with Stripes(ordered, stripe_ranges(bands)) as parts:
        for spots, part in parts:
            rows = order[spots.start : spots.stop]
            yield (
                rows,
                replace(
                    slide,
                    array_xy=slide.array_xy[rows],
                    spatial=slide.spatial[rows],
                    patch_source=part,
                ),
            )
