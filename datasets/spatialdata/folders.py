"""Search for SpatialData stores in a folder, and the images inside them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import spatial

from bench.datasets.spatialdata.reading import frame
from bench.datasets.spatialdata.store import (
    PackageMissingError,
    Picture,
    Spots,
    Store,
    micrometres_of,
    moved,
    open_store,
    pixels_of,
    sections_of,
    size_of,
    to_image,
)
from bench.readers import (
    FoundSection,
    check_image_pieces,
    chosen_bin,
    images_in,
    not_read,
    stores_under,
)

_ARRAYS = {"Visium": (100.0, 55.0), "Spatial Transcriptomics": (200.0, 100.0)}
_BINS = re.compile(r"square_(\d{3})um$")
_INSIDE = 0.99
"""Share of the spots that must lie in an image that is theirs."""


def embedded_image(path: Path, *, level: int = 0) -> tuple[np.ndarray, float] | None:
    """Image of a store.

    Parameters
    ----------
    path
        Its folder in the store, ``STORE.zarr/images/NAME``.
    level
        Scale, 0 for the largest.

    Returns
    -------
    tuple of ndarray and float, or None
        (height, width, 3) uint8 RGB and its pixels a pixel of the largest scale; None where it is
        no RGB image.

    Raises
    ------
    DataError
        Not inside a SpatialData store, damaged, or larger than 2 GiB.
    """
    store = open_store(path.parent.parent, ("images",))
    picture = store.pictures.get(path.name) if path.parent.name == "images" else None
    if picture is None:
        return None
    check_image_pieces(store.path, f"images/{path.name}", store.nodes)
    return pixels_of(picture, level, path), picture.scale(level)


def discover(
    folder: Path, *, bin_micrometres: int | None = None, genome: str | None = None
) -> list[FoundSection]:
    """Sections in the stores of a folder, or in a folder that is a store.

    Parameters
    ----------
    folder
        Folder to look through.
    bin_micrometres
        Bins of Visium HD to read; 16 where None, or the largest that there are.
    genome
        Genome whose genes are kept where the reference holds several.

    Raises
    ------
    DataError
        A damaged or hostile store.
    """
    found: list[tuple[str, FoundSection]] = []
    for path in stores_under(folder):
        try:
            store = open_store(path)
        except PackageMissingError as error:
            return [not_read(path.stem, str(error))]
        sections, reasons = sections_of(store)
        if not sections:
            why = "; ".join(reasons)[:200] or "it has no table"
            found.append((path.stem, not_read(path.stem, f"{path} holds no spots: {why}")))
        sections = _of_one_bin_size(path, sections, bin_micrometres)
        for number, spots in enumerate(sections):
            name = (spots.region or spots.table) if len(sections) > 1 else path.stem
            section = _section(store, spots, sections, name, genome)
            if not number:  # once for a store
                section = replace(section, warnings=tuple(f"{one}, left out" for one in reasons))
            found.append((path.stem, section))
    times = Counter(section.name for _, section in found)
    return [
        section if times[section.name] == 1 else replace(section, name=f"{stem}-{section.name}")
        for stem, section in found
    ]


def _of_one_bin_size(path: Path, sections: list[Spots], wanted: int | None) -> list[Spots]:
    """Sections of Visium HD of one size of bins; others as they are."""
    edges = {edge for spots in sections if (edge := _bin_of(spots)) is not None}
    if not edges:
        return sections
    size = chosen_bin(edges, wanted, path)
    return [spots for spots in sections if _bin_of(spots) == size]


def _bin_of(spots: Spots) -> int | None:
    match = _BINS.search(spots.region) or _BINS.search(spots.table)
    return int(match[1]) if match else None


def _section(
    store: Store, spots: Spots, sections: list[Spots], name: str, genome: str | None
) -> FoundSection:
    settings: dict[str, str | int] = {"table": spots.table}
    if spots.region:
        settings["region"] = spots.region
    if genome is not None:
        settings["genome"] = genome
    files, scale, assumed = {"counts": store.path}, 1.0, []
    picture, system, reason = _picture(store, spots, sections)
    matrix = np.eye(3)
    if picture is not None and system is not None and picture.level is not None:
        matrix, scale = frame(spots, picture, system)
        level = picture.level
        scale *= picture.scale(level)
        settings |= {"image": picture.name, "system": system, "level": level}
        files["image"] = store.path / "images" / picture.name
        reduced = f", {1 / scale:.1f} times smaller than full resolution" if scale < 1 else ""
        assumed.append(f"image '{picture.name}' of the store is used{reduced}")
    elif len(sections) == 1 and (
        same := [one for one in images_in(store.path.parent) if one.stem == store.path.stem]
    ):
        files["image"] = same[0]
        assumed.append(f"{same[0].name} is the image that the spots are placed in")
    else:
        assumed.append(f"{reason}; only methods that need no image can run")
    metric = micrometres_of(store, spots)
    pixel = None if metric is None else metric / size_of(matrix)
    platform, (pitch, diameter) = _array(spots, metric)
    if pixel is None:
        assumed.append(f"{pitch:g} um from spot to spot, as in {platform}")
    return FoundSection(
        name,
        files,
        pitch,
        diameter,
        scale,
        tuple(assumed),
        micrometres_per_pixel=pixel,
        settings=settings,
        platform=platform,
    )


def _array(spots: Spots, metric: float | None) -> tuple[str, tuple[float, float]]:
    """Platform that the array is like, and pitch and diameter of its spots in micrometres."""
    size = _bin_of(spots)
    if size is not None:
        return "Visium HD", (float(size), float(size))
    platform, usual = "Visium", _ARRAYS["Visium"]
    if len(spots.xy) < 2:
        return platform, usual
    pitch = float(np.median(spatial.cKDTree(spots.xy).query(spots.xy, k=2)[0][:, 1]))
    if spots.diameter and pitch > 0:
        # A half tells the older array; the circles of Visium are wider than that.
        if abs(spots.diameter / pitch - 0.5) < 0.02:
            platform, usual = "Spatial Transcriptomics", _ARRAYS["Spatial Transcriptomics"]
        if metric is not None:
            return platform, (pitch * metric, spots.diameter * metric)
    if metric is not None and pitch > 0:
        return platform, (pitch * metric, usual[1] / usual[0] * pitch * metric)
    return platform, usual


def _picture(
    store: Store, spots: Spots, sections: list[Spots]
) -> tuple[Picture | None, str | None, str]:
    """Image of a section and the coordinate system that both are in, or why there is none.

    It must hold the spots. Where several do, those named after the section are preferred, then
    that in which the spots are largest. An image that holds the spots of another section as well
    is that section's or this one's; its name must tell.
    """
    fitting: list[tuple[float, Picture, str]] = []
    for picture in store.pictures.values():
        for system in sorted(set(picture.systems) & set(spots.systems)):
            if picture.level is not None and _holds(picture, spots, system):
                size = size_of(to_image(spots, picture, system))
                fitting.append((size * picture.scale(picture.level), picture, system))
    if not fitting:
        return None, None, "no RGB image of the store holds the spots"
    own = [one for one in fitting if spots.region and _namesake(one[1], sections) is spots]
    others = [one for one in sections if one is not spots]
    alone = [
        one
        for one in fitting
        if not any(one[2] in other.systems and _holds(one[1], other, one[2]) for other in others)
    ]
    chosen = own or alone
    if not chosen:
        return None, None, "no image could be told to be that of the section by its name"
    _, picture, system = max(chosen, key=lambda one: (one[0], one[1].name, one[2]))
    return picture, system, ""


def _namesake(picture: Picture, sections: list[Spots]) -> Spots | None:
    """Section after which an image is named: ``S10_full_image`` after ``S10``, not ``S1``."""
    named = [
        spots
        for spots in sections
        if spots.region and re.match(rf"{re.escape(spots.region)}(?![A-Za-z0-9])", picture.name)
    ]
    return max(named, key=lambda spots: len(spots.region), default=None)


def _holds(picture: Picture, spots: Spots, system: str) -> bool:
    x, y = moved(spots.xy, to_image(spots, picture, system)).T
    width, height = picture.size
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return bool(len(inside)) and float(inside.mean()) >= _INSIDE
