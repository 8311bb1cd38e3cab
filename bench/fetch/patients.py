"""Table that names the patient of each section, as spreadsheets write it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.data.card import join_names
from bench.data.reading.parsing import read_bytes
from bench.errors import DataError


def read_patients(
    path: Path,
    sections: Sequence[str],
    others: Sequence[str] = (),
    missing: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Patient of each section, from a table with columns ``section`` and ``patient``.

    Parameters
    ----------
    path
        Table.
    sections
        Sections that are taken.
    others
        Sections that were found and are not taken; the table may name them.
    missing
        Sections that cannot be read, with the reason.

    Raises
    ------
    DataError
        Not such a table; a section is missing, named twice, or unknown.
    """
    rows = _rows(path)
    named = [section for section, _ in rows]
    patients = dict(rows)
    if len(patients) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise DataError(f"{path}: section '{twice[:40]}' occurs more than once")
    unnamed = [name for name in sections if not patients.get(name)]
    if unnamed:
        raise DataError(f"{path}: names no patient of section {join_names(unnamed)}")
    unknown = [name for name in named if name not in sections and name not in others]
    unread = [name for name in unknown if name in (missing or {})]
    if unread:
        reasons = "; ".join((missing or {})[name] for name in unread[:3])
        raise DataError(
            f"{path}: names section {join_names(unread)}, which is there but cannot be read:"
            f" {reasons}; correct it, or remove its line from the table"
        )
    if unknown:
        raise DataError(
            f"{path}: names section {join_names(unknown)}, which was not found; found are"
            f" {join_names(sections)}"
        )
    return {name: patients[name] for name in sections}


def _rows(path: Path) -> list[tuple[str, str]]:
    """Section and patient of each row: fields separated by commas, semicolons or tabs."""
    try:
        text = read_bytes(path, _MAX_TABLE).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save the table as CSV in UTF-8") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        table = list(csv.reader(text.splitlines(), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: not a table of sections and patients ({error})") from None
    header = [field.strip().lower() for field in table[0]] if table else []
    for column in ("section", "patient"):
        if header.count(column) != 1:
            raise DataError(
                f"{path}: needs columns 'section' and 'patient' in its first line, separated by"
                f" commas; it has {join_names(f'{name[:40]!r}' for name in header) or 'no line'}"
            )
    section, patient = header.index("section"), header.index("patient")
    rows = []
    for number, row in enumerate(table[1:], 2):
        fields = [field.strip() for field in row]
        if not any(fields):
            continue
        if len(fields) > len(header) and any(fields[len(header) :]):
            raise DataError(f"{path}: line {number} has more fields than the first line")
        if len(fields) <= max(section, patient):
            raise DataError(f"{path}: line {number} has fewer fields than the first line")
        rows.append((fields[section], fields[patient]))
    return rows


_MAX_TABLE = 16 << 20
