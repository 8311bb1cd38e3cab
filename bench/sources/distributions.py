"""Installed distributions: which one provides a module, and which files it has."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
)
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from bench.sources.closure import Place


def is_shipped(path: PurePath) -> bool:
    """Whether a file or folder is part of a package's content."""
    return not (
        path.name.startswith(".")
        or path.name == "__pycache__"
        or path.suffix in {".pyc", ".dist-info", ".egg-info"}
    )


def listed_files(owner: Distribution) -> dict[str, Path]:
    """Files that a distribution says it has installed, by their relative names."""
    return {
        file.as_posix(): path
        for file in owner.files or ()
        if all(is_shipped(part) for part in (*file.parents, file) if part.name)
        # What lies above are scripts, which name the interpreter of this machine.
        and ".." not in file.parts
        and (path := Path(str(owner.locate_file(file)))).is_file()
    }


def owners_of(top: str, place: Place) -> list[Distribution]:
    """Installed distributions that provide a top-level module, with the file it has here."""
    owners: list[Distribution] = []
    if place.file is None and not place.folders:
        return owners
    where = (place.file or Path(place.folders[0])).resolve()
    for name in _providers().get(top, ()):
        try:
            owner = distribution(name)
        except PackageNotFoundError:
            continue
        roots = [Path(str(owner.locate_file(""))), editable_folder(owner)]
        if any(root is not None and where.is_relative_to(root.resolve()) for root in roots):
            owners.append(owner)
    return owners


def editable_folder(owner: Distribution) -> Path | None:
    """Folder of the project that an editable installation runs from (PEP 610)."""
    try:
        facts = json.loads(owner.read_text("direct_url.json") or "{}")
        if facts["dir_info"]["editable"]:
            return Path(unquote(urlsplit(facts["url"]).path))
    except (KeyError, TypeError, ValueError):
        pass
    return None


def _providers() -> Mapping[str, list[str]]:
    """Names of the distributions that provide each top-level module."""
    state = []
    for entry in sys.path:
        try:
            state.append((entry, os.stat(entry or ".").st_mtime_ns))
        except OSError:
            continue
    return _providers_on(tuple(state))


@lru_cache(maxsize=8)
def _providers_on(state: tuple[tuple[str, int], ...]) -> Mapping[str, list[str]]:
    return {top: sorted(set(names)) for top, names in packages_distributions().items()}


def normal_name(name: str) -> str:
    """Name of a distribution in the spelling of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()
