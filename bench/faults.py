"""Faults that pydantic finds in a file or in settings, as one line for the user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from bench.files import one_line

_OF_A_UNION = re.compile(
    r"(?:str|int|float|bool|none|bytes)$|(?:literal|list|dict|tuple|set)\[|constrained-|function-"
)
"""Last part of the place of a fault that names a type among several."""

_NAMED = {"sections": "section", "parts": "part"}
"""Fields that are lists of things with names, and what one of them is called."""


def first_fault(error: ValidationError, content: object = None) -> str:
    """First fault of a pydantic error as one line: where, then what.

    Sections and parts are named as `content`, the mapping that was checked, names them. A fault of
    the whole has no place.

    Parameters
    ----------
    error
        The error.
    content
        What was checked; without it sections and parts are numbered.
    """
    # A misspelt field explains a missing one.
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    place = [str(part) for part in faults[0]["loc"]]
    if not place:
        return one_line(_reason(faults[0]))
    if len(place) > 1 and _OF_A_UNION.match(place[-1]):
        place.pop()
        what = _alternatives(faults)
    else:
        what = _reason(faults[0])
    return f"{_where(place, content)}: {one_line(what)}"


def _reason(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown field"
    if fault["type"] == "model_type":  # pydantic names a class of this package
        return "Input should be a mapping of fields"
    what = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] in {"literal_error", "enum"}:
        what += f", not '{one_line(fault['input'], 60)}'"
    return what


def _alternatives(faults: Sequence[Mapping[str, Any]]) -> str:
    """What each type that the value may have asks for."""
    same = [fault["msg"] for fault in faults if fault["loc"][:-1] == faults[0]["loc"][:-1]]
    return ", or ".join([same[0], *(msg.removeprefix("Input should be ") for msg in same[1:])])


def _where(place: Sequence[str], content: object) -> str:
    """Place of a fault, with the name of the section or part that it lies in."""
    kind = _NAMED.get(place[0])
    held = content.get(place[0]) if isinstance(content, Mapping) else None
    if kind is None or len(place) < 3 or not isinstance(held, list) or not place[1].isdecimal():
        return ".".join(place)
    number = int(place[1])
    entry = held[number] if number < len(held) else None
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if isinstance(name, str) and place[2] != "name":
        return f"{kind} {one_line(name, 60)}: {'.'.join(place[2:])}"
    return f"{kind} number {number + 1}: {'.'.join(place[2:])}"
