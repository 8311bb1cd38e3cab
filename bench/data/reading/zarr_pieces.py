"""Check that the pieces of a Zarr array unpack to no more than its metadata declare.

Zarr unpacks a piece as a whole before it compares its size, so that a file of a megabyte could
take all memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.reading.unpacking import PACKINGS, unpacks_beyond
from bench.errors import DataError

_FLOOR = 64 << 20
"""Bytes that a piece may unpack to whatever it declares: little, for all that read at once."""

_TEXT = 8  # times as long as the pointer that stands for a text of variable length
_MISSING = (1 << 64) - 1
_INDEX = ("bytes", "crc32c")


def check_pieces(store: Path, name: str, item_size: int, pieces: Sequence[Path]) -> None:
    """Refuse an array of which a piece unpacks to more than it declares, or than 64 MiB.

    Parameters
    ----------
    store
        Folder of the store, whose metadata have been checked.
    name
        Of the array.
    item_size
        Bytes of one of its items.
    pieces
        Files of its pieces.

    Raises
    ------
    DataError
        Such a piece, one that is packed twice or by an unknown form of shards, or cannot be read.
    """
    where = f"{store}: {name[:80]}"
    shape, codecs = _form(store / name, where)
    if not any(kind in PACKINGS or kind == "sharding_indexed" for kind, _ in codecs):
        return
    largest = max(_FLOOR, math.prod(shape) * item_size * _TEXT)
    for piece in pieces:
        try:
            if piece.stat().st_size > largest:
                raise DataError(f"{where}: a piece is larger than it declares")
            content = piece.read_bytes()
        except OSError as error:
            raise DataError(f"{where}: a piece cannot be read ({error.strerror})") from error
        for packed, packing, edges in _packed(content, shape, codecs, where):
            limit = max(_FLOOR, math.prod(edges) * item_size * _TEXT)
            if unpacks_beyond(packed, packing, limit):
                raise DataError(f"{where}: a piece unpacks to more than it declares")


_Codecs = list[tuple[str, Mapping[str, Any]]]


def _form(array: Path, where: str) -> tuple[list[int], _Codecs]:
    """Shape of the pieces of an array, and its codecs by name."""
    try:
        if (array / "zarr.json").is_file():
            document = json.loads((array / "zarr.json").read_bytes())
            shape = document["chunk_grid"]["configuration"]["chunk_shape"]
            return shape, _named(document["codecs"])
        document = json.loads((array / ".zarray").read_bytes())
        packing = document.get("compressor")
        return document["chunks"], [(packing["id"], packing)] if packing else []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{where}: damaged, not the metadata of an array") from error


def _named(codecs: list[Any]) -> _Codecs:
    whole: list[dict[str, Any]] = [{"name": one} if isinstance(one, str) else one for one in codecs]
    return [
        (one["name"].removeprefix("numcodecs."), one.get("configuration") or {}) for one in whole
    ]


def _packed(
    content: bytes, shape: list[int], codecs: _Codecs, where: str
) -> Iterator[tuple[bytes, str, list[int]]]:
    """Compressed parts of a piece, the form of each, and its shape."""
    shard = next((held for name, held in codecs if name == "sharding_indexed"), None)
    if shard is not None:
        if len(codecs) > 1:
            raise DataError(f"{where}: shards that are packed themselves are not read")
        inner = _named(shard["codecs"])
        if any(name == "sharding_indexed" for name, _ in inner):
            raise DataError(f"{where}: shards in shards are not read")
        for part in _parts(content, shape, shard, where):
            yield from _packed(part, shard["chunk_shape"], inner, where)
        return
    packings = [name for name, _ in codecs if name in PACKINGS]
    if len(packings) > 1:
        raise DataError(f"{where}: pieces that are packed twice are not read")
    if packings:
        yield content, packings[0], shape


def _parts(
    content: bytes, shape: list[int], shard: Mapping[str, Any], where: str
) -> Iterator[bytes]:
    """Pieces in a shard, by the index at its end or start."""
    fault = DataError(f"{where}: the index of a shard is damaged or of an unknown form")
    names = [name for name, _ in _named(shard["index_codecs"])]
    edges = shard.get("chunk_shape")
    if (
        names not in (list(_INDEX), list(_INDEX[:1]))
        or not isinstance(edges, list)
        or len(edges) != len(shape)
        or not all(type(edge) is int and edge > 0 for edge in edges)
    ):
        raise fault
    number = math.prod(-(-side // edge) for side, edge in zip(shape, edges, strict=True))
    size, check = 16 * number, 4 * (len(names) - 1)
    if len(content) < size + check:
        raise fault
    at_start = shard.get("index_location") == "start"
    index = content[:size] if at_start else content[len(content) - size - check :][:size]
    for start, length in np.frombuffer(index, "<u8").reshape(-1, 2).tolist():
        if start != _MISSING:
            yield content[start : start + length]
