"""Check that spots lie on the tissue of their image, as given or turned or mirrored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench.cache import JsonCache
from bench.errors import DataError
from bench.files import canonical_hash
from bench.sources import code_hash

if TYPE_CHECKING:
    from bench.data.section import Section

CLEARLY_BETTER = 0.1
"""Smallest gain in the share of spots on tissue for which another orientation is reported."""

MOSTLY_ON = 0.6
"""Smallest share of spots on tissue for which another orientation is reported."""

MOSTLY_OFF = 0.5
"""Share of spots on tissue below which image and spots probably do not belong together."""

_STANDARD_ERRORS = 4.0  # by which the spots that gain outnumber those that lose
_SMALLEST_TISSUE = 5e-4  # share of the image; a fiducial dot is a fifth of it
_FEWEST_TISSUE = 2e-3  # share of the image; with less, the alignment is undefined
_LEAST_CONTRAST = 10.0  # of 255, between glass and stained tissue
_SMOOTH = 0.3  # texture of glass at most, as a part of that of tissue; measured: 0.03 and 0.5
_BLACK = 12  # of 255, below which a pixel at the border is padding

NO_TISSUE = (
    "no tissue can be told from glass in the image, so whether spots lie on tissue cannot be"
    " judged; check that the image is the slide, not a plot or a blank picture"
)

_Turn = Callable[[np.ndarray, np.ndarray, float, float], tuple[np.ndarray, np.ndarray]]

AS_GIVEN = "as given"

ORIENTATIONS: Mapping[str, _Turn] = {
    AS_GIVEN: lambda x, y, w, h: (x, y),
    "mirrored left-right": lambda x, y, w, h: (w - x, y),
    "mirrored top-bottom": lambda x, y, w, h: (x, h - y),
    "rotated by 180 degrees": lambda x, y, w, h: (w - x, h - y),
    "x and y swapped": lambda x, y, w, h: (y, x),
    "rotated by 90 degrees clockwise": lambda x, y, w, h: (w - y, x),
    "rotated by 90 degrees counter-clockwise": lambda x, y, w, h: (y, h - x),
    "x and y swapped and rotated by 180 degrees": lambda x, y, w, h: (w - y, h - x),
}
"""Orientations of spots within the image: name to a function of x, y, image width and height."""

_MENDING = {
    "mirrored left-right": ("the spots look mirrored left-right", "width - x, y"),
    "mirrored top-bottom": ("the spots look mirrored top-bottom", "x, height - y"),
    "rotated by 180 degrees": ("the spots look turned by 180 degrees", "width - x, height - y"),
    "x and y swapped": ("x and y look swapped", "y, x"),
    "rotated by 90 degrees clockwise": (
        "the spots look turned by 90 degrees counter-clockwise",
        "width - y, x",
    ),
    "rotated by 90 degrees counter-clockwise": (
        "the spots look turned by 90 degrees clockwise",
        "y, height - x",
    ),
    "x and y swapped and rotated by 180 degrees": (
        "x and y look swapped and the spots turned by 180 degrees",
        "width - y, height - x",
    ),
}


@dataclass(frozen=True)
class Alignment:
    """Agreement of spots and tissue.

    Attributes
    ----------
    share_on_tissue
        Share of the spots that lie on tissue; NaN where tissue and glass cannot be separated.
    shares
        The same for each of the eight orientations of the spots within the image's frame, by
        its name in :data:`ORIENTATIONS`.
    best
        Orientation that fits best: ``as given`` unless another is clearly better.
    warning
        One line that states the problem and how to correct it; None where there is none.
    """

    share_on_tissue: float
    shares: Mapping[str, float]
    best: str
    warning: str | None


def tissue_mask(thumbnail: Image.Image | np.ndarray) -> np.ndarray:
    """Mask of the tissue on a stained slide.

    Haematoxylin and eosin both absorb green light, glare and mounted glass hardly do: Otsu's
    threshold (IEEE Trans. Syst. Man Cybern. 9, 62, 1979) on the green channel. Pixels brighter
    than the glass count as glass, black padding at the border is left out, and specks as small
    as the dots of a fiducial frame are removed.

    Parameters
    ----------
    thumbnail
        RGB image of about 1000 px, or (height, width, 3) uint8 array.

    Returns
    -------
    (height, width) bool array. All pixels but the padding where unstained areas have as much
    texture as stained ones, so that tissue seems to fill the image; no pixel where there is no
    contrast
    """
    from scipy import ndimage
    from skimage import filters, morphology

    pixels = np.asarray(
        thumbnail.convert("RGB") if isinstance(thumbnail, Image.Image) else thumbnail
    )
    shown = ~_padding(pixels)
    nothing = np.zeros(shown.shape, dtype=bool)
    if not shown.any():
        return nothing
    green = ndimage.gaussian_filter(pixels[..., 1].astype(np.float64), 1.0)
    glass = _most_common(green[shown & (green >= np.median(green[shown]))])
    darkness = np.clip(glass - green, 0, None)
    stained = shown & (darkness > filters.threshold_otsu(darkness[shown]))
    smallest = max(1, int(_SMALLEST_TISSUE * stained.size))
    stained = morphology.remove_small_objects(stained, max_size=smallest)
    if not stained.any() or glass - np.median(green[stained]) < _LEAST_CONTRAST:
        return nothing
    # Fat and loose tissue are a net of thin strands; spots in its meshes lie on tissue.
    reach = max(1, round(max(stained.shape) / 150))
    disc = morphology.disk(reach)
    # Dilation and erosion of scipy: a third of the time of a closing by skimage, the same mask.
    grown = ndimage.binary_dilation(np.pad(stained, reach), disc)
    grown = ndimage.binary_erosion(grown, disc)[reach:-reach, reach:-reach]
    mask = morphology.remove_small_holes(grown, max_size=smallest) & shown
    rest = shown & ~ndimage.binary_dilation(mask, disc)
    texture = _texture(green)
    # Less than a grey level of texture is glass, whatever that of the tissue.
    rough = max(_SMOOTH * float(np.median(texture[mask])), 1.0)
    if not rest.any() or np.median(texture[rest]) > rough:
        return shown
    return np.asarray(mask)


def _texture(values: np.ndarray) -> np.ndarray:
    """Standard deviation in windows of 5 x 5 pixels."""
    from scipy import ndimage

    mean = ndimage.uniform_filter(values, 5)
    return np.sqrt(np.clip(ndimage.uniform_filter(values**2, 5) - mean**2, 0, None))


def _padding(pixels: np.ndarray) -> np.ndarray:
    """(height, width) bool: black areas that touch the border of the image."""
    from skimage import measure

    areas = measure.label(pixels.max(axis=-1) < _BLACK)
    border = np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]])
    return np.isin(areas, border[border > 0])


def _most_common(values: np.ndarray) -> float:
    from scipy import ndimage

    histogram = np.histogram(values, bins=256, range=(0, 256))[0].astype(np.float64)
    return float(np.argmax(ndimage.gaussian_filter1d(histogram, 2.0)))


def check_alignment(
    spatial_xy: np.ndarray, image_size: tuple[float, float], tissue: np.ndarray | Image.Image
) -> Alignment:
    """Share of spots on tissue, as given and in the seven other orientations.

    The tissue is the same in all orientations, so the share of spots on tissue ranks them as
    Youden's index of tissue against spots does, which is that share less the share of tissue, up
    to a factor.

    Parameters
    ----------
    spatial_xy
        (spots, 2) full-resolution pixel (x, y) of the spots on tissue.
    image_size
        Width and height of the image in full-resolution pixels.
    tissue
        (height, width) bool array as :func:`tissue_mask` gives it, of any size; or a thumbnail.

    Raises
    ------
    DataError
        No spot, coordinates that are not finite, or an image without extent.
    """
    spots = np.asarray(spatial_xy, dtype=np.float64)
    width, height = image_size
    if spots.ndim != 2 or spots.shape[1] != 2 or not len(spots) or not np.isfinite(spots).all():
        raise DataError("the alignment of spots needs the finite (x, y) of at least one spot")
    if not (width > 0 and height > 0):
        raise DataError(f"the alignment of spots needs an image, not {width} x {height} px")
    mask = tissue_mask(tissue) if isinstance(tissue, Image.Image) else np.asarray(tissue, bool)
    if not _FEWEST_TISSUE <= mask.mean() <= 1 - _FEWEST_TISSUE:
        return Alignment(
            float("nan"),
            dict.fromkeys(ORIENTATIONS, float("nan")),
            AS_GIVEN,
            NO_TISSUE if mask.mean() < _FEWEST_TISSUE else None,
        )
    met = {}
    for name, turn in ORIENTATIONS.items():
        x, y = turn(spots[:, 0], spots[:, 1], width, height)
        met[name] = _on(mask, x, y, width, height)
    shares = {name: float(on.mean()) for name, on in met.items()}
    best = max(shares, key=lambda name: shares[name])
    if not _clearly_better(met[best], met[AS_GIVEN]):
        best = AS_GIVEN
    return Alignment(shares[AS_GIVEN], shares, best, _warning(shares, best))


def _on(mask: np.ndarray, x: np.ndarray, y: np.ndarray, width: float, height: float) -> np.ndarray:
    """(spots,) bool: which spots lie on the mask; one outside of the image does not."""
    column = np.floor(x * mask.shape[1] / width).astype(np.int64)
    row = np.floor(y * mask.shape[0] / height).astype(np.int64)
    inside = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
    on = np.zeros(len(x), dtype=bool)
    on[inside] = mask[row[inside], column[inside]]
    return on


def _clearly_better(other: np.ndarray, given: np.ndarray) -> bool:
    """Whether more spots lie on tissue than as given, by far and beyond chance (McNemar)."""
    gained, lost = int((other & ~given).sum()), int((given & ~other).sum())
    return bool(
        gained - lost >= max(CLEARLY_BETTER * len(given), 1)
        and gained - lost >= _STANDARD_ERRORS * np.sqrt(gained + lost)
        and other.mean() >= MOSTLY_ON
    )


def _warning(shares: Mapping[str, float], best: str) -> str | None:
    given = shares[AS_GIVEN]
    if best != AS_GIVEN:
        looks, mended = _MENDING[best]
        return (
            f"{looks}: {given:.0%} of the spots lie on tissue as given, {shares[best]:.0%} would at"
            f" (x, y) = ({mended}); mend the coordinates, or turn the image"
        )
    if given < MOSTLY_OFF:
        return (
            f"only {given:.0%} of the spots lie on tissue, and turning or mirroring them does not"
            " mend it; check that image and spots are of one section, and the image's scale"
        )
    return None


def section_alignment(section: Section, spatial: np.ndarray | None = None) -> Alignment | None:
    """Alignment of a section's spots with its own image; None where it has no image.

    It is cached under the hash of the image and the coordinates of the spots.

    Parameters
    ----------
    section
        Section whose image is looked at.
    spatial
        (spots, 2) pixel (x, y) of other spots in that image; the section's own where None.
    """
    from bench.data.images.image import image_size, thumbnail

    if section.image is None:
        return None
    spatial = section.spatial if spatial is None else spatial
    places = canonical_hash([section.image_scale, spatial.tolist()])
    key = canonical_hash([section.image_hash, places, code_hash([__name__])])
    alignment = _ALIGNMENTS.get(key)
    if alignment is None:
        width, height = image_size(section.image, section.max_image_pixels)
        small, _ = thumbnail(
            section.image, section.max_image_pixels, _THUMBNAIL, section.image_hash
        )
        extent = (width / section.image_scale, height / section.image_scale)
        alignment = check_alignment(spatial, extent, small)
        shares = {n: None if np.isnan(share) else share for n, share in alignment.shares.items()}
        content = {"shares": shares, "best": alignment.best, "warning": alignment.warning}
        _ALIGNMENTS.put(key, content)
    return alignment


_THUMBNAIL = 1000


def _decode(content: Any) -> Alignment:
    shares = {
        name: float("nan") if content["shares"][name] is None else content["shares"][name]
        for name in ORIENTATIONS
    }
    return Alignment(shares[AS_GIVEN], shares, content["best"], content["warning"])


_ALIGNMENTS = JsonCache("alignments", _decode)
