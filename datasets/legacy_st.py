"""Reader of the legacy Spatial Transcriptomics layout.

Counts are a tab-separated table, one spot a row named ``XxY``, one gene a column, plain or
gzip-compressed. The spot file has columns ``x``, ``y``, ``pixel_x``, ``pixel_y``; its array
coordinates may be fractional and are rounded. Pathologist labels, where there are any, have
columns ``x``, ``y``, ``label``. Spots are joined on rounded (x, y); a spot that only one of the
two files knows is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import scipy.sparse as sp
from anndata import AnnData

from bench.api import DataError, read_bytes, read_table

ROLES = ("counts", "spots")
"""Files without which a section cannot be read."""

_SPOT = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")
_MAX_POSITION = 10**9


def read(files: Mapping[str, Path]) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts`` and ``spots``, optionally ``labels``.

    Returns
    -------
    AnnData
        Raw counts (spots x genes, CSR int32) in the order of the counts file.

    Raises
    ------
    DataError
        A file is missing, truncated, or not in this layout.
    """
    counts, spots, genes = _read_counts(files["counts"])
    positions = _read_positions(files["spots"])
    keys = pd.MultiIndex.from_tuples(spots, names=["x", "y"])
    if not keys.is_unique:
        x, y = keys[keys.duplicated()][0]
        raise DataError(f"{files['counts']}: spot '{x}x{y}' occurs more than once")
    both = keys.isin(positions.index)
    if not both.any():
        raise DataError(f"{files['spots']}: no spot in common with {files['counts']}")
    keys, counts = keys[both], counts[np.flatnonzero(both)]
    positions = positions.loc[keys]

    obs = pd.DataFrame(
        {
            "array_row": keys.get_level_values("y").astype(np.int64),
            "array_col": keys.get_level_values("x").astype(np.int64),
            "in_tissue": np.ones(len(keys), dtype=np.int64),
            "label": _read_labels(files["labels"], keys) if "labels" in files else "",
        },
        index=[f"{x}x{y}" for x, y in keys],
    )
    return AnnData(
        X=counts,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(genes)),
        obsm={"spatial": positions[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)},
    )


def _read_counts(path: Path) -> tuple[sp.csr_matrix, list[tuple[int, int]], list[str]]:
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
    spots = []
    for name in table.column(0).to_pylist():
        match = _SPOT.fullmatch(name or "")
        if not match:
            raise DataError(f"{path}: '{str(name)[:40]}' is not a spot name like '10x16'")
        spots.append((int(match[1]), int(match[2])))
    return sp.csr_matrix(matrix), spots, genes


def _counts_of(column: pa.ChunkedArray, gene: str, path: Path) -> np.ndarray:
    if column.null_count:
        raise DataError(f"{path}: gene '{gene}' has a missing value (NaN)")
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


def _by_array_position(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    if (table[["x", "y"]].abs() > _MAX_POSITION).any(axis=None):
        raise DataError(f"{path}: an array coordinate is beyond {_MAX_POSITION}")
    index = pd.MultiIndex.from_arrays(
        [np.rint(table["x"]).astype(np.int64), np.rint(table["y"]).astype(np.int64)],
        names=["x", "y"],
    )
    if not index.is_unique:
        x, y = index[index.duplicated()][0]
        raise DataError(f"{path}: two spots round to array position {x}x{y}")
    return table.set_index(index)


def _read_positions(path: Path) -> pd.DataFrame:
    table = read_table(path, ["x", "y", "pixel_x", "pixel_y"])
    if not np.isfinite(table.to_numpy(dtype=np.float64)).all():
        raise DataError(f"{path}: a coordinate is missing or not finite")
    return _by_array_position(table, path)


def _read_labels(path: Path, keys: pd.MultiIndex) -> np.ndarray:
    table = read_table(path, ["x", "y", "label"], text=["label"])
    # Some published label files hold rows without coordinates: nothing to join them on.
    table = table.dropna(subset=["x", "y"])
    labels = _by_array_position(table, path)["label"]
    return labels.reindex(keys).fillna("").astype(str).to_numpy()
