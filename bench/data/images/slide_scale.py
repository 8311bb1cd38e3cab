"""Micrometres per pixel, as the metadata of an image file give them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, cast
from xml.etree import ElementTree as ET

import tifffile
from PIL import Image

from bench.files import one_line

FINEST, COARSEST = 0.01, 1000.0
"""Micrometres per pixel between which a stated scale is believed."""

COARSEST_BY_RESOLUTION = 20.0
"""Micrometres per pixel from which on a resolution tag is taken for one of screen or print, which
programs write unasked: 96 dots an inch are 265, 600 are 42."""

_ANISOTROPY = 0.01
_MICROMETRES = {
    "pm": 1e-6,
    "Å": 1e-4,
    "nm": 1e-3,
    "um": 1.0,
    "\u03bcm": 1.0,  # to which the micro sign is normalised
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "inch": 25_400.0,
}
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _XMP = 282, 283, 296, 700
_INCH, _CENTIMETRE = 2, 3
_APERIO = re.compile(r"\|\s*MPP\s*=\s*(\d+(?:[.,]\d+)?)")
_PHILIPS = re.compile(r'DICOM_PIXEL_SPACING"[^>]*>\s*"([^"]+)"\s+"([^"]+)"', re.DOTALL)
_VENTANA = re.compile(r"ScanRes\s*=\s*[\"']([^\"']+)[\"']")
_LONGEST_TEXT = 64 << 20


def one_scale(across: float | None, down: float | None, coarsest: float = COARSEST) -> float | None:
    """One scale of both directions; None where they differ by more than 1 % or are not believed.

    Parameters
    ----------
    across, down
        Micrometres per pixel; None or not finite where they are not known.
    coarsest
        Largest value that is believed.

    Examples
    --------
    >>> one_scale(0.5, 0.5), one_scale(0.5, 1.0), one_scale(0.5, None), one_scale(1e-9, 1e-9)
    (0.5, None, None, None)
    """
    if across is None or down is None:
        return None
    if not all(math.isfinite(side) and FINEST <= side <= coarsest for side in (across, down)):
        return None
    return None if abs(across / down - 1) > _ANISOTROPY else math.sqrt(across * down)


def in_micrometres(value: object, unit: object) -> float | None:
    """A length with a unit of length in micrometres; None for what is none.

    Examples
    --------
    >>> in_micrometres("250", "nm"), in_micrometres("0.5", "µm"), in_micrometres("1", "pixel")
    (0.25, 0.5, None)
    """
    # ImageJ writes the sign as an escape.
    text = str(unit).replace("\\u00B5", "µ")
    of = _MICROMETRES.get(unicodedata.normalize("NFKC", text).strip())
    number = _number(value)
    return None if of is None or number is None else number * of


def tiff_scale(file: tifffile.TiffFile, page: Any) -> float | None:
    """Scale of an image in a TIFF.

    Looked for in this order: OME-XML (``PhysicalSizeX`` and its unit), the description of an
    Aperio slide (``MPP``), of a Philips slide (``DICOM_PIXEL_SPACING``), the metadata of a Ventana
    slide (``ScanRes``), ImageJ's unit, the resolution tags.

    Parameters
    ----------
    file
        Open file.
    page
        Page of the image at full resolution.
    """
    for scale in _stated(file, page):
        if scale is not None:
            return scale
    return None


def _stated(file: tifffile.TiffFile, page: Any) -> Iterator[float | None]:
    if file.is_ome:
        yield ome_scale(file.ome_metadata or "", (page.imagewidth, page.imagelength))
    text = str(page.description)[:_LONGEST_TEXT]
    if text.startswith("Aperio"):
        match = _APERIO.search(text)
        side = _number(match.group(1).replace(",", ".")) if match else None
        yield one_scale(side, side)
    if file.is_philips and (match := _PHILIPS.search(text)):
        across, down = match.groups()
        yield one_scale(in_micrometres(across, "mm"), in_micrometres(down, "mm"))
    if file.is_bif and (match := _VENTANA.search(_xmp(file))):
        side = _number(match.group(1))
        yield one_scale(side, side)
    horizontal, vertical = (_pixels_per_unit(page, t) for t in (_X_RESOLUTION, _Y_RESOLUTION))
    if horizontal is None or vertical is None:
        return
    if file.is_imagej:
        unit = (file.imagej_metadata or {}).get("unit", "")
        yield one_scale(in_micrometres(1 / horizontal, unit), in_micrometres(1 / vertical, unit))
    unit = {_INCH: "inch", _CENTIMETRE: "cm"}.get(page.tags.valueof(_RESOLUTION_UNIT, _INCH))
    lengths = (in_micrometres(1 / horizontal, unit), in_micrometres(1 / vertical, unit))
    yield one_scale(*lengths, COARSEST_BY_RESOLUTION)


def scale_fault(file: tifffile.TiffFile, page: Any) -> str:
    """Reason why a scale that OME-XML states is not taken; empty where it states none."""
    if not file.is_ome:
        return ""
    sides = _ome_sides(file.ome_metadata or "", (page.imagewidth, page.imagelength))
    if sides is None or any(value is None for value, _ in sides):
        return ""
    lengths = []
    for value, unit in sides:
        lengths.append(in_micrometres(value, unit))
        if lengths[-1] is None:
            shown = one_line(f"{value} {unit}", 40)
            return f"its OME metadata state '{shown}', which is no length"
    across, down = lengths
    assert across is not None  # returned above
    assert down is not None
    if one_scale(across, across) is None or one_scale(down, down) is None:
        return f"its OME metadata state {across:g} x {down:g} um, which is implausible"
    if one_scale(across, down) is None:
        return f"its OME metadata state unequal sides, {across:g} x {down:g} um"
    return ""


def ome_scale(text: str, size: tuple[int, int]) -> float | None:
    """Scale of the image of a size (width, height) in OME-XML.

    Micrometres are the unit where none is given, as in the schema
    (https://docs.openmicroscopy.org/ome-model/latest/).
    """
    sides = _ome_sides(text, size)
    if sides is None:
        return None
    across, down = (in_micrometres(*side) for side in sides)
    return one_scale(across, down)


def _ome_sides(text: str, size: tuple[int, int]) -> list[tuple[str | None, str]] | None:
    """Width and height of a pixel with their units, as OME-XML states them."""
    # Entities are what makes a small text of XML large.
    if len(text) > _LONGEST_TEXT or "<!" in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL):
        return None
    try:
        root = ET.fromstring(text)  # noqa: S314 - without entities
    except ET.ParseError:
        return None
    for pixels in root.iter():
        if pixels.tag.rpartition("}")[2] != "Pixels":
            continue
        facts = pixels.attrib
        if (facts.get("SizeX"), facts.get("SizeY")) == (str(size[0]), str(size[1])):
            return [
                (facts.get(name), facts.get(f"{name}Unit", "µm"))
                for name in ("PhysicalSizeX", "PhysicalSizeY")
            ]
    return None


def picture_scale(image: Image.Image) -> float | None:
    """Scale of a JPEG or PNG by its resolution; None where it is one of screen or print."""
    dots = image.info.get("dpi")
    if not (isinstance(dots, tuple) and len(dots) == 2):
        return None
    sides = [_number(dot) for dot in dots]
    lengths = [in_micrometres(1 / side, "inch") if side else None for side in sides]
    return one_scale(lengths[0], lengths[1], COARSEST_BY_RESOLUTION)


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _pixels_per_unit(page: Any, tag: int) -> float | None:
    value = page.tags.valueof(tag)
    if not (isinstance(value, tuple) and len(value) == 2 and value[1]):
        return None
    return _number(value[0] / value[1])


def _xmp(file: tifffile.TiffFile) -> str:
    pages = [cast("Any", file.pages[number]) for number in range(min(2, len(file.pages)))]
    texts = (page.tags.valueof(_XMP, b"") for page in pages)
    return " ".join(
        text[:_LONGEST_TEXT].decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        for text in texts
    )
