"""Spots at which a new image is predicted: names, pixels, array coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.data.grid import array_of_grid
from bench.data.reading.counts import check_names
from bench.data.reading.hdf5 import Hdf5File, open_hdf5
from bench.data.reading.parsing import read_bytes, read_table
from bench.data.reading.positions import PARQUET_MAGIC, POSITIONS, first_fields, read_positions
from bench.data.section import FEWEST_SPOTS
from bench.errors import BenchError, DataError

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
    if path.suffix == ".h5ad":
        with open_hdf5(path) as file:
            return _read_h5ad(file)
    content = read_bytes(path)
    fields = first_fields(content)
    if content.startswith(PARQUET_MAGIC) or set(POSITIONS) <= set(fields) or _headless(fields):
        table = read_positions(path)
        table = table[table["in_tissue"] == 1]
        pixels = table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64)
        array = table[["array_col", "array_row"]].to_numpy(dtype=np.int64)
        return list(table.index), pixels, array
    if missing := [name for name in _XY if name not in fields]:
        raise DataError(f"{path}: no column '{missing[0]}'; spots are read from {_FORMS}")
    columns = [*_XY, *(_ARRAY if set(_ARRAY) <= set(fields) else ())]
    return _from_table(read_table(path, columns, separator=",", text=["barcode"]), str(path))


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
        array = _whole(_numbers(table, ["array_col", "array_row"], where), where)
    return names, _numbers(table, ["x", "y"], where), array


def _numbers(table: pd.DataFrame, columns: Sequence[str], where: str) -> np.ndarray:
    try:
        values = table[list(columns)].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {' and '.join(columns)} must be numbers") from None
    return _finite(values, where)


def _finite(values: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise DataError(f"{where}: a coordinate is missing or not finite")
    return values


def _whole(values: np.ndarray, where: str) -> np.ndarray:
    if (values != np.rint(values)).any() or (np.abs(values) > _LARGEST).any():
        raise DataError(f"{where}: an array coordinate is no whole number or beyond {_LARGEST}")
    return values.astype(np.int64)


def _read_h5ad(file: Hdf5File) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    where = str(file.path)
    if file.kind("obs") != "group" or file.kind("obsm/spatial") != "data set":
        raise DataError(f"{where}: has no obsm['spatial'], pixels (x, y) of the spots")
    index = file.attribute("obs", "_index")
    names = [str(name) for name in file.values(f"obs/{index}")]
    check_names(names, "spot", file.path)
    pixels = file.numbers("obsm/spatial", dimensions=2).astype(np.float64)
    if pixels.shape != (len(names), 2):
        raise DataError(f"{where}: obsm['spatial'] is {pixels.shape}, not {(len(names), 2)}")
    array = None
    if all(file.kind(f"obs/{name}") is not None for name in _ARRAY):
        columns = [file.numbers(f"obs/{name}") for name in ("array_col", "array_row")]
        array = _whole(_finite(np.column_stack(columns).astype(np.float64), where), where)
    return names, _finite(pixels, where), array


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
