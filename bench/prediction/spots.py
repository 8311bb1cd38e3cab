"""Spots at which a new image is predicted: names, pixels, array coordinates."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.grid import array_of_grid
from bench.data.reading.counts import check_names
from bench.data.reading.hdf5 import Hdf5File, open_hdf5
from bench.data.reading.parsing import read_bytes
from bench.data.reading.positions import PARQUET_MAGIC, POSITIONS, first_fields, read_positions
from bench.data.section import FEWEST_SPOTS
from bench.errors import BenchError, DataError
from bench.files import one_line
from bench.prediction.places import other_kind

if TYPE_CHECKING:
    import pandas as pd

_XY = ("barcode", "x", "y")
_ARRAY = ("array_row", "array_col")
_LARGEST = 10**9
_FORMS = (
    "a positions file of Space Ranger, comma-separated columns barcode, x and y, or a .h5ad file"
    " with obsm['spatial']"
)


@dataclass(frozen=True)
class ImageSpots:
    """Spots of an image.

    Attributes
    ----------
    names
        Barcodes, unique.
    spatial
        (spots, 2) float64 full-resolution pixel (x, y).
    array_xy
        (spots, 2) int64 array coordinates (column, row).
    notes
        How they were made, where they were not read.
    """

    names: tuple[str, ...]
    spatial: np.ndarray
    array_xy: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def spots_of(
    image: Path, extent: tuple[float, float], positions: Path | pd.DataFrame | None
) -> ImageSpots:
    """Spots at which an image is predicted.

    Parameters
    ----------
    image
        Image file, for messages.
    extent
        Width and height of the image in full-resolution pixels.
    positions
        Positions file of Space Ranger, of which the spots in the tissue are taken; a
        comma-separated file with the columns ``barcode``, ``x``, ``y`` and optionally
        ``array_row`` and ``array_col``; a ``.h5ad`` file with ``obsm["spatial"]``; or a table
        with the same columns, whose index names the spots where it has no ``barcode``.

    Raises
    ------
    DataError
        Not such a file, fewer than three spots, or a spot outside of the image.
    BenchError
        No positions are given.
    """
    if positions is None:
        raise BenchError(
            f"{image}: its spots are not known; lay a grid over the tissue with --grid 100um, or"
            f" name a file with --spots ({_FORMS})"
        )
    if isinstance(positions, Path):
        where = str(positions)
        names, spatial, array_xy = _read(positions)
    else:
        where = "spots"
        names, spatial, array_xy = _from_table(positions, where)
    if len(names) < FEWEST_SPOTS:
        raise DataError(f"{where}: {len(names)} spots, but at least {FEWEST_SPOTS} are needed")
    outside = ~((spatial >= 0) & (spatial < np.array(extent))).all(axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        raise DataError(
            f"{where}: {outside.sum()} of {len(names)} spots lie outside of {image}"
            f" ({extent[0]:.0f} x {extent[1]:.0f} px), first '{names[first][:40]}' at"
            f" {spatial[first, 0]:.0f}, {spatial[first, 1]:.0f}; positions are pixels (x, y) of"
            " this image at full resolution (see --image-scale)"
        )
    if array_xy is not None:
        return ImageSpots(tuple(names), spatial, array_xy)
    made, note = _array_of(spatial, where)
    return ImageSpots(tuple(names), spatial, made, (note,))


def _read(path: Path) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    if kind := other_kind(path):
        raise DataError(f"{path}: is {kind}; spots are read from {_FORMS}")
    if path.suffix == ".h5ad":
        with open_hdf5(path) as file:
            return _read_h5ad(file)
    content = read_bytes(path)
    parquet = content.startswith(PARQUET_MAGIC)
    if path.suffix == ".parquet" and not parquet:
        raise DataError(f"{path}: is no Parquet file, or is damaged")
    text = "" if parquet else _text(content, path)
    fields = first_fields(content)
    if parquet or set(POSITIONS) <= set(fields) or _headless(fields):
        table = read_positions(path)
        table = table[table["in_tissue"] == 1]
        pixels = table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64)
        array = table[["array_col", "array_row"]].to_numpy(dtype=np.int64)
        return list(table.index), pixels, array
    if missing := [name for name in _XY if name not in fields]:
        raise DataError(f"{path}: no column '{missing[0]}'; spots are read from {_FORMS}")
    columns = [*_XY, *(_ARRAY if set(_ARRAY) <= set(fields) else ())]
    return _from_table(_table(text, columns, str(path)), str(path))


def _text(content: bytes, path: Path) -> str:
    try:
        if b"\0" in content:
            raise ValueError("no text holds a byte of zero")
        return content.decode("utf-8-sig")
    except ValueError as error:
        raise DataError(
            f"{path}: is no CSV text in UTF-8 and no Parquet file; spots are read from {_FORMS}"
        ) from error


def _table(text: str, columns: Sequence[str], where: str) -> pd.DataFrame:
    """Columns of comma-separated text; a barcode such as ``NA`` is a name and not missing."""
    import pandas as pd

    values: dict[str, list[Any]] = {name: [] for name in columns}
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(rows)
        if twice := [name for name in columns if header.count(name) > 1]:
            raise DataError(f"{where}: column '{twice[0]}' occurs more than once")
        places = {name: header.index(name) for name in columns}
        for row in rows:
            line = f"{where}: line {rows.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{line}: {len(row)} fields instead of {len(header)}")
            for name, place in places.items():
                values[name].append(_value(row[place], name, line))
    except csv.Error as error:
        raise DataError(f"{where}: line {rows.line_num}: {one_line(error, 80)}") from error
    return pd.DataFrame(values)


def _value(field: str, name: str, line: str) -> str | float:
    if name == "barcode":
        if "\n" in field or "\r" in field:
            raise DataError(f"{line}: a barcode holds a line break, or its quote is not closed")
        return field
    try:
        if "_" in field:  # which Python allows between digits
            raise ValueError(field)
        number = float(field.strip() or "nan")
    except ValueError:
        raise DataError(
            f"{line}: column '{name}' is not numeric: '{one_line(field, 40)}'"
        ) from None
    if not math.isfinite(number):
        raise DataError(f"{line}: column '{name}' is missing or not finite")
    return number


def _headless(fields: Sequence[str]) -> bool:
    """Whether a line is a spot of Space Ranger 1, whose files have no header."""
    numbers = all(field.strip().lstrip("-").replace(".", "", 1).isdigit() for field in fields[1:])
    return len(fields) == len(POSITIONS) and numbers


def _from_table(table: pd.DataFrame, where: str) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    if missing := [name for name in ("x", "y") if name not in table]:
        raise DataError(f"{where}: no column '{missing[0]}'; pixel coordinates x and y are needed")
    names = [str(name) for name in table.get("barcode", table.index)]
    check_names(names, "barcode", Path(where))
    array = None
    if set(_ARRAY) <= set(table.columns):
        array = _whole(_numbers(table, ["array_col", "array_row"], names, where), where)
    return names, _numbers(table, ["x", "y"], names, where), array


def _numbers(
    table: pd.DataFrame, columns: Sequence[str], names: Sequence[str], where: str
) -> np.ndarray:
    try:
        values = table[list(columns)].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {' and '.join(columns)} must be numbers") from None
    if values.shape[1] != len(columns):
        raise DataError(f"{where}: {' or '.join(columns)} occurs more than once")
    return _finite(values, names, where)


def _finite(values: np.ndarray, names: Sequence[str], where: str) -> np.ndarray:
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(
            f"{where}: a coordinate of spot '{names[first][:40]}' (number {first + 1}) is missing"
            " or not finite"
        )
    return values


def _whole(values: np.ndarray, where: str) -> np.ndarray:
    if (values != np.rint(values)).any() or (np.abs(values) > _LARGEST).any():
        raise DataError(f"{where}: an array coordinate is no whole number or beyond {_LARGEST}")
    return values.astype(np.int64)


def _read_h5ad(file: Hdf5File) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    where = str(file.path)
    if file.kind("obs") != "group" or file.kind("obsm/spatial") is None:
        raise DataError(f"{where}: has no obsm['spatial'], pixels (x, y) of the spots")
    index = file.attribute("obs", "_index")
    names = [str(name) for name in file.values(f"obs/{index}")]
    check_names(names, "spot", file.path)
    pixels = _spatial(file)
    if pixels.shape != (len(names), 2):
        raise DataError(f"{where}: obsm['spatial'] is {pixels.shape}, not {(len(names), 2)}")
    array = None
    if all(file.kind(f"obs/{name}") is not None for name in _ARRAY):
        columns = [file.numbers(f"obs/{name}") for name in ("array_col", "array_row")]
        array = np.column_stack(columns).astype(np.float64)
        array = _whole(_finite(array, names, where), where)
    return names, _finite(pixels, names, where), array


def _spatial(file: Hdf5File) -> np.ndarray:
    """Pixels of an array, or of the columns x and y of a data frame."""
    if file.kind("obsm/spatial") == "data set":
        return file.numbers("obsm/spatial", dimensions=2).astype(np.float64)
    form = one_line(file.attribute("obsm/spatial", "encoding-type") or "a group", 40)
    if form != "dataframe":
        raise DataError(
            f"{file.path}: obsm['spatial'] is stored as {form}; store an array of pixels (x, y)"
        )
    order = [str(name) for name in np.atleast_1d(file.attribute("obsm/spatial", "column-order"))]
    for pair in (("x", "y"), ("pxl_col_in_fullres", "pxl_row_in_fullres")):
        if set(pair) <= set(order):
            columns = [file.numbers(f"obsm/spatial/{name}") for name in pair]
            return np.column_stack(columns).astype(np.float64)
    held = one_line(", ".join(order), 80)
    raise DataError(
        f"{file.path}: obsm['spatial'] is a data frame without columns x and y; it has {held}"
    )


def _array_of(spatial: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Array coordinates made from pixels, and a note on how."""
    from scipy.spatial import cKDTree

    made = "array coordinates were made from the pixel coordinates"
    try:
        rows, columns = array_of_grid(spatial, where)
    except DataError:
        nearest = cKDTree(spatial).query(spatial, k=2)[0][:, 1]
        pitch = float(np.median(nearest))
        if not pitch > 0:
            raise DataError(f"{where}: spots share their pixel coordinates") from None
        array = np.rint((spatial - spatial.min(axis=0)) / pitch).astype(np.int64)
        return array, f"{made}, which lie on no grid: the nearest places of a square one are taken"
    return np.column_stack([columns, rows]), f"{made}"
