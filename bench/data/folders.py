"""Folders of datasets on this machine, and the folder of cards that the user has added."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

from bench.cache import locked_folder
from bench.data.card import DatasetCard
from bench.data.home import data_home
from bench.data.layouts import generator_source
from bench.errors import DataError
from bench.files import one_line, write_json
from bench.sources import code_hash


def cards_folder() -> Path:
    """Folder of the cards that ``bench data add`` writes."""
    return data_home() / "cards"


def data_folder(card: DatasetCard, data_root: Path | None) -> Path:
    """Folder of a dataset's files; a generated dataset is generated into the cache first.

    Without `data_root` it is ``$SPOTBENCH_DATA/<name>``, or the platform's data folder.

    Raises
    ------
    DataError
        The folder is missing; the message says what belongs there.
    """
    if data_root is None and card.generator is not None:
        return _generated(card)
    root = chosen_folder(card, data_root)
    if not root.is_dir():
        raise DataError(
            f"data folder {root} of {card.name} is missing; {_how_to_get(card)} or name their"
            " folder with --data-root"
        )
    return root


def is_here(card: DatasetCard, data_root: Path | None) -> bool:
    """Whether a dataset has a data folder on this machine."""
    if data_root is None and card.generator is not None:
        return True
    root = chosen_folder(card, data_root)
    return root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir())


def has_addresses(card: DatasetCard) -> bool:
    """Whether any file of a card can be fetched."""
    files = [file for section in card.sections for file in section.files.values()]
    if card.hub is not None:
        return True
    return bool(card.listing or any(card.url(file) for file in (*files, *card.archives.values())))


def chosen_folder(card: DatasetCard, data_root: Path | None) -> Path:
    """Folder that a dataset's files belong in, whether it is there or not."""
    if data_root is not None:
        return data_root
    if card.folder is not None:
        return Path(card.folder)
    return data_home() / card.name


def member_folder(card: DatasetCard, data_root: Path | None) -> Path | None:
    """Folder of one dataset of a collection in a folder that the user names for all of them."""
    if data_root is None:
        return None
    return data_root / (card.hub.folder if card.hub is not None else card.name)


def download_folder(card: DatasetCard, data_root: Path | None) -> Path:
    """Folder into which files of a dataset may be fetched: never one that a card names.

    Raises
    ------
    DataError
        The card names a folder and `data_root` does not.
    """
    if data_root is None and card.folder is not None:
        raise DataError(
            f"card {card.name}: nothing is fetched into a folder that a card names (folder:"
            f" {card.folder[:80]}); name a folder for the files with --data-root"
        )
    return chosen_folder(card, data_root)


def _how_to_get(card: DatasetCard) -> str:
    files = [file for section in card.sections for file in section.files.values()]
    files += card.archives.values()
    by_hand = [file for file in files if file.by_hand and not file.url]
    where = ""
    if by_hand:
        where = f", get {by_hand[0].path} by hand ({one_line(by_hand[0].by_hand)})"
        where += f" and {len(by_hand) - 1} more," if len(by_hand) > 1 else ","
    if has_addresses(card):
        return f"fetch the files with 'bench data get {card.name}'{where}"
    if by_hand:
        return f"'bench data get {card.name}' says which files to put there{where}"
    if card.generator:
        return (
            f"without --data-root {card.name} is generated on this machine; with it, put its files"
            f" there (such as {files[0].path})"
        )
    return f"put the files of {card.source} there (such as {files[0].path})"


def _generated(card: DatasetCard) -> Path:
    generator_source(str(card.generator))
    version = code_hash([f"bench.datasets.{card.generator}"])[:16]
    with locked_folder("generated", f"{card.name}-{version}") as folder:
        done = folder / "generated.json"
        if not _complete(card, folder, done):
            module = importlib.import_module(f"bench.datasets.{card.generator}")
            cast("Callable[[Path], None]", module.generate)(folder)
            files = [file for section in card.sections for file in section.files.values()]
            write_json(done, {file.path: file.verify(folder / file.path) for file in files})
    return folder


def _complete(card: DatasetCard, folder: Path, done: Path) -> bool:
    try:
        expected = json.loads(done.read_text(encoding="utf-8"))
        actual = {
            file.path: file.verify(folder / file.path)
            for section in card.sections
            for file in section.files.values()
        }
    except (OSError, ValueError, DataError):
        return False
    return bool(expected == actual)
