"""Search for AnnData files in a folder, and the images inside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.datasets.h5ad.columns import COORDINATES, DIVIDING, image_libraries, sections_of_spots
from bench.readers import (
    DataError,
    FoundSection,
    Hdf5File,
    ReducedImage,
    disagreement,
    files_under,
    images_in,
    not_read,
    on_white,
    open_hdf5,
    other_size,
)

_IMAGES = ("fullres", "downscaled_fullres", "hires")
_COPIES = ("downscaled_fullres", "hires", "lowres")


def embedded_image(
    path: Path, *, library: str | None = None, by: str = DIVIDING
) -> tuple[np.ndarray, float] | None:
    """Reduced image that scanpy, squidpy and HEST keep inside the file, the largest there is.

    Returns
    -------
    tuple of ndarray and float, or None
        (height, width, 3) uint8 RGB and its pixels a full-resolution pixel; None where the file
        holds no such image.

    Raises
    ------
    DataError
        The file is damaged, or an image that is no RGB image.
    """
    with open_hdf5(path) as file:
        name = _image_library(file, by, library)
        if name is None:
            return None
        place = f"uns/spatial/{name}"
        kept = [one for one in _IMAGES if file.kind(f"{place}/images/{one}") == "data set"]
        if not kept:
            return None
        image = kept[0]
        factor = f"{place}/scalefactors/tissue_{image}_scalef"
        if image == "fullres" and file.kind(factor) is None:
            scale = 1.0
        else:
            scale = float(file.numbers(factor, "iuf", 0))
        pixels = file.numbers(f"{place}/images/{image}", dimensions=3)
    if pixels.shape[2] not in (3, 4) or not pixels.size:
        raise DataError(f"{path}: the image inside has shape {pixels.shape}, RGB is needed")
    if not (np.isfinite(scale) and 0 < scale <= 1):
        raise DataError(
            f"{path}: tissue_{image}_scalef must be above 0 and at most 1, it is {scale}"
        )
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"{path}: the image inside has values outside of 0 to 1")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"{path}: the image inside is {pixels.dtype}; uint8 or 0 to 1 is needed")
    if pixels.shape[2] == 4:
        pixels = on_white(pixels[..., :3], pixels[..., 3:])
    return np.ascontiguousarray(pixels), scale


def embedded_copies(
    path: Path, *, library: str | None = None, by: str = DIVIDING
) -> list[ReducedImage]:
    """Sizes and scales of the reduced images inside the file, without their pixels."""
    with open_hdf5(path) as file:
        name = _image_library(file, by, library)
        copies = []
        for image in _COPIES if name is not None else ():
            place = f"uns/spatial/{name}/images/{image}"
            factor = f"uns/spatial/{name}/scalefactors/tissue_{image}_scalef"
            if file.kind(place) != "data set" or file.kind(factor) != "data set":
                continue
            shape, scale = file.shape(place), float(file.numbers(factor, "iuf", 0))
            if len(shape) == 3 and min(shape) > 0 and 0 < scale <= 1:
                copies.append(ReducedImage(f"{image} inside {path.name}", shape[1::-1], scale))
    return copies


def _image_library(file: Hdf5File, by: str, library: str | None) -> str | None:
    """Name under which the image of a section lies, None where it cannot be told."""
    libraries = image_libraries(file)
    values = sections_of_spots(file, by)
    named = sorted(set(values) - {""}) if values is not None else []
    own = library or (named[0] if len(named) == 1 else None)
    if own in libraries:
        return own
    return libraries[0] if len(libraries) == 1 else None


def discover(
    folder: Path, *, by: str | None = None, genome: str | None = None
) -> list[FoundSection]:
    """Sections in a folder: those of every ``.h5ad`` file with coordinates.

    The image is the file of the same name beside it, or else the reduced one inside the file.

    Parameters
    ----------
    folder
        Folder to look through.
    by
        Column of ``obs`` that tells the sections of a file apart; ``library_id`` where None.
    genome
        Genome whose genes are kept where the reference holds several.
    """
    sections = []
    for path in files_under(folder):
        if path.suffix.lower() != ".h5ad" or is_of_hest(path) or is_of_hest_bench(path):
            continue
        with open_hdf5(path) as file:
            if not any(file.kind(place) for place in COORDINATES):
                names = ", ".join(file.names("obsm")[:5]) if file.kind("obsm") else ""
                sections.append(
                    not_read(
                        path.stem,
                        f"{path} has no obsm['spatial'] with pixel (x, y) of the spots"
                        + (f", only {names}" if names else ""),
                    )
                )
                continue
            values = sections_of_spots(file, by or DIVIDING)
            several = sorted(set(values) - {""}) if values is not None else []
        if by is not None and not several:
            raise DataError(f"{path}: obs has no column '{by[:40]}'")
        chosen: list[str | None] = list(several) if len(several) > 1 else [None]
        sections += [_section(path, library, by, genome) for library in chosen]
    return sections


def is_of_hest(path: Path) -> bool:
    """Whether a file lies in the folder ``st`` of a HEST folder, which has a reader of its own."""
    root = path.parent.parent
    return path.parent.name == "st" and any((root / n).is_dir() for n in ("wsis", "metadata"))


def is_of_hest_bench(path: Path) -> bool:
    """Whether a file lies in the folder ``adata`` of a HEST-Benchmark task, which has a reader."""
    return path.parent.name == "adata" and (path.parent.parent / "patches").is_dir()


def _section(path: Path, library: str | None, by: str | None, genome: str | None) -> FoundSection:
    settings: dict[str, str | int] = {}
    if library is not None:
        settings |= {"library": library}
    if by is not None:
        settings |= {"by": by}
    if genome is not None:
        settings |= {"genome": genome}
    copies = embedded_copies(path, library=library, by=by or DIVIDING)
    warnings = [said] if (said := disagreement(copies)) else []
    names = {path.stem, library} if library else {path.stem}
    files, scale, assumed = {"counts": path}, 1.0, []
    for image in [one for one in images_in(path.parent) if one.stem in names]:
        fault = other_size(image, copies, "the image inside") if copies else ""
        if not fault:
            files["image"] = image
            assumed.append(f"{image.name} is the image that obsm['spatial'] is placed in")
            break
        warnings.append(fault)
    if "image" not in files:
        inside = embedded_image(path, library=library, by=by or DIVIDING)
        said = "no image was found; only methods that need none can run"
        if inside is not None:
            scale = inside[1]
            files["image"] = path
            said = f"the image inside the file is used, {1 / scale:.1f} times smaller than full"
            said += " resolution"
        assumed.append(said)
    return FoundSection(
        library or path.stem,
        files,
        100.0,
        55.0,
        scale,
        tuple(assumed),
        tuple(warnings),
        settings=settings,
    )
