"""Records: JSON objects in a results folder, with a hash over their content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.files import canonical_hash, write_json

HASH = "sha256"
"""Field of a record that holds the hash of all others."""


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object kept beside a run; empty where there is none that is sound."""
    return read_hashed(path)[0] or {}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Keep a JSON object beside a run, with a hash over its content."""
    content = {name: value for name, value in record.items() if name != HASH}
    write_json(path, {**content, HASH: _hash_of(content)})


def _hash_of(record: Mapping[str, Any]) -> str:
    return canonical_hash({name: value for name, value in record.items() if name != HASH})


def read_hashed(path: Path) -> tuple[dict[str, Any] | None, bool]:
    """A record without its hash, and whether it had one.

    None where its content is not what was written. Records of the first layout have no hash.
    """
    record = read_json(path)
    if record is None:
        return None, False
    if HASH not in record:
        return record, False
    expected = record.pop(HASH)
    return (record, True) if expected == _hash_of(record) else (None, True)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where the file is missing or holds none.

    What JSON does not have, such as NaN, is none, nor is what is nested beyond all measure.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(name: str) -> None:
    raise ValueError(name)
