"""A request as JSON, so that another machine can make the same plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, DataError
from bench.execute.request import FoldSettings, Request

_TAG = "$"
"""First character of the key of an object that encodes a value without a JSON type."""


def request_to_json(request: Request) -> dict[str, Any]:
    """JSON object of a request; its paths are made absolute.

    Raises
    ------
    ConfigError
        A setting has a value that cannot be written.
    """
    return {of.name: encode(getattr(request, of.name), of.name) for of in fields(Request)}


def request_from_json(content: Mapping[str, Any]) -> Request:
    """Request from the object that :func:`request_to_json` made.

    Raises
    ------
    DataError
        Not such an object, for example written by another version of the package.
    """
    try:
        return Request(**{name: decode(value) for name, value in content.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a request of this version of the package: {error}") from error


def encode(value: Any, where: str) -> Any:
    """Encode a value as JSON; other types become objects with one key such as ``$path``.

    Parameters
    ----------
    value
        Numbers, texts, paths, and sequences and mappings of them.
    where
        Name of the value in an error.

    Raises
    ------
    ConfigError
        A value of another type.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, Path):
        return {"$path": str(value.absolute())}
    if type(value) is list:
        return [encode(item, where) for item in value]
    if type(value) is tuple:
        return {"$tuple": [encode(item, where) for item in value]}
    if isinstance(value, FoldSettings):
        return {"$settings": [encode(value.config, where), value.study]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith(_TAG) for key in value):
            return {key: encode(item, f"{where}.{key}") for key, item in value.items()}
        pairs = [[encode(key, where), encode(item, where)] for key, item in value.items()]
        return {"$mapping": pairs}
    raise ConfigError(
        f"{where}: a value of type {type(value).__name__} cannot be sent to another machine"
    )


def decode(value: Any) -> Any:
    """Inverse of :func:`encode`; a mapping becomes a dict."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith(_TAG):
        return {key: decode(item) for key, item in value.items()}
    if tag not in _READERS:
        raise ValueError(f"'{tag}' is not known")
    return _READERS[tag](value[tag])


_READERS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$path": Path,
    "$tuple": lambda items: tuple(map(decode, items)),
    "$settings": lambda parts: FoldSettings(decode(parts[0]), parts[1]),
    "$mapping": lambda pairs: {decode(key): decode(item) for key, item in pairs},
}
