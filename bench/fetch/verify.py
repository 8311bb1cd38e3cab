"""Files of a dataset, and their comparison with the hashes of its card."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.data.card import DatasetCard, FileCard, SectionCard
from bench.data.dataset import OPTIONAL
from bench.data.stored_files import is_stored
from bench.errors import DataError


@dataclass(frozen=True)
class Wanted:
    """A file of one or more sections, and whether any of them needs it."""

    file: FileCard
    needed: bool


def chosen_sections(card: DatasetCard, names: Sequence[str] = ()) -> tuple[SectionCard, ...]:
    """Sections by name, all where none is named; UnknownNameError where the card has no such."""
    return tuple(card.section(name) for name in names) if names else card.sections


def wanted_files(card: DatasetCard, sections: Sequence[str] = ()) -> dict[str, Wanted]:
    """Files of the chosen sections by path, in the order of the card."""
    wanted: dict[str, Wanted] = {}
    for section in chosen_sections(card, sections):
        for role, file in section.files.items():
            before = wanted.get(file.path)
            needed = role not in OPTIONAL or (before is not None and before.needed)
            wanted[file.path] = Wanted(file, needed)
    return wanted


def published_panel_file(card: DatasetCard) -> FileCard | None:
    """File of the gene list of the published protocol, where the card names one."""
    return card.panels[card.published_panel].file if card.published_panel else None


def verified_files(
    card: DatasetCard, root: Path, sections: Sequence[str] = ()
) -> dict[str, FileCard]:
    """Files that a check of a data folder covers, by path.

    Files of the chosen sections, the index, and the gene list if it exists: otherwise the list is
    read from text or fetched when it is used.
    """
    files = {path: wanted.file for path, wanted in wanted_files(card, sections).items()}
    panel = published_panel_file(card)
    if card.index is not None:
        files.setdefault(card.index.path, card.index)
    if panel is not None and (root / panel.path).is_file():
        files.setdefault(panel.path, panel)
    return files


@dataclass
class Survey:
    """Result of a comparison of files with their cards.

    Attributes
    ----------
    good
        Actual hash by path, for files that match their card.
    unchecked
        Paths in `good` whose card and lock file state no hash.
    missing
        Paths of files that are not there.
    wrong
        Difference by path, for files that do not match.
    """

    good: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)


def survey(files: Iterable[FileCard] | Mapping[str, FileCard], root: Path) -> Survey:
    """Hash files of a data folder, several at a time, and compare them with their cards."""
    result = Survey()
    cards = list(files.values()) if isinstance(files, Mapping) else list(files)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(lambda file: _look(file, root), cards)
        for file, (kind, what) in zip(cards, looks, strict=True):
            if kind == "missing":
                result.missing.append(file.path)
            elif kind == "wrong":
                result.wrong[file.path] = what
            else:
                result.good[file.path] = what
                if file.hash is None:
                    result.unchecked.append(file.path)
    return result


def _look(file: FileCard, root: Path) -> tuple[str, str]:
    path = root / file.path
    try:
        if not is_stored(path):
            return "missing", ""
        actual, fault = file.compare(path)
    except OSError as error:
        return "wrong", f"cannot be read ({error.strerror})"
    except DataError as error:
        return "wrong", str(error).removeprefix(f"{path}: ")
    return ("wrong", fault) if fault else ("good", actual)
