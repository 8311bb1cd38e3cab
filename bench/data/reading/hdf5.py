"""Reading HDF5 files that may be damaged or hostile.

HDF5 lets a file point into other files (external links, external and virtual data sets), declare
more data than it holds, and store the same bytes under two names. Its metadata carries no check
sum in the form that is written by default, so that one wrong bit can give a data set the bytes
of another. A file is therefore refused unless it is a plain tree whose pieces do not overlap.
"""

from __future__ import annotations

import math
import mmap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.data.reading.parsing import MAX_BYTES
from bench.data.reading.unpacking import DEFLATE_RATIO, unpacks_beyond
from bench.errors import DataError
from bench.files import one_line

if TYPE_CHECKING:
    import h5py
    import pandas as pd

_FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)
_HEAP = b"GCOL\x01"
_SMALLEST_HEAP = 4096
_COLUMNS = {
    "categorical",
    "nullable-integer",
    "nullable-boolean",
    "nullable-string-array",
    "string-array",
    "array",
}
"""Forms in which anndata stores a column."""

_MAX_OBJECTS = 100_000
_MAX_ATTRIBUTE = 10_000
_SMALL = 64 << 20
_BLOCK = 256 << 20


@contextmanager
def open_hdf5(path: Path) -> Iterator[Hdf5File]:
    """Open a file after checking that it is a plain tree.

    Parameters
    ----------
    path
        HDF5 file.

    Yields
    ------
    Hdf5File
        Open file, which is closed at the end of the block.

    Raises
    ------
    DataError
        Missing, truncated, not HDF5; holds a soft or external link, an object under two names, a
        data set that lies in another file, or two data sets in the same bytes.
    """
    import h5py

    if not path.is_file():
        raise DataError(f"{path}: file is missing")
    with _faults(path):
        _check_heaps(path)
        file = h5py.File(path, "r")
    with file:
        with _faults(path):
            _check_tree(file, path)
        yield Hdf5File(path, file)


class Hdf5File:
    """An open file; every way to read from it is bounded and raises DataError.

    Names are paths from the root, ``"matrix/barcodes"``.

    Attributes
    ----------
    path
        Of the file, for messages.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file

    def kind(self, name: str) -> Literal["group", "data set"] | None:
        """Kind of the item at a name, None where there is none."""
        import h5py

        with _faults(self.path):
            item = self._file.get(name)
        if isinstance(item, h5py.Dataset):
            return "data set"
        return "group" if isinstance(item, h5py.Group) else None

    def names(self, name: str = "/") -> list[str]:
        """Names of the items in a group, in the file's order."""
        import h5py

        with _faults(self.path):
            item = self._file.get(name)
            if isinstance(item, h5py.Group):
                return list(item.keys())
        raise DataError(f"{self.path}: has no group '{name}'")

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape that a data set declares."""
        with _faults(self.path):
            return tuple(int(side) for side in self._dataset(name).shape or ())

    def is_text(self, name: str) -> bool:
        """Whether a data set holds text."""
        import h5py

        with _faults(self.path):
            return h5py.check_string_dtype(self._dataset(name).dtype) is not None

    def attribute(self, name: str, key: str) -> Any:
        """Attribute of an object as text, number or array, None where there is none."""
        import h5py

        with _faults(self.path):
            item = self._file.get(name)
            if item is None or key not in item.attrs:
                return None
            held = item.attrs.get_id(key)
            if math.prod(held.shape or ()) > _MAX_ATTRIBUTE:
                raise DataError(f"{self.path}: attribute '{key}' of '{name}' is too long")
            # Of other types, lists of variable length end the process where they are damaged.
            if held.dtype.kind not in "iufbS" and h5py.check_string_dtype(held.dtype) is None:
                raise DataError(
                    f"{self.path}: attribute '{key}' of '{name}' is neither text nor numbers"
                )
            value = item.attrs[key]
            return value.decode() if isinstance(value, bytes) else value

    def numbers(self, name: str, kinds: str = "iuf", dimensions: int = 1) -> np.ndarray:
        """A data set of numbers as a whole.

        Parameters
        ----------
        name
            Of the data set.
        kinds
            Kinds of numpy types that are accepted: ``i``, ``u``, ``f``, ``b``.
        dimensions
            That it must have.

        Raises
        ------
        DataError
            Absent, of another type, or larger than the file can hold.
        """
        with _faults(self.path):
            dataset = self._checked(name, kinds, dimensions)
            self._check_size(dataset, name)
            return np.asarray(dataset[()])

    def blocks(self, name: str, kinds: str = "iuf", dimensions: int = 2) -> Iterator[np.ndarray]:
        """Blocks of consecutive rows of a table of any size, as :meth:`numbers` gives it."""
        dataset = self._checked(name, kinds, dimensions)
        rows, columns = len(dataset), math.prod(dataset.shape[1:])
        height = dataset.chunks[0] if dataset.chunks else 1
        wanted = max(1, _SMALL // max(1, columns * dataset.dtype.itemsize))
        # Whole chunks at a time, since each is unpacked anew for every block that touches it.
        step = math.ceil(wanted / height) * height
        if step * columns * dataset.dtype.itemsize > MAX_BYTES:
            raise DataError(f"{self.path}: '{name}' is stored in pieces that are too large")
        for start in range(0, rows, step):
            with _faults(self.path):
                block = np.asarray(dataset[start : start + step])
            yield block

    def strings(self, name: str) -> list[str]:
        """A list of text, or a table of one column, of fixed or variable length.

        Raises
        ------
        DataError
            Absent, not text, not UTF-8, or larger than the file can hold.
        """
        import h5py

        with _faults(self.path):
            dataset = self._dataset(name)
            information = h5py.check_string_dtype(dataset.dtype)
            if information is None or (dataset.ndim != 1 and dataset.shape[1:] != (1,)):
                raise DataError(f"{self.path}: '{name}' is not a list of text")
            self._check_stored(dataset, name)
            self._check_size(dataset, name)
            if information.length is not None:
                return [text.decode("utf-8") for text in dataset[()].ravel().tolist()]
            # All elements may point to one long text: what a block unpacks to is bounded by the
            # size of the file.
            step = min(max(1, _BLOCK // max(1, self.path.stat().st_size)), 1 << 16)
            texts: list[str] = []
            held = 0
            for start in range(0, len(dataset), step):
                block = dataset[start : start + step].ravel().tolist()
                held += sum(map(len, block))
                if held > MAX_BYTES:
                    raise DataError(f"{self.path}: '{name}' holds more than {MAX_BYTES:,} bytes")
                texts += [text.decode("utf-8") for text in block]
            return texts

    def values(self, name: str) -> pd.Series:
        """A column as anndata stores it: numbers, text, categories, or one that marks gaps.

        It is read by anndata after its parts have been checked.

        Returns
        -------
        Series
            Missing values are missing in it, whatever its type.

        Raises
        ------
        DataError
            Absent, no such column, damaged, or larger than the file can hold.
        """
        import pandas as pd
        from anndata.io import read_elem

        fault = f"{self.path}: '{name}' is no column of numbers, text or categories"
        encoding = self.attribute(name, "encoding-type")
        if self.kind(name) == "group" and str(encoding) not in _COLUMNS:
            raise DataError(fault)
        parts = [name] if self.kind(name) == "data set" else self._parts(name)
        for part in parts:
            if self.is_text(part):
                self.strings(part)
            else:
                self.numbers(part, "iufb")
        if encoding == "categorical":
            codes = self.numbers(f"{name}/codes", "iu")
            categories = f"{name}/categories"
            if self.kind(categories) == "group":  # texts that may be missing
                categories += "/values"
            known = math.prod(self.shape(categories))
            if len(codes) and not -1 <= int(codes.min()) <= int(codes.max()) < known:
                raise DataError(f"{self.path}: '{name}' names a category that there is not")
        with _faults(self.path), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old forms are what it warns of
            try:
                values = read_elem(self._file[name])
            except Exception as error:  # of its own kinds too, where a form has no reader
                raise DataError(f"{fault} ({one_line(error, 120)})") from error
            if len(np.shape(values)) != 1:
                raise DataError(fault)
            return pd.Series(values)

    def _parts(self, name: str) -> list[str]:
        """Data sets of a column that is stored as a group, and of groups in it."""
        parts = []
        for child in self.names(name):
            part = f"{name}/{child}"
            self.attribute(part, "encoding-type")
            parts += [part] if self.kind(part) == "data set" else self._parts(part)
        return parts

    def _dataset(self, name: str) -> h5py.Dataset:
        import h5py

        item = self._file.get(name)
        if not isinstance(item, h5py.Dataset):
            raise DataError(f"{self.path}: has no data set '{name}'")
        return item

    def _checked(self, name: str, kinds: str, dimensions: int) -> h5py.Dataset:
        import h5py

        with _faults(self.path):
            dataset = self._dataset(name)
            dtype = dataset.dtype
            # A damaged type may differ in its bits from the one that numpy takes it for.
            if dtype.kind not in kinds or not dataset.id.get_type().equal(
                h5py.h5t.py_create(dtype, logical=True)
            ):
                raise DataError(f"{self.path}: '{name}' holds {dtype}, not plain numbers")
            if dataset.ndim != dimensions:
                raise DataError(
                    f"{self.path}: '{name}' has {dataset.ndim} dimensions instead of {dimensions}"
                )
            self._check_stored(dataset, name)
        return dataset

    def _check_size(self, dataset: h5py.Dataset, name: str) -> None:
        if dataset.size * dataset.dtype.itemsize > MAX_BYTES:
            raise DataError(f"{self.path}: '{name}' is larger than {MAX_BYTES:,} bytes")

    def _check_stored(self, dataset: h5py.Dataset, name: str) -> None:
        """Refuse a data set that declares more bytes than the file has."""
        if not dataset.size:
            return
        size = dataset.size * dataset.dtype.itemsize
        if dataset.chunks is None:
            if dataset.id.get_storage_size() < size:
                raise DataError(f"{self.path}: '{name}' declares more data than the file has")
            return
        chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
        if chunk > max(_SMALL, size):
            raise DataError(f"{self.path}: '{name}' is stored in pieces that are too large")
        grid = [
            math.ceil(side / edge) for side, edge in zip(dataset.shape, dataset.chunks, strict=True)
        ]
        if dataset.id.get_num_chunks() != math.prod(grid):
            raise DataError(f"{self.path}: '{name}' declares more data than the file has")
        pieces = _chunks(dataset)
        places = {piece.chunk_offset for piece in pieces}
        inside = all(
            0 <= start < side
            for place in places
            for start, side in zip(place, dataset.shape, strict=True)
        )
        # HDF5 stores a piece as it is where packing would not make it smaller.
        unpacked = all(piece.size >= chunk for piece in pieces if piece.filter_mask)
        if len(places) != len(pieces) or not inside or not unpacked:
            raise DataError(f"{self.path}: the pieces of '{name}' do not fit together")
        if _unpacks_to_more(dataset, pieces, chunk):
            raise DataError(f"{self.path}: a piece of '{name}' unpacks to more than it declares")


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Turn errors of the library on damaged files into one line."""
    try:
        yield
    except _FAULTS as error:
        raise DataError(
            f"{path}: not an HDF5 file, or truncated or damaged ({one_line(error, 120)})"
        ) from error


def _check_heaps(path: Path) -> None:
    """Refuse a file with inconsistent lists of text: the library never stops reading some of them.

    Text of variable length lies in collections, each a chain of objects, which ends with one of
    number 0 that takes up the rest or where less is left than an object's head. The library itself
    refuses a collection below 4,096 bytes or beyond the end of the file: where the mark occurs by
    chance, in the numbers of a large file, such a size follows. Layout: III.E of
    https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path}: not an HDF5 file, it is empty")
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        start = content.find(_HEAP)
        while start >= 0:
            size = int.from_bytes(content[start + 8 : start + 16], "little")
            end = start + size
            place = start + 16
            if not _SMALLEST_HEAP <= size <= len(content) - start:
                start = content.find(_HEAP, start + 1)
                continue
            while place + 16 <= end:
                held = int.from_bytes(content[place + 8 : place + 16], "little")
                if content[place : place + 2] == b"\0\0":
                    if place + held != end:
                        break
                    place = end
                else:
                    place += 16 + -(-held // 8) * 8
            if not end - 16 < place <= end:
                raise DataError(f"{path}: damaged, a list of text in it does not add up")
            start = content.find(_HEAP, start + 1)


def _chunks(dataset: h5py.Dataset) -> list[Any]:
    pieces: list[Any] = []
    if dataset.id.get_num_chunks():
        dataset.id.chunk_iter(pieces.append)
    return pieces


def _unpacks_to_more(dataset: h5py.Dataset, pieces: list[Any], chunk: int) -> bool:
    """Whether a piece unpacks to more than `chunk` bytes, for all of which HDF5 takes memory.

    Pieces that cannot unpack to much are not unpacked for it.
    """
    import h5py

    filters = dataset.id.get_create_plist()
    codes = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
    if h5py.h5z.FILTER_DEFLATE not in codes:
        return False
    if codes.count(h5py.h5z.FILTER_DEFLATE) > 1:
        return True
    large = [
        piece
        for piece in pieces
        if piece.size * DEFLATE_RATIO > max(_BLOCK, chunk)
        and not piece.filter_mask >> codes.index(h5py.h5z.FILTER_DEFLATE) & 1
    ]
    return any(
        unpacks_beyond(dataset.id.read_direct_chunk(piece.chunk_offset)[1], "zlib", chunk)
        for piece in large
    )


def _check_tree(file: h5py.File, path: Path) -> None:
    import h5py

    groups: list[tuple[str, h5py.Group]] = [("", file)]
    addresses: set[int] = {h5py.h5o.get_info(file.id).addr}
    stored: list[tuple[int, int]] = []
    while groups:
        parent, group = groups.pop()
        for name in group:
            where = f"{parent}{name}"[:80]
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise DataError(
                    f"{path}: '{where}' is a link, which may lead out of the file; copy its target"
                    " to that place"
                )
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in addresses:
                raise DataError(f"{path}: '{where}' is also stored under another name")
            addresses.add(address)
            if len(addresses) > _MAX_OBJECTS:
                raise DataError(f"{path}: holds more than {_MAX_OBJECTS:,} objects")
            if isinstance(item, h5py.Group):
                groups.append((f"{parent}{name}/", item))
            elif isinstance(item, h5py.Dataset):
                if item.is_virtual or item.external:
                    raise DataError(f"{path}: '{where}' lies in another file, which is not read")
                stored += _extents(item)
    _check_extents(stored, path)


def _extents(dataset: h5py.Dataset) -> list[tuple[int, int]]:
    """Where the bytes of a data set begin and end in the file."""
    if dataset.chunks is not None:
        return [(c.byte_offset, c.byte_offset + c.size) for c in _chunks(dataset)]
    start = dataset.id.get_offset()
    return [] if start is None else [(start, start + dataset.id.get_storage_size())]


def _check_extents(stored: list[tuple[int, int]], path: Path) -> None:
    if not stored:
        return
    starts, ends = np.array(sorted(stored), dtype=np.uint64).T
    if np.any(starts[1:] < ends[:-1]) or ends.max() > path.stat().st_size:
        raise DataError(f"{path}: damaged, two data sets lie in the same bytes of the file")
