"""Reading YAML of plain values, from files that may be damaged or hostile."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from bench.errors import DataError
from bench.files import one_line, printable

# libyaml's loader is ten times faster than the pure Python one on a card of hundreds of files.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"


class _YAML(_SAFE):
    """Loader of the values that JSON has; a date remains a text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in _SAFE.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: constructor
        for tag, constructor in _SAFE.yaml_constructors.items()
        if tag is None
        or tag.removeprefix(_TAG) in {"null", "bool", "int", "float", "str", "seq", "map"}
    }


_MAX_YAML_DEPTH = 50
_MAX_YAML_REPEATED = 1_000_000
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters other than tab and line ends, and lone surrogates."""


def read_yaml(path: Path) -> Any:
    """Content of a YAML file of plain values.

    Raises
    ------
    DataError
        Missing, not text, or refused by :func:`parse_yaml`.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
    except ValueError as error:
        raise DataError(f"{path}: not a readable YAML file ({one_line(error)})") from error


def parse_yaml(text: str) -> Any:
    """Value of a YAML text of plain values.

    Raises
    ------
    ValueError
        Not YAML; a key that a mapping has twice; a control character or lone surrogate in a value;
        nested too deeply, or aliases that repeat too much.
    """
    try:
        _check_events(text)
        loader = _YAML(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_keys(loader, node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(one_line(error).replace('in "<unicode string>", ', "at ")) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # The constructors of tagged numbers and booleans raise these for a malformed value.
        raise ValueError(f"malformed value: {one_line(error)}") from error


def _check_events(text: str) -> None:
    """Refuse what would take too much memory or stack, before anything is built from it.

    Aliases share one object in memory, but whatever copies, checks or prints the value handles it
    as often as it is named, and aliases of aliases grow exponentially.
    """
    extents: dict[str, tuple[int, int]] = {}  # characters and levels of what has an anchor
    unfinished: list[tuple[str | None, int]] = []
    levels = [0]  # below each open collection, the text's own level first
    total = repeated = 0
    for event in yaml.parse(text, Loader=_YAML):
        if isinstance(event, yaml.CollectionStartEvent):
            unfinished.append((event.anchor, total))
            levels.append(0)
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = unfinished.pop()
            below = levels.pop() + 1
            levels[-1] = max(levels[-1], below)
            if anchor is not None:
                extents[anchor] = (total - before, below)
        elif isinstance(event, yaml.ScalarEvent):
            if control := _CONTROL.search(event.value):
                character = printable(control[0])
                raise ValueError(f"{_line(event)}: control character {character} in a value")
            total += 1 + len(event.value)
            if event.anchor is not None:
                extents[event.anchor] = (1 + len(event.value), 0)
        elif isinstance(event, yaml.AliasEvent):
            alias = str(event.anchor)
            if any(anchor == alias for anchor, _ in unfinished):
                raise ValueError(f"{_line(event)}: alias '{alias}' contains itself")
            size, below = extents.get(alias, (0, 0))
            total, repeated = total + size, repeated + size
            levels[-1] = max(levels[-1], below)
            if repeated > _MAX_YAML_REPEATED:
                said = f"aliases repeat more than {_MAX_YAML_REPEATED:,} characters"
                raise ValueError(f"{_line(event)}: {said}")
        # libyaml's composer recurses in C: nested too deeply, it would crash the interpreter.
        if len(unfinished) + levels[-1] > _MAX_YAML_DEPTH:
            raise ValueError(f"{_line(event)}: nested more than {_MAX_YAML_DEPTH} levels deep")


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"


def _check_keys(loader: Any, node: yaml.Node) -> None:
    """Refuse a mapping with a repeated key; PyYAML's loaders silently keep the last value."""
    waiting, seen = [node], set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen or isinstance(current, yaml.ScalarNode):
            continue
        seen.add(id(current))
        if isinstance(current, yaml.SequenceNode):
            waiting += current.value
            continue
        lines: dict[Any, int] = {}
        for key, value in current.value:
            waiting += (key, value)
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused by the constructor: it cannot be a key of a dict
            merge = key.tag == f"{_TAG}merge"
            name = ("<<",) if merge else loader.construct_object(key)
            line = key.start_mark.line + 1
            if name in lines:
                where = f"in lines {lines[name]} and {line}"
                raise ValueError(f"key '{key.value}' appears twice, {where}")
            lines[name] = line
