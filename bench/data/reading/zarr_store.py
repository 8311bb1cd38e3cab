"""Check of the metadata of Zarr stores that may be damaged or hostile, before data is read.

A Zarr store is a folder of JSON files, one a group or array, and of pieces of data. Links may lead
out of it, metadata may name a codec that unpickles what it reads, and an array may declare any
size. Such a store is refused. Formats: https://zarr-specs.readthedocs.io, versions 2 and 3.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data.reading.parsing import MAX_BYTES
from bench.data.reading.unpacking import PACKINGS
from bench.data.reading.zarr_pieces import check_pieces
from bench.data.stored_files import ZARR_METADATA, stored_files
from bench.errors import DataError

_FILES = {*ZARR_METADATA, ".zattrs", ".zmetadata"}
_MAX_JSON = 64 << 20
_MAX_NODES = 100_000
_MAX_DIMENSIONS = 32
_MOST_BYTES = 4 * MAX_BYTES
_LAZY = ("images", "labels", "points")
"""Groups whose arrays are not read as a whole."""

_CODECS = {
    *("bytes", "transpose", "crc32c", "sharding_indexed", "vlen-utf8"),
    *PACKINGS,
    *(f"numcodecs.{name}" for name in PACKINGS),
}
_FILTERS = {"vlen-utf8", "shuffle", "delta"}
_SPARSE = ("csr_matrix", "csc_matrix")
_Sizes = tuple[tuple[int, ...], int, int, int]

_ITEM_SIZES = {
    "bool": 1,
    "string": 8,
    **{f"{sign}int{8 * size}": size for sign in ("", "u") for size in (1, 2, 4, 8)},
    **{f"float{8 * size}": size for size in (2, 4, 8)},
    **dict.fromkeys(("numpy.datetime64", "numpy.timedelta64"), 8),
}
_OLD_TYPE = re.compile(r"[<>|](?P<kind>[biufUSmM])(?P<size>\d{1,9})(\[\d*\w+\])?")
_OF_LENGTH = ("fixed_length_utf32", "null_terminated_bytes")


@dataclass(frozen=True)
class ZarrNode:
    """A group or an array of a store.

    Attributes
    ----------
    attributes
        What the user's program stores with it.
    shape
        Of an array; None for a group.
    size
        Bytes of an array that is read as a whole, as it declares; 0 for others.
    pieces
        Number of pieces of an array, as it declares.
    item_size
        Bytes of one of its items.
    """

    attributes: Mapping[str, Any]
    shape: tuple[int, ...] | None = None
    size: int = 0
    pieces: int = 0
    item_size: int = 0


def check_store(path: Path) -> dict[str, ZarrNode]:
    """Groups and arrays of a store by name, ``""`` for the root, after a check of all metadata.

    Parameters
    ----------
    path
        Folder of the store.

    Returns
    -------
    dict of str to ZarrNode
        Groups and arrays by their path in the store.

    Raises
    ------
    DataError
        Missing or no Zarr store; a link leads out of it; metadata that is no JSON or not of the
        format; a codec or a type of data that can run code, or an unknown one; an array or a piece
        of one that is larger than 2 GiB (of images, labels and points, a piece), or more than
        8 GiB of tables in all; metadata of the store as a whole that contradicts that of a part;
        a sparse matrix that lacks pieces; a piece that unpacks to more than it declares, except of
        images, see :func:`check_image_pieces`.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no folder, a Zarr store is one")
    documents: dict[str, dict[str, Any]] = {}
    files = stored_files(path)
    for name, file in files.items():
        if name.rpartition("/")[2] in _FILES:
            documents[name] = _document(path, name, file)
            if len(documents) > _MAX_NODES:
                raise DataError(f"{path}: holds more than {_MAX_NODES:,} groups and arrays")
    nodes = {name: _node(path, name, documents) for name in _names(documents)}
    if "" not in nodes:
        raise DataError(f"{path}: no Zarr store, it has no zarr.json and no .zgroup")
    if sum(node.size for node in nodes.values()) > _MOST_BYTES:
        raise DataError(f"{path}: its tables declare more than {_MOST_BYTES:,} bytes in all")
    _check_summary(path, documents)
    pieces = _pieces(nodes, files)
    for name, node in nodes.items():
        _check_scales(path, name, node, nodes)
        if node.attributes.get("encoding-type") in _SPARSE:
            _check_complete(path, f"{name}/data", nodes, pieces)
        if node.shape is not None and name.partition("/")[0] not in _LAZY:
            check_pieces(path, name, node.item_size, pieces[name])
    return nodes


def check_image_pieces(store: Path, image: str, nodes: Mapping[str, ZarrNode]) -> None:
    """Check the pieces of those scales of an image that may be read as a whole.

    Parameters
    ----------
    store
        Folder of the store.
    image
        Name of the image's group.
    nodes
        Groups and arrays, as :func:`check_store` returns them.

    Raises
    ------
    DataError
        See :func:`check_pieces`.
    """
    pieces = _pieces(nodes, stored_files(store))
    for name, node in nodes.items():
        if node.shape is None or not name.startswith(f"{image}/"):
            continue
        if math.prod(node.shape) * node.item_size <= MAX_BYTES:
            check_pieces(store, name, node.item_size, pieces[name])


def _pieces(nodes: Mapping[str, ZarrNode], files: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Files of data by the name of their array."""
    arrays = [name for name, node in nodes.items() if node.shape is not None]
    pieces: dict[str, list[Path]] = {name: [] for name in arrays}
    for file, path in files.items():
        folder, _, last = file.rpartition("/")
        while folder and folder not in pieces:
            folder = folder.rpartition("/")[0]
        if last not in _FILES and folder in pieces:
            pieces[folder].append(path)
    return pieces


def _document(store: Path, name: str, file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_JSON:
            raise DataError(f"{store}: {name[:80]} is larger than any metadata")
        content = json.loads(file.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{store}: {name[:80]} is damaged, it is no JSON") from error
    except OSError as error:
        raise DataError(f"{store}: {name[:80]} cannot be read ({error.strerror})") from error
    return _mapping(content, f"{store}: {name[:80]}")


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: damaged, not the metadata of a group or an array")
    return value


def _names(documents: Mapping[str, object]) -> Iterator[str]:
    for name in documents:
        folder, _, file = name.rpartition("/")
        if file in ZARR_METADATA:
            yield folder


def _node(store: Path, name: str, documents: Mapping[str, dict[str, Any]]) -> ZarrNode:
    prefix = f"{name}/" if name else ""
    where = f"{store}: {(name or 'root')[:80]}"
    lazy = name.partition("/")[0] in _LAZY
    if (document := documents.get(f"{prefix}zarr.json")) is not None:
        attributes = _mapping(document.get("attributes", {}), where)
        if document.get("zarr_format") != 3 or document.get("node_type") not in ("group", "array"):
            raise DataError(f"{where}: damaged, not metadata of version 3 of Zarr")
        if document["node_type"] == "group":
            return ZarrNode(attributes)
        return ZarrNode(attributes, *_check_array(document, where, lazy))
    attributes = documents.get(f"{prefix}.zattrs", {})
    if (document := documents.get(f"{prefix}.zarray")) is not None:
        return ZarrNode(attributes, *_check_old_array(document, where, lazy))
    return ZarrNode(attributes)


def _check_array(document: Mapping[str, Any], where: str, lazy: bool) -> _Sizes:
    """Shape, size, number of pieces and size of an item of an array of version 3."""
    grid = _mapping(document.get("chunk_grid"), where)
    keys = _mapping(document.get("chunk_key_encoding"), where)
    if grid.get("name") != "regular" or keys.get("name") not in ("default", "v2"):
        raise DataError(f"{where}: is stored in pieces of an unknown form")
    if document.get("storage_transformers"):
        raise DataError(f"{where}: has a storage transformer, which is not read")
    _check_codecs(document.get("codecs"), where)
    size = _size_of(document.get("data_type"))
    if size is None:
        raise DataError(
            f"{where}: holds data of type {str(document.get('data_type'))[:60]!a}, which is not"
            " read"
        )
    pieces = _mapping(grid.get("configuration"), where).get("chunk_shape")
    return _check_sizes(document.get("shape"), pieces, size, where, lazy)


def _size_of(kind: object) -> int | None:
    """Bytes of an item of a type of version 3, None for one that is not read."""
    if isinstance(kind, str):
        return _ITEM_SIZES.get(kind)
    held = kind.get("configuration") if isinstance(kind, dict) else None
    if not isinstance(kind, dict) or not isinstance(held, dict):
        return None
    if kind.get("name") in _OF_LENGTH:
        length = held.get("length_bytes")
        return length if type(length) is int and length > 0 else None
    if kind.get("name") == "structured":
        return _size_of_fields(held.get("fields"), _size_of)
    return _ITEM_SIZES.get(str(kind.get("name")))


def _size_of_old(kind: object) -> int | None:
    """As :func:`_size_of`, of version 2."""
    if isinstance(kind, list):
        return _size_of_fields(kind, _size_of_old)
    parts = _OLD_TYPE.fullmatch(kind) if isinstance(kind, str) else None
    if parts is None or int(parts["size"]) < 1:
        return None
    return int(parts["size"]) * (4 if parts["kind"] == "U" else 1)


def _size_of_fields(fields: object, size_of: Callable[[object], int | None]) -> int | None:
    """Bytes of a record, such as anndata writes for tables in ``uns``."""
    if not isinstance(fields, list) or not fields:
        return None
    sizes = [
        size_of(field[1]) if isinstance(field, list) and len(field) == 2 else None
        for field in fields
    ]
    return None if None in sizes else sum(size for size in sizes if size)


def _check_codecs(codecs: object, where: str) -> None:
    if not isinstance(codecs, list) or not codecs:
        raise DataError(f"{where}: names no codecs")
    for codec in codecs:
        name = codec if isinstance(codec, str) else _mapping(codec, where).get("name")
        if not isinstance(name, str) or name not in _CODECS:
            raise DataError(f"{where}: codec {str(name)[:60]!a} is not allowed, it may run code")
        if name == "sharding_indexed":
            inner = _mapping(_mapping(codec, where).get("configuration"), where)
            _check_codecs(inner.get("codecs"), where)
            _check_codecs(inner.get("index_codecs"), where)


def _check_old_array(document: Mapping[str, Any], where: str, lazy: bool) -> _Sizes:
    """Shape, size, number of pieces and size of an item of an array of version 2."""
    filters = document.get("filters") or []
    if not isinstance(filters, list):
        raise DataError(f"{where}: damaged, its filters are no list")
    names = [_mapping(one, where).get("id") for one in filters]
    packing = document.get("compressor")
    if document.get("zarr_format") != 2:
        raise DataError(f"{where}: damaged, not metadata of version 2 of Zarr")
    packings = [] if packing is None else [_mapping(packing, where).get("id")]
    unknown = [name for name in names if not (isinstance(name, str) and name in _FILTERS)]
    unknown += [name for name in packings if not (isinstance(name, str) and name in PACKINGS)]
    if unknown:
        raise DataError(f"{where}: codec {str(unknown[0])[:60]!a} is not allowed, it may run code")
    kind = document.get("dtype")
    size = 8 if kind == "|O" and names == ["vlen-utf8"] else _size_of_old(kind)
    if size is None:
        raise DataError(f"{where}: holds data of type {str(kind)[:60]!a}, which is not read")
    return _check_sizes(document.get("shape"), document.get("chunks"), size, where, lazy)


def _check_sizes(shape: object, pieces: object, size: int, where: str, lazy: bool) -> _Sizes:
    for sides in (shape, pieces):
        if (
            not isinstance(sides, list)
            or len(sides) > _MAX_DIMENSIONS
            or not all(type(side) is int and side >= 0 for side in sides)
        ):
            raise DataError(f"{where}: damaged, its shape is no list of whole numbers")
    assert isinstance(shape, list)
    assert isinstance(pieces, list)
    if len(shape) != len(pieces) or 0 in pieces:
        raise DataError(f"{where}: its pieces do not fit its shape")
    # Pieces longer than the array are usual, and are unpacked as a whole.
    large = math.prod(pieces) if lazy else max(math.prod(shape), math.prod(pieces))
    if large * size > MAX_BYTES or math.prod(shape) >= 1 << 62:
        raise DataError(f"{where}: declares more than {MAX_BYTES:,} bytes")
    held = math.prod(-(-side // edge) for side, edge in zip(shape, pieces, strict=True))
    return tuple(shape), 0 if lazy else math.prod(shape) * size, held, size


def _check_complete(
    store: Path, name: str, nodes: Mapping[str, ZarrNode], pieces: Mapping[str, Sized]
) -> None:
    """Refuse values of a sparse matrix of which a piece is missing.

    Zarr reads a missing piece as zeros, and leaves out pieces of zeros when it writes: of other
    arrays a lost one cannot be told. A sparse matrix stores no zeros.
    """
    node = nodes.get(name)
    if node is None or node.shape is None:
        raise DataError(f"{store}: {name[:80]} is missing, the values of a sparse matrix")
    if len(pieces[name]) < node.pieces:
        raise DataError(f"{store}: pieces of {name[:80]} are missing; copy the store again")


def _check_summary(store: Path, documents: Mapping[str, dict[str, Any]]) -> None:
    """Refuse consolidated metadata that differ from those of the parts, which are checked."""
    mend = "consolidate the metadata again, with zarr.consolidate_metadata"
    summaries: dict[str, Any] = {}
    for name, document in documents.items():
        folder, _, file = name.rpartition("/")
        prefix = f"{folder}/" if folder else ""
        if file == ".zmetadata":
            held = _mapping(document.get("metadata"), f"{store}: {name[:80]}")
            summaries |= {f"{prefix}{one}": value for one, value in held.items()}
        elif file == "zarr.json" and document.get("consolidated_metadata") is not None:
            where = f"{store}: {name[:80]}"
            summary = _mapping(document["consolidated_metadata"], where)
            held = _mapping(summary.get("metadata"), where)
            summaries |= {f"{prefix}{one}/zarr.json": value for one, value in held.items()}
    for name, value in summaries.items():
        if name not in documents or _alone(value) != _alone(documents[name]):
            raise DataError(
                f"{store}: metadata of {name[:80]} differ from the store's list; {mend}"
            )


def _alone(document: object) -> object:
    if not isinstance(document, dict):
        return None
    return {key: value for key, value in document.items() if key != "consolidated_metadata"}


def _check_scales(store: Path, name: str, node: ZarrNode, nodes: Mapping[str, ZarrNode]) -> None:
    """Refuse an image whose scales lie elsewhere than below it."""
    for path in _scale_names(store, name, node):
        inner = nodes.get(f"{name}/{path}" if name else str(path))
        if not isinstance(path, str) or inner is None or inner.shape is None:
            raise DataError(
                f"{store}: {name[:80]} names a scale {str(path)[:60]!a}, which is no array in it"
            )


def _scale_names(store: Path, name: str, node: ZarrNode) -> list[Any]:
    """Names of the arrays of an image in OME-NGFF, versions 0.4 and 0.5."""
    held = node.attributes.get("ome", node.attributes)
    scales = held.get("multiscales", []) if isinstance(held, dict) else []
    try:
        return [one["path"] for scale in scales for one in scale["datasets"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{store}: {name[:80]}: its list of scales is damaged") from error
