"""Count matrix of Space Ranger: HDF5 of either release, or MatrixMarket."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import scipy.sparse as sp

from bench.readers import (
    DataError,
    Hdf5File,
    check_names,
    expressed_genes,
    one_line,
    open_hdf5,
    read_bytes,
    sparse_counts,
    whole_counts,
)

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


_SMALLEST_ENTRY = len("1 1 1\n")


_SIZES = re.compile(rb" *([0-9]{1,10}) +([0-9]{1,10}) +([0-9]{1,12}) *\r?")


def read_matrix(
    files: Mapping[str, Path], genome: str | None
) -> tuple[sp.csr_matrix, list[str], list[str], dict[str, int]]:
    """Counts (barcodes x genes), barcodes, symbols of the genes, features left out by reason."""
    path = files["counts"]
    try:
        with open(path, "rb") as stream:
            is_hdf5 = stream.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if is_hdf5:
        with open_hdf5(path) as file:
            counts, barcodes, genes, types = _read_hdf5(file)
        named = path, path
    else:
        for role in ("barcodes", "features"):
            if role not in files:
                raise DataError(
                    f"{path}: not HDF5; where counts are a MatrixMarket file, the section must"
                    f" name its '{role}' file too"
                )
        named = files["barcodes"], files["features"]
        barcodes = [row[0] for row in _read_rows(files["barcodes"], widths=(1,))]
        rows = _read_rows(files["features"], widths=(1, 2, 3))
        if len(rows[0]) == 1 and any("," in row[0] for row in rows):
            raise DataError(f"{files['features']}: fields must be separated by tabs")
        # Symbols alone, or an identifier before them and, in later releases, a type behind.
        genes = [row[min(1, len(row) - 1)] for row in rows]
        types = [row[2] for row in rows] if len(rows[0]) > 2 else None
        counts = _read_matrix_market(path, len(genes), len(barcodes))
    check_names(barcodes, "barcode", named[0])
    if "" in genes:
        raise DataError(f"{named[1]}: gene {genes.index('') + 1} has no name")
    kept, symbols, left_out = expressed_genes(genes, types, str(named[1]), genome=genome)
    return counts[:, kept] if left_out else counts, barcodes, symbols, left_out


def _read_hdf5(file: Hdf5File) -> tuple[sp.csr_matrix, list[str], list[str], list[str] | None]:
    """Counts, barcodes, symbols, feature types; columns of the file's matrix are barcodes."""
    if file.kind("matrix") == "group":
        group = "matrix"
        genes = file.strings("matrix/features/name")
        typed = file.kind("matrix/features/feature_type") is not None
        types = file.strings("matrix/features/feature_type") if typed else None
    else:
        # Before Cell Ranger 3 the group had the name of the genome.
        groups = [name for name in file.names() if file.kind(name) == "group"]
        if len(groups) != 1:
            raise DataError(
                f"{file.path}: not a matrix of 10x Genomics: it has no group 'matrix', and"
                f" {len(groups)} groups that could be a genome"
            )
        group = groups[0]
        genes = file.strings(f"{group}/gene_names")
        types = None
    barcodes = file.strings(f"{group}/barcodes")
    if types is not None and len(types) != len(genes):
        raise DataError(f"{file.path}: {len(genes)} features, but {len(types)} types of them")
    shape = file.numbers(f"{group}/shape", "iu").tolist()
    if shape != [len(genes), len(barcodes)]:
        raise DataError(
            f"{file.path}: {len(genes)} features and {len(barcodes)} barcodes, but the matrix is"
            f" said to be {' x '.join(map(str, shape[:3]))}"
        )
    counts = sparse_counts(
        file.numbers(f"{group}/data"),
        file.numbers(f"{group}/indices", "iu"),
        file.numbers(f"{group}/indptr", "iu"),
        (len(barcodes), len(genes)),
        f"{file.path}, {group}",
    )
    return counts, barcodes, genes, types


def _read_rows(path: Path, widths: Sequence[int]) -> list[list[str]]:
    """Tab-separated fields of a file without a header, whose lines are numbered: none is skipped.

    No library for tables reads it, since each takes some names ("NA", "nan") for missing values.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]) or len(row) not in widths or not all(row):
            raise DataError(
                f"{path}: line {number} has {len(row)} tab-separated fields or an empty one;"
                f" {' or '.join(map(str, widths))} are needed, as many on each line"
            )
    return rows


def _read_matrix_market(path: Path, genes: int, barcodes: int) -> sp.csr_matrix:
    """Counts (barcodes x genes) of a file with genes in rows.

    scipy's reader is not used: it takes "5.5" in a file of integers for 5, ignores what follows
    the third number of a line, and adds up an entry that occurs twice.
    """
    content = read_bytes(path)
    banner, _, rest = content.partition(b"\n")
    words = banner.decode("utf-8", "replace").lower().split()
    if words[:1] != ["%%matrixmarket"]:
        raise DataError(f"{path}: neither an HDF5 nor a MatrixMarket file")
    if words[1:3] != ["matrix", "coordinate"] or words[3:] not in (
        ["integer", "general"],
        ["real", "general"],
    ):
        raise DataError(
            f"{path}: '{one_line(' '.join(words[1:]), 80)}' instead of 'matrix coordinate integer"
            " general'; counts are needed"
        )
    while rest.startswith(b"%"):
        rest = rest.partition(b"\n")[2]
    sizes, _, body = rest.partition(b"\n")
    match = _SIZES.fullmatch(sizes)
    if not match:
        raise DataError(f"{path}: has no line with the numbers of genes, barcodes and entries")
    rows, columns, entries = map(int, match.groups())
    if (rows, columns) != (genes, barcodes):
        raise DataError(
            f"{path}: {rows} x {columns}, but there are {genes} features and {barcodes} barcodes"
        )
    # The last line may lack its end.
    if entries * _SMALLEST_ENTRY > len(body) + 1:
        raise DataError(f"{path}: truncated, {entries} entries are promised")
    if not entries:
        raise DataError(f"{path}: holds no count")
    gene, barcode, values = _read_entries(path, body, integer=words[3] == "integer")
    if len(values) != entries:
        raise DataError(f"{path}: {len(values)} entries, {entries} are promised")
    for indices, size, kind in ((gene, genes, "gene"), (barcode, barcodes, "barcode")):
        if indices.min() < 1 or indices.max() > size:
            raise DataError(f"{path}: an entry's {kind} is outside of 1 to {size}")
    counts = sp.coo_matrix(
        (whole_counts(values, str(path)), (barcode - 1, gene - 1)), shape=(barcodes, genes)
    ).tocsr()
    if counts.nnz != entries:
        raise DataError(f"{path}: an entry occurs more than once")
    counts.eliminate_zeros()
    return counts


def _read_entries(path: Path, body: bytes, *, integer: bool) -> list[np.ndarray]:
    names = ["gene", "barcode", "count"]
    types = dict.fromkeys(names, pa.int64())
    if not integer:
        types["count"] = pa.float64()
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(body),
            read_options=pa.csv.ReadOptions(column_names=names),
            parse_options=pa.csv.ParseOptions(delimiter=" ", quote_char=False),
            convert_options=pa.csv.ConvertOptions(column_types=types, null_values=[]),
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path}: each line must be gene, barcode and count, whole numbers with one space"
            f" between ({one_line(error, 100)})"
        ) from error
    return [table.column(name).to_numpy() for name in names]
