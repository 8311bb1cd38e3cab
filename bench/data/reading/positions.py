"""Positions of spots as Space Ranger writes them: CSV of either release, or Parquet."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.data.reading.counts import check_names
from bench.data.reading.parquet import check_unpacked_size
from bench.data.reading.parsing import read_bytes, read_table
from bench.errors import DataError
from bench.files import one_line

if TYPE_CHECKING:
    import pandas as pd

POSITIONS = (
    "barcode",
    "in_tissue",
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
)
"""Columns of the file, in their order."""

PARQUET_MAGIC = b"PAR1"
_MAX_POSITION = 10**9
_MAX_ROWS = 1 << 25


def read_positions(path: Path) -> pd.DataFrame:
    """Spots of a Space Ranger positions file by barcode.

    Parameters
    ----------
    path
        ``tissue_positions_list.csv`` without a header (Space Ranger 1), ``tissue_positions.csv``
        with one, or ``tissue_positions.parquet``: the content decides, not the name.

    Returns
    -------
    DataFrame
        ``in_tissue``, ``array_row``, ``array_col``, ``pxl_row_in_fullres``,
        ``pxl_col_in_fullres``, finite numbers.

    Raises
    ------
    DataError
        No such file, a barcode or a place that occurs twice, or a value that is not allowed.
    """
    import pandas as pd

    content = read_bytes(path)
    if content.startswith(PARQUET_MAGIC):
        table = _read_parquet(path, content)
    else:
        header = "barcode" in first_fields(content)
        table = read_table(
            path, POSITIONS, separator=",", text=["barcode"], flags=["in_tissue"], header=header
        )
    barcodes = table["barcode"].tolist()
    check_names(barcodes, "barcode", path)
    table = table.drop(columns="barcode").set_index(pd.Index(barcodes, dtype=object))
    if not np.isfinite(table.to_numpy(dtype=np.float64)).all():
        raise DataError(f"{path}: a value is missing or not finite")
    if not table["in_tissue"].isin([0, 1]).all():
        raise DataError(f"{path}: in_tissue must be 0 or 1")
    array = table[["array_row", "array_col"]]
    if (array != array.round()).any(axis=None) or (array.abs() > _MAX_POSITION).any(axis=None):
        raise DataError(f"{path}: an array coordinate is no whole number or beyond {_MAX_POSITION}")
    if array.duplicated().any():
        row, column = array[array.duplicated()].iloc[0].astype(int)
        raise DataError(f"{path}: two spots have array row {row} and column {column}")
    return table


def first_fields(content: bytes) -> list[str]:
    """Fields of the first line of comma-separated text, none where it cannot be read.

    Parameters
    ----------
    content
        Bytes of the file, plain.

    Returns
    -------
    list of str
        Fields as they are written.
    """
    line = re.split(rb"[\r\n]", content.removeprefix(b"\xef\xbb\xbf"), maxsplit=1)[0]
    try:
        return next(csv.reader([line.decode("utf-8", "replace")]), [])
    except csv.Error:
        return []


def _read_parquet(path: Path, content: bytes) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        check_unpacked_size(pa.BufferReader(content), str(path), _MAX_ROWS)
        file = pa.parquet.ParquetFile(pa.BufferReader(content))
        types = [file.schema_arrow.field(name).type for name in POSITIONS]
        if not all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in types[1:]):
            raise DataError(f"{path}: a column that must be numbers is not")
        table: pd.DataFrame = file.read(columns=list(POSITIONS)).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a Parquet file of positions ({one_line(error, 120)})"
        ) from error
    return table.assign(barcode=[str(barcode or "") for barcode in table["barcode"]])
