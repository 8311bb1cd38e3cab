"""Tissue on a slide, and a grid of tiles over it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.images.slide import WholeSlide
from bench.errors import DataError
from bench.files import atomic_write

OVERVIEW_SIDE = 2048
"""Longest edge in pixels of the overview on which tissue is looked for."""

LEAST_TISSUE = 0.5
"""Share of a tile that tissue must cover."""

FEWEST_TILES = 3
"""Tiles below which no correlation over a slide is defined."""

MOST_TILES = 4_000_000

_MEDIAN_EDGE = 7
_LOWEST, _HIGHEST = 8, 38  # saturation of 255 between which glass ends and tissue begins
_DARKEST = 25  # value of 255 below which the hue is noise: borders that were not scanned
_PEN_HUES = (43, 152)  # of 255: yellow-green to blue; haematoxylin and eosin lie outside
_PEN_SATURATION = 64
_SPECK = 1 / 20_000  # of the overview's area
_SMALLEST_SPECK = 16
_TINT = np.array([0, 160, 0])


@dataclass(frozen=True)
class TissueMask:
    """Where there is tissue on a slide.

    Attributes
    ----------
    mask
        (height, width) bool, of pixels of the overview.
    overview
        Reduced copy of the slide.
    width, height
        Pixels of the slide at full resolution.
    where
        What errors name.
    """

    mask: np.ndarray
    overview: Image.Image
    width: int
    height: int
    where: str

    @property
    def share(self) -> float:
        """Share of the slide that tissue covers."""
        return float(self.mask.mean())

    def picture(self) -> Image.Image:
        """Overview in which all that is not tissue is faded and the border is drawn."""
        shown = np.asarray(self.overview).copy()
        shown[~self.mask] = 255 - (255 - shown[~self.mask]) // 3
        inner = self.mask.copy()
        inner[1:-1, 1:-1] &= (
            self.mask[:-2, 1:-1] & self.mask[2:, 1:-1] & self.mask[1:-1, :-2] & self.mask[1:-1, 2:]
        )
        shown[self.mask & ~inner] = _TINT
        return Image.fromarray(shown)

    def write_picture(self, path: Path) -> None:
        """Write :meth:`picture` as a PNG file."""
        with atomic_write(path) as temporary:
            self.picture().save(temporary, format="PNG")

    def share_in(self, left: np.ndarray, top: np.ndarray, edge: float) -> np.ndarray:
        """Share of squares that tissue covers.

        Parameters
        ----------
        left, top
            (squares,) corners in full-resolution pixels.
        edge
            Edge in full-resolution pixels.

        Returns
        -------
        (squares,) float64 array
            Parts outside of the slide hold no tissue.
        """
        rows, columns = self.mask.shape
        across, down = columns / self.width, rows / self.height
        sums = np.zeros((rows + 1, columns + 1))
        sums[1:, 1:] = self.mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
        # Between whole pixels the sum over a mask of squares is bilinear.
        x = [np.clip(side * across, 0, columns) for side in (left, left + edge)]
        y = [np.clip(side * down, 0, rows) for side in (top, top + edge)]
        covered = (
            _bilinear(sums, y[1], x[1])
            - _bilinear(sums, y[0], x[1])
            - _bilinear(sums, y[1], x[0])
            + _bilinear(sums, y[0], x[0])
        )
        return np.asarray(covered / (edge * across * edge * down))


def find_tissue(slide: WholeSlide, side: int = OVERVIEW_SIDE) -> TissueMask:
    """Tissue on an overview of a slide stained with haematoxylin and eosin.

    As CLAM does (Lu et al. 2021, doi:10.1038/s41551-020-00682-w): the saturation in HSV after a
    median filter, divided by Otsu's threshold (1979, doi:10.1109/TSMC.1979.4310076), without small
    specks and holes. The threshold is kept between 8, CLAM's fixed one, and 38 of 255, so that
    pale tissue beside dark tissue is kept. Where the two parts differ by less than 8, the slide is
    of one kind: all tissue where it is saturated, else none. Green and blue pen marks are left out
    by their hue; red and black ones are not recognised.

    Parameters
    ----------
    slide
        Open slide.
    side
        Longest edge in pixels of the overview.

    Raises
    ------
    DataError
        There is no tissue; or the slide is damaged.
    """
    overview = slide.overview(side)
    mask = tissue_pixels(np.asarray(overview))
    if not mask.any():
        raise DataError(f"{slide.path}: there is no tissue on it, or none that is stained")
    return TissueMask(mask, overview, slide.width, slide.height, str(slide.path))


def tissue_pixels(pixels: np.ndarray) -> np.ndarray:
    """Mask of tissue; see :func:`find_tissue`.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8, RGB.

    Returns
    -------
    (height, width) bool array
    """
    from scipy.ndimage import median_filter
    from skimage.filters import threshold_otsu

    hue, saturation, value = np.moveaxis(np.asarray(Image.fromarray(pixels).convert("HSV")), -1, 0)
    saturation = np.where(value < _DARKEST, 0, saturation)
    smooth = median_filter(saturation, _MEDIAN_EDGE)
    threshold = threshold_otsu(smooth) if smooth.min() < smooth.max() else int(smooth.flat[0])
    above = smooth > threshold
    means = [float(smooth[part].mean()) if part.any() else math.nan for part in (~above, above)]
    if above.any() and means[1] - means[0] >= _LOWEST:
        mask = smooth > np.clip(threshold, _LOWEST, _HIGHEST)
    else:
        mask = np.full(smooth.shape, np.median(smooth) > _HIGHEST)
    pen = (hue >= _PEN_HUES[0]) & (hue <= _PEN_HUES[1]) & (saturation >= _PEN_SATURATION)
    if pen.any():
        mask &= ~(median_filter(pen.astype(np.uint8), _MEDIAN_EDGE) > 0)
    smallest = max(_SMALLEST_SPECK, round(mask.size * _SPECK))
    return ~_without_specks(~_without_specks(mask, smallest), smallest)


def _without_specks(mask: np.ndarray, smallest: int) -> np.ndarray:
    """Mask without parts of fewer pixels than the smallest."""
    from skimage.measure import label

    parts = label(mask, connectivity=1)
    large = np.bincount(parts.ravel()) >= smallest
    large[0] = False
    return np.asarray(large[parts])


def _bilinear(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    top = np.minimum(rows.astype(np.int64), values.shape[0] - 2)
    left = np.minimum(columns.astype(np.int64), values.shape[1] - 2)
    down, across = rows - top, columns - left
    upper = values[top, left] * (1 - across) + values[top, left + 1] * across
    lower = values[top + 1, left] * (1 - across) + values[top + 1, left + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


@dataclass(frozen=True)
class TissueGrid:
    """Tiles of a square grid that hold tissue, row by row from the top, each from the left.

    Attributes
    ----------
    names
        Name of each tile, ``r0012c0034``: row and column of the grid.
    array_xy
        (tiles, 2) int64 grid coordinates (column, row).
    spatial
        (tiles, 2) float64 centres (x, y) in full-resolution pixels.
    tissue
        (tiles,) float32 share of each tile that tissue covers.
    pitch_um
        Distance of neighbouring centres in micrometres, the edge of a tile.
    pitch_pixels
        The same in full-resolution pixels.
    """

    names: tuple[str, ...]
    array_xy: np.ndarray
    spatial: np.ndarray
    tissue: np.ndarray
    pitch_um: float
    pitch_pixels: float

    def __len__(self) -> int:
        return len(self.names)


def tissue_grid(
    mask: TissueMask,
    pitch_um: float,
    micrometres_per_pixel: float | None,
    least_tissue: float = LEAST_TISSUE,
) -> TissueGrid:
    """Tiles of a square grid from the slide's top left corner that hold enough tissue.

    Parameters
    ----------
    mask
        Tissue of the slide.
    pitch_um
        Distance of neighbouring centres and edge of a tile, in micrometres.
    micrometres_per_pixel
        Scale of the slide at full resolution; None where it is not known.
    least_tissue
        Share of a tile that tissue must cover, above 0 and at most 1.

    Raises
    ------
    DataError
        The scale is not known; pitch or share make no sense; fewer than :data:`FEWEST_TILES`
        tiles, or more than :data:`MOST_TILES` in the grid.
    """
    where = mask.where
    if micrometres_per_pixel is None:
        raise DataError(
            f"{where}: its metadata do not tell the scale, which a grid needs; give micrometres per"
            " pixel"
        )
    if not (math.isfinite(micrometres_per_pixel) and micrometres_per_pixel > 0):
        raise DataError(f"{where}: {micrometres_per_pixel} micrometres per pixel are no scale")
    if not 0 < least_tissue <= 1:
        raise DataError(f"{where}: the share of tissue must be above 0 and at most 1")
    pitch = pitch_um / micrometres_per_pixel
    if not (math.isfinite(pitch) and pitch >= 1):
        raise DataError(
            f"{where}: a grid of {pitch_um:g} micrometres is finer than the slide's pixels of"
            f" {micrometres_per_pixel:g}"
        )
    across, down = (math.ceil(side / pitch) for side in (mask.width, mask.height))
    if across * down > MOST_TILES:
        raise DataError(f"{where}: a grid of {pitch_um:g} micrometres has {across * down:,} tiles")
    rows, columns = (index.ravel() for index in np.indices((down, across)))
    share = mask.share_in(columns * pitch, rows * pitch, pitch)
    # Sums of many pixels are rounded: a tile of nothing but tissue may have a little less.
    kept = share >= least_tissue - 1e-6
    kept &= ((columns + 0.5) * pitch < mask.width) & ((rows + 0.5) * pitch < mask.height)
    if kept.sum() < FEWEST_TILES:
        raise DataError(
            f"{where}: {kept.sum()} tiles of {pitch_um:g} micrometres hold {least_tissue:.0%} of"
            f" tissue, at least {FEWEST_TILES} are needed; take a finer grid"
        )
    array_xy = np.column_stack([columns, rows])[kept].astype(np.int64)
    return TissueGrid(
        names=tuple(f"r{row:04d}c{column:04d}" for column, row in array_xy.tolist()),
        array_xy=array_xy,
        spatial=(array_xy + 0.5) * pitch,
        tissue=np.minimum(share[kept], 1).astype(np.float32),
        pitch_um=float(pitch_um),
        pitch_pixels=pitch,
    )
