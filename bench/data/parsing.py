"""Reading files of numbers that may be damaged, hostile or not what they are called."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import DataError
from bench.files import one_line

if TYPE_CHECKING:
    import pandas as pd

_GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 2 << 30
"""Bytes that a file of numbers may unpack to."""


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Content of a file, unpacked where it is gzip-compressed, whatever its name says.

    Raises
    ------
    DataError
        Missing, unreadable, truncated, or unpacking to more than `limit` bytes.
    """
    try:
        with open(path, "rb") as stream:
            zipped = stream.read(2) == _GZIP_MAGIC
        # Bounded, so that a small file cannot unpack to more than the memory.
        with gzip.open(path, "rb") if zipped else open(path, "rb") as stream:
            content = stream.read(limit + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: gzip data is truncated or damaged ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > limit:
        raise DataError(f"{path}: unpacks to more than {limit:,} bytes")
    return content


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    separator: str = "\t",
    text: Collection[str] = (),
    header: bool = True,
) -> pd.DataFrame:
    """Columns of a delimited text file.

    Parameters
    ----------
    path
        Plain or gzip-compressed file.
    columns
        Columns to take, by the names in its first line; all of its columns, in order, where it
        has no such line. The name "" stands for a first column without one.
    separator
        Between the fields of a line.
    text
        Columns that hold text; the others must hold numbers.
    header
        Whether the first line names the columns.

    Returns
    -------
    DataFrame
        Numbers may be NaN, where a field is empty; text is never NaN.

    Raises
    ------
    DataError
        Unreadable, not such a table, or a column that is no number.
    """
    import pandas as pd

    kind = {"\t": "tab", ",": "comma"}.get(separator, f"'{separator}'")
    try:
        with warnings.catch_warnings():
            # A surplus field would otherwise be cut off, or taken for the name of its row.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Not usecols, with which pandas cuts surplus fields off without a word.
            table = pd.read_csv(
                io.BytesIO(read_bytes(path)),
                sep=separator,
                index_col=False,
                header=0 if header else None,
                dtype={name if header else columns.index(name): str for name in text},
                low_memory=False,
            )
            if not header and table.shape[1] != len(columns):
                raise ValueError(f"{table.shape[1]} columns instead of {len(columns)}")
            if not header:
                table.columns = pd.Index(columns)
            elif "" in columns:
                table = table.rename(columns={"Unnamed: 0": ""})
            table = table[list(columns)]
    except (ValueError, KeyError, pd.errors.ParserWarning) as error:
        named = [name or "(unnamed)" for name in columns]
        raise DataError(
            f"{path}: needs {kind}-separated columns {named} ({one_line(error, 160)})"
        ) from error
    for column in columns:
        if column in text:
            table[column] = table[column].fillna("")
            continue
        if table[column].dtype == bool:
            raise DataError(f"{path}: column '{column}' is not numeric")
        try:
            table[column] = pd.to_numeric(table[column])
        except (ValueError, TypeError):
            raise DataError(f"{path}: column '{column}' is not numeric") from None
    return table
