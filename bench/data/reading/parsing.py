"""Reading files of numbers that may be damaged, hostile or misnamed."""

from __future__ import annotations

import gzip
import io
import json
import warnings
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import DataError
from bench.files import one_line

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import scipy.sparse as sp

_GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 2 << 30
"""Largest unpacked size of a file of numbers, in bytes."""


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Content of a file, unpacked where it is gzip-compressed, whatever its name says.

    Parameters
    ----------
    path
        File.
    limit
        Largest number of bytes after unpacking.

    Returns
    -------
    bytes
        Unpacked content.

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


def read_json(path: Path, limit: int = 1 << 20) -> Any:
    """Content of a JSON file, compressed or not; a name that occurs twice in an object is refused.

    Parameters
    ----------
    path
        JSON file.
    limit
        Largest number of bytes after unpacking.

    Returns
    -------
    object
        Values of JSON: mappings, lists, texts, numbers, truth values, None.

    Raises
    ------
    DataError
        See :func:`read_bytes`; or not JSON in UTF-8.
    """
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({one_line(error, 120)})") from error


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"name '{twice[:40]}' occurs more than once")
    return content


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    separator: str = "\t",
    text: Collection[str] = (),
    flags: Collection[str] = (),
    header: bool = True,
) -> pd.DataFrame:
    """Columns of a delimited text file.

    Parameters
    ----------
    path
        Plain or gzip-compressed file.
    columns
        Columns to take, by the names in its first line; all of its columns, in order, where it
        has no such line. The name "" denotes a first column without a name.
    separator
        Between the fields of a line.
    text
        Columns that hold text; the others must hold numbers.
    flags
        Columns that may hold ``TRUE`` and ``FALSE``, in any case, for 1 and 0.
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
            content = read_bytes(path)
            _check_rows(content, separator, columns if header else ())
            # Not usecols, with which pandas cuts surplus fields off without a word.
            table = pd.read_csv(
                io.BytesIO(content),
                sep=separator,
                index_col=False,
                header=0 if header else None,
                dtype={
                    (name or "Unnamed: 0") if header else columns.index(name): str for name in text
                },
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
            if table[column].str.contains("[\r\n]").any():
                raise DataError(f"{path}: column '{column}' has a quote that is not closed")
            continue
        if table[column].dtype == bool and column in flags:
            table[column] = table[column].astype("int64")
        if table[column].dtype == bool:
            raise DataError(f"{path}: column '{column}' is not numeric")
        try:
            table[column] = pd.to_numeric(table[column])
        except (ValueError, TypeError):
            raise DataError(f"{path}: column '{column}' is not numeric") from None
    return table


def _check_rows(content: bytes, separator: str, columns: Sequence[str]) -> None:
    """Refuse faults that pandas ignores: a row that is too short, a column name that occurs twice.

    Fields after a gap would end up in the wrong columns, and of two columns either may be the
    intended one.
    """
    import pyarrow as pa
    import pyarrow.csv

    table = pa.csv.read_csv(
        pa.BufferReader(content),
        read_options=pa.csv.ReadOptions(
            autogenerate_column_names=not columns,
            block_size=min(max(len(content), 1), (1 << 31) - 1),
        ),
        parse_options=pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
    )
    for column in columns:
        if table.column_names.count(column) > 1:
            raise ValueError(f"column '{column}' occurs more than once")


def read_counts(path: Path) -> tuple[sp.csr_matrix, list[str], list[str]]:
    """Tab-separated counts, a spot a row and a gene a column, plain or gzip-compressed.

    Parameters
    ----------
    path
        Text file with a header of gene names; the first column names the spots.

    Returns
    -------
    tuple
        Counts (spots, genes) as CSR int32, names of the rows, names of the columns.

    Raises
    ------
    DataError
        Unreadable, a gene twice, or something that is no count.
    """
    import pyarrow as pa
    import pyarrow.csv
    import scipy.sparse as sp

    content = read_bytes(path)
    header, newline, _ = content.partition(b"\n")
    if not newline:
        raise DataError(f"{path}: empty, a header and at least one spot are needed")
    try:
        genes = header.decode("utf-8").rstrip("\r").split("\t")[1:]
    except UnicodeDecodeError:
        raise DataError(f"{path}: the header is not UTF-8 text") from None
    seen: set[str] = set()
    for gene in genes:
        if gene in seen:
            raise DataError(f"{path}: gene '{gene}' occurs more than once")
        seen.add(gene)
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(content),
            read_options=pa.csv.ReadOptions(
                skip_rows=1,
                column_names=["", *genes],
                block_size=min(max(len(content), 1), (1 << 31) - 1),
            ),
            parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pa.csv.ConvertOptions(
                column_types={"": pa.string()},
                null_values=["", "NA", "NaN", "nan"],
                auto_dict_encode=False,
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        first = str(error).splitlines()[0][:160]
        raise DataError(f"{path}: not a table of counts ({first})") from error
    matrix = np.empty((table.num_rows, len(genes)), dtype=np.int32)
    for column, gene in enumerate(genes):
        matrix[:, column] = _counts_of(table.column(column + 1), gene, path)
    spots = [name or "" for name in table.column(0).to_pylist()]
    return sp.csr_matrix(matrix), spots, genes


def _counts_of(column: pa.ChunkedArray, gene: str, path: Path) -> np.ndarray:
    if column.null_count:
        raise DataError(f"{path}: gene '{gene}' has a missing value (NaN)")
    import pyarrow as pa

    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{path}: gene '{gene}' has a value that is not a number")
    values = column.to_numpy()
    if not np.isfinite(values).all():
        raise DataError(f"{path}: gene '{gene}' has a value that is not finite")
    if values.size and values.min() < 0:
        raise DataError(f"{path}: gene '{gene}' has a negative count")
    if np.any(values != np.rint(values)):
        raise DataError(f"{path}: gene '{gene}' has a fractional count; raw counts are needed")
    if values.size and values.max() > np.iinfo(np.int32).max:
        raise DataError(f"{path}: gene '{gene}' has a count beyond 2^31")
    return values
