"""Removal of datasets that the user has added: the card and what is cached, never the files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.cache import cache_folder
from bench.data.card import read_card
from bench.data.folders import cards_folder
from bench.errors import DataError

_CACHES = ("sections", "overviews")
"""Caches whose entries bear the name of the dataset; others are by content and may be shared."""

_KEY = r"-[0-9a-f]{32}\.[A-Za-z0-9.]+"


@dataclass(frozen=True)
class AddedDataset:
    """A dataset that was added, and the files of it that are the program's own.

    Attributes
    ----------
    card
        Path of the card.
    folder
        Folder of the user's files, which stay; empty where the card cannot be read.
    cached
        Files in the cache.
    """

    card: Path
    folder: str
    cached: tuple[Path, ...]


def added_dataset(name: str) -> AddedDataset:
    """A dataset that the user has added, by name; a card that cannot be read counts as well.

    Parameters
    ----------
    name
        Name of a card in the folder of added cards.

    Returns
    -------
    AddedDataset
        Its card and its cached files.

    Raises
    ------
    DataError
        There is no such card.
    """
    path = cards_folder() / f"{name}.yaml"
    if Path(name).name != name or not path.is_file():
        raise DataError(f"{path}: no such card")
    labels, folder = [re.escape(name)], ""
    try:
        card = read_card(path)
    except DataError:
        card = None  # what is cached of a card that cannot be read is found by name alone
    if card is not None:
        labels += [re.escape(f"{name}-{section.name}") for section in card.sections]
        folder = card.folder or ""
    entry = re.compile(f"({'|'.join(labels)}){_KEY}")
    cached = [
        file
        for cache in _CACHES
        if (cache_folder() / cache).is_dir()
        for file in sorted((cache_folder() / cache).iterdir())
        if entry.fullmatch(file.name) and file.is_file()
    ]
    return AddedDataset(path, folder, tuple(cached))


def remove_dataset(dataset: AddedDataset) -> None:
    """Remove card and cached files; the user's files and stored results stay.

    Parameters
    ----------
    dataset
        See :func:`added_dataset`.

    Raises
    ------
    DataError
        A file cannot be removed.
    """
    # The card last: while it is there the command can be repeated.
    for path in (*dataset.cached, dataset.card):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{path}: cannot be removed ({error.strerror})") from error
