"""Names of methods that are not installed: texts alone, nothing is read or imported.

A reference is a text that identifies a method in place of a name: the path of a file
(``/home/me/my_method.py``), a path and a class (``/home/me/my_method.py:MyMethod``), or, for a
class passed to :func:`bench.run`, ``class:MyMethod@`` and a hash.

``mean:METHOD+METHOD`` is an ensemble: the mean of the stored predictions of several rows.

``METHOD[ENCODER]`` is a method with one image encoder, ``METHOD[random-ENCODER]`` its control: the
same encoder with random weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

SHUFFLED = "shuffled"
"""Before a colon: the permuted-image control of a method."""

HANDED = "class:"
"""Prefix of the reference of a class passed to :func:`bench.run`."""

RANDOM = "random-"
"""Before the name of an encoder: with random weights."""

_TWIN = f"{SHUFFLED}:"
_ENSEMBLE = "mean:"
_MEMBERS = re.compile(r"\+(?![^\[]*\])")  # a plus sign that is not in the name of an encoder


def split_ensemble(reference: str) -> tuple[str, ...]:
    """Members of ``mean:METHOD+METHOD``; empty where the reference is no ensemble."""
    if not reference.startswith(_ENSEMBLE):
        return ()
    members = tuple(_MEMBERS.split(reference.removeprefix(_ENSEMBLE)))
    return members if len(members) > 1 else ()


def ensemble_of(members: Sequence[str]) -> str:
    """Reference of the ensemble of some rows."""
    return f"{_ENSEMBLE}{'+'.join(members)}"


def split_encoder(reference: str) -> tuple[str, str]:
    """Method and encoder of ``METHOD[ENCODER]``; the encoder is empty where none is named."""
    method, bracket, encoder = reference.partition("[")
    if bracket and encoder.endswith("]") and method:
        return method, encoder.removesuffix("]")
    return reference, ""


def is_file(reference: str) -> bool:
    """Whether a reference names a Python file, with or without a class."""
    return split(reference) is not None


def is_handed(reference: str) -> bool:
    """Whether a reference names a class passed to :func:`bench.run`."""
    return reference.startswith(HANDED)


def is_own(reference: str) -> bool:
    """Whether a reference names a method that is not installed."""
    return is_file(reference) or is_handed(reference)


def absolute(reference: str) -> str:
    """The reference with an absolute path; one that names no file is returned as it is."""
    members = split_ensemble(reference)
    if members:
        return ensemble_of([absolute(member) for member in members])
    if reference.startswith(_TWIN):
        return f"{_TWIN}{absolute(reference.removeprefix(_TWIN))}"
    method, encoder = split_encoder(reference)
    if encoder:
        return f"{absolute(method)}[{encoder}]"
    parts = split(reference)
    if parts is None:
        return reference
    path, name = parts
    return f"{os.path.abspath(os.path.expanduser(path))}{':' if name else ''}{name}"


def split(reference: str) -> tuple[str, str] | None:
    """Path and class of a reference to a file, the class empty where none is named."""
    if reference.startswith(_TWIN) or split_ensemble(reference):
        return None
    if reference.endswith(".py"):
        return reference, ""
    path, colon, name = reference.rpartition(":")
    return (path, name) if colon and path.endswith(".py") else None
