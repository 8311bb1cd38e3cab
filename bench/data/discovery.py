"""Sections that a reader discovers in a folder without a card."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.data.stored_files import is_store
from bench.errors import DataError

IMAGE_ENDINGS = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".jpg", ".jpeg", ".png")
"""Endings of image files that are looked for."""

DEFAULT_BIN = 16
"""Edge of the bins of Visium HD that are read unless others are asked for, in micrometres."""

_LEFTOVERS = {"__MACOSX", "lost+found"}
_MOST_FILES = 1_000_000


@dataclass(frozen=True)
class FoundSection:
    """A section whose files lie as a layout has them.

    Attributes
    ----------
    name
        Name for it, made of its folder's or its files' names.
    files
        Path by role.
    spot_pitch_micrometres, spot_diameter_micrometres
        Pitch and diameter of the spots of the layout's array.
    image_scale
        Pixels of the image a full-resolution pixel.
    assumed
        What was taken for granted, a line each.
    warnings
        What a person should look at, a line each.
    micrometres_per_pixel
        Scale of the full-resolution pixels as the files state it; None: from the pitch.
    settings
        Keyword arguments of the reader for this section, such as the library of a shared file.
    patient
        Patient as the files state it; empty where they do not.
    platform, tissue
        As the files state them; empty where they do not.
    missing
        Reason why the section cannot be read, in a few words; empty if it can.
    """

    name: str
    files: Mapping[str, Path]
    spot_pitch_micrometres: float
    spot_diameter_micrometres: float
    image_scale: float = 1.0
    assumed: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())
    micrometres_per_pixel: float | None = None
    settings: Mapping[str, str | int] = field(default_factory=dict)
    patient: str = ""
    platform: str = ""
    tissue: str = ""
    missing: str = ""


def not_read(name: str, missing: str) -> FoundSection:
    """A section that cannot be read because a file of its layout is missing.

    Parameters
    ----------
    name
        Name of the section.
    missing
        File that is missing, and where it was looked for.

    Returns
    -------
    FoundSection
        Section that is listed with the reason and not added.
    """
    return FoundSection(name, {}, 100.0, 55.0, missing=missing)


def chosen_bin(
    edges: Collection[int], wanted: int | None, where: Path, *, pooled: bool = False
) -> int:
    """Edge of the bins of a Visium HD sample to read.

    Parameters
    ----------
    edges
        Edges of the bins that there are, in micrometres.
    wanted
        Edge that was asked for; 16 where None, or the largest that there is.
    where
        Sample, for the message.
    pooled
        Whether smaller bins may be pooled to those asked for: the largest that divide them.

    Returns
    -------
    int
        Edge in micrometres.

    Raises
    ------
    DataError
        There are no such bins.
    """
    edge = wanted or (DEFAULT_BIN if DEFAULT_BIN in edges else max(edges))
    if edge not in edges and pooled:
        edge = max((one for one in edges if edge % one == 0), default=edge)
    if edge not in edges:
        there = ", ".join(f"{one} um" for one in sorted(edges))
        more = " and none to pool" if pooled else ""
        raise DataError(f"{where}: has no bins of {wanted} um{more}; there are bins of {there}")
    return edge


def files_under(folder: Path) -> list[Path]:
    """Files in a folder and the folders below, links followed, in the order of their names.

    Hidden files and folders are passed over (``._S1.h5ad`` of macOS, ``.ipynb_checkpoints``), and
    a folder that a link leads to a second time is entered once. Zarr stores are not entered.

    Parameters
    ----------
    folder
        Folder to look in.

    Returns
    -------
    list of Path
        Files, sorted by path.

    Raises
    ------
    DataError
        More than a million files.
    """
    if is_store(folder):
        return []
    found: list[Path] = []
    for place, _, names in _walk(folder):
        found += [path for name in names if (path := place / name).is_file()]
        if len(found) > _MOST_FILES:
            raise DataError(f"{folder}: more than {_MOST_FILES:,} files; name a folder in it")
    return sorted(found)


def stores_under(folder: Path) -> list[Path]:
    """Zarr stores in a folder and the folders below, or the folder itself, sorted by name.

    A store is a folder whose name ends in ``.zarr``; links and hidden folders are as in
    :func:`files_under`.

    Parameters
    ----------
    folder
        Folder to look in, or a store.

    Returns
    -------
    list of Path
        Folders of the stores.
    """
    if is_store(folder):
        return [folder]
    return sorted(place / name for place, stores, _ in _walk(folder) for name in stores)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder once, links followed, with the stores and the files in it; none is hidden."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        shown = [n for n in folders if not n.startswith(".") and n not in _LEFTOVERS]
        folders[:] = sorted(name for name in shown if not name.endswith(".zarr"))
        stores = [name for name in shown if name.endswith(".zarr")]
        yield Path(place), stores, [name for name in files if not name.startswith(".")]


def images_in(folder: Path, prefix: str = "") -> list[Path]:
    """Image files that lie directly in a folder, largest first.

    Parameters
    ----------
    folder
        Folder to look in.
    prefix
        Prefix of their names.

    Returns
    -------
    list of Path
        Image files by size in bytes, largest first.
    """
    if not folder.is_dir():
        return []
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_ENDINGS
        and path.name.startswith(prefix)
        and not path.name.startswith(".")
        and path.is_file()
    ]
    return sorted(files, key=lambda path: (-path.stat().st_size, path.name))
