"""Records of a run without what belongs to one machine: absolute paths and the host's name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePath, PureWindowsPath
from typing import Any

from bench.files import canonical_hash
from bench.records import HASH

_WHOLE = re.compile(r"(?P<before>[a-z_]+:)?(?P<path>(?:/(?!/)|~|[A-Za-z]:[\\/]|\\\\).*)", re.DOTALL)
"""A text that is an absolute path as a whole, with or without a word before a colon."""

_INSIDE = re.compile(r"(?<![\w/:.])(?:~|[A-Za-z]:(?=\\))?(?:[\\/][^\s\\/'\"`,;:()<>|]+){2,}[\\/]?")
"""Absolute paths inside a text; an address such as ``https://host/page`` is none."""

_PRIVATE = ("host",)
"""Fields of ``machine`` in ``fold.json`` that name the machine."""


def portable_run(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Contents of ``run.json`` with each absolute path shortened to its last part."""
    return dict(_without_paths(facts))


def portable_fold(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Contents of ``fold.json`` without host name, and with paths shortened."""
    machine = facts.get("machine")
    if isinstance(machine, Mapping):
        kept = {name: value for name, value in machine.items() if name not in _PRIVATE}
        facts = {**facts, "machine": kept}
    return dict(_without_paths(facts))


def json_bytes(value: Any) -> bytes:
    """A JSON value as :func:`bench.files.write_json` writes it."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def record_bytes(content: Mapping[str, Any]) -> bytes:
    """A record as :func:`bench.records.write_record` writes it."""
    return json_bytes({**content, HASH: canonical_hash(content)})


def has_path(value: Any) -> bool:
    """Whether a JSON value holds an absolute path."""
    return bool(_without_paths(value) != value)


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_shortened(str(name)): _without_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return _shortened(value) if isinstance(value, str) else value


def _shortened(text: str) -> str:
    whole = _WHOLE.fullmatch(text)
    if whole and "\n" not in text and len(_last(whole["path"])) < len(whole["path"]):
        return f"{whole['before'] or ''}{_last(whole['path'])}"
    return _INSIDE.sub(lambda match: _last(match[0]), text)


def _last(path: str) -> str:
    kind = PureWindowsPath if "\\" in path else PurePath
    return kind(path).name
