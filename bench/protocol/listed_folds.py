"""Folds that a dataset ships, as HEST-Benchmark writes them: two tables of sections a fold."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from bench.data.card import join_names
from bench.data.reading.parsing import read_bytes
from bench.errors import DataError
from bench.protocol.folds import Fold

_FILE = re.compile(r"(train|test)_(\d{1,4})\.csv")
_COLUMN = "sample_id"
_MAX_TABLE = 4 << 20


def read_listed_folds(
    folder: Path, usable: Collection[str], left_out: Mapping[str, str] | None = None
) -> tuple[Fold, ...]:
    """Folds of the files ``train_<i>.csv`` and ``test_<i>.csv`` in a folder.

    Parameters
    ----------
    folder
        Folder of the files, each with a column ``sample_id``; further columns are not read.
    usable
        Names of the sections that can be used.
    left_out
        Reasons why other sections cannot.

    Returns
    -------
    tuple of Fold
        In the order of their numbers, without validation sections.

    Raises
    ------
    DataError
        No such folder, a file without its counterpart, not such a table, or a section that cannot
        be used.
    """
    files: dict[int, dict[str, Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            match = _FILE.fullmatch(path.name)
            if match and path.is_file():
                files.setdefault(int(match[2]), {})[match[1]] = path
    if not files:
        raise DataError(f"{folder}: holds no train_0.csv and test_0.csv, which list the folds")
    sides: list[dict[str, tuple[str, ...]]] = []
    for index in range(max(files) + 1):
        pair = files.get(index, {})
        for side in ("train", "test"):
            if side not in pair:
                raise DataError(f"{folder / f'{side}_{index}.csv'}: file is missing")
        sides.append({side: _sections(path) for side, path in pair.items()})
    for index, fold in enumerate(sides):
        for side, names in fold.items():
            unknown = [name for name in names if name not in usable]
            if unknown:
                reason = (left_out or {}).get(unknown[0], "the dataset has no such section")
                raise DataError(
                    f"{files[index][side]}: section {join_names(unknown)} cannot be used: {reason}"
                )
    return tuple(
        Fold(index=index, train=fold["train"], validation=(), test=fold["test"])
        for index, fold in enumerate(sides)
    )


def _sections(path: Path) -> tuple[str, ...]:
    """Names in column ``sample_id`` of a table, in its order."""
    try:
        text = read_bytes(path, _MAX_TABLE).decode("utf-8-sig")
        rows = list(csv.reader(text.splitlines(), strict=True))
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a table of sections ({error})") from None
    if not rows or _COLUMN not in rows[0]:
        raise DataError(f"{path}: needs a column '{_COLUMN}' in its first line")
    column = rows[0].index(_COLUMN)
    names = []
    for number, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) <= column or not row[column].strip():
            raise DataError(f"{path}: line {number} names no section")
        names.append(row[column].strip())
    if not names:
        raise DataError(f"{path}: lists no section")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: section '{twice[0][:40]}' occurs more than once")
    return tuple(names)
