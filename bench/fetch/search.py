"""Search for sections in a folder that has no card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.data.card import join_names
from bench.data.discovery import FoundSection, files_under
from bench.data.layouts import BUILT_IN, discover, find_layouts
from bench.errors import DataError


def find_sections(
    folder: Path, options: Mapping[str, str | int | None]
) -> tuple[str, list[FoundSection], list[str]]:
    """Sections in a folder, their layout, and the reasons why others cannot be read.

    Parameters
    ----------
    folder
        Folder to look through.
    options
        Choices of the user for their ``discover``, such as ``bin_micrometres``.

    Raises
    ------
    DataError
        No such folder, no section, or sections of two layouts.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    by_layout: dict[str, list[FoundSection]] = {}
    missing: list[str] = []
    column = options.get("gene_column")
    for name, layout in find_layouts().items():
        if column and name == "h5ad":
            continue  # layout h5ad_symbols reads the same files
        try:
            sections = discover(name, folder, options)
        except DataError as error:
            if layout.source == BUILT_IN:
                raise
            missing.append(str(error))
            continue
        missing += [f"{one.name}: {one.missing}" for one in sections if one.missing]
        if readable := [one for one in sections if not one.missing]:
            by_layout[name] = readable
    if not by_layout:
        missing = _other_forms(folder) + missing
        raise DataError(f"{folder}: no section found; {_what_is_needed(missing)}")
    if len(by_layout) > 1:
        raise DataError(
            f"{folder}: holds sections of {join_names(by_layout)}; put each layout into a folder"
            " of its own"
        )
    chosen, sections = next(iter(by_layout.items()))
    if column and chosen != "h5ad_symbols":
        raise DataError(f"{folder}: --gene-column is of .h5ad files, but layout {chosen} is here")
    names = [section.name for section in sections]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise DataError(
                f"{folder}: section '{name[:60]}' cannot be called so; rename its folder, its file"
                " or its value in obs: a name is made of letters, digits, '_', '.' and '-'"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{folder}: two sections would both be called {twice[0]}; rename a folder")
    return chosen, sections, missing


_FORMS = (
    (re.compile(r"alignment_table.*"), "a file of Loupe; tissue_positions.csv is needed"),
    (re.compile(r".*\.(h5ad|h5)\.gz"), "compressed; unpack it with gunzip"),
    (re.compile(r".*\.(zip|tar|tgz|tar\.gz|tar\.bz2|7z)"), "an archive; unpack it there"),
    (
        re.compile(r".*\.(rds|rdata|h5seurat|loom|h5mu|cloupe)", re.IGNORECASE),
        "of a form that is not read; write it as .h5ad with anndata",
    ),
)
"""Files of which sections cannot be read as they are, by name, and the way out."""


def _other_forms(folder: Path) -> list[str]:
    """Known files of other forms, and how to convert them."""
    names: dict[str, list[Path]] = {}
    for path in files_under(folder):
        for pattern, advice in _FORMS:
            if pattern.fullmatch(path.name):
                names.setdefault(advice, []).append(path)
    return [
        f"{paths[0]}{f' (and {len(paths) - 1} more)' if len(paths) > 1 else ''} is {advice}"
        for advice, paths in names.items()
    ]


def _what_is_needed(missing: Sequence[str]) -> str:
    if missing:
        more = f" (and {len(missing) - 3} more)" if len(missing) > 3 else ""
        return "; ".join(missing[:3]) + more
    return (
        "a Space Ranger folder, .h5ad files, SpatialData stores (.zarr), a HEST folder, or counts"
        " and spot files of the legacy layout are needed (see docs/your-own-data.md)"
    )
