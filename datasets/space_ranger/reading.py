"""Reader of the output of Space Ranger, 10x Genomics' pipeline for Visium.

``counts`` is ``filtered_feature_bc_matrix.h5`` (or the raw one; either form of the format), or
``matrix.mtx`` with ``barcodes`` and ``features`` (in older releases ``genes``) beside it.
``positions`` is ``tissue_positions_list.csv`` without a header (Space Ranger 1),
``tissue_positions.csv`` with one (2 and later) or ``tissue_positions.parquet`` (Visium HD): the
content decides, not the name. Text may be gzip-compressed.

Spots are the barcodes of the matrix, in its order, that the positions file holds and says to lie
in the tissue; others are left out. Features that are not gene expression, and control probes, are
left out. ``uns["left_out"]`` counts all of them by reason. Genes go by their symbols; where a
reference holds a symbol more than once, the second is ``SYMBOL-1``, the third ``SYMBOL-2``, as
scanpy's ``var_names_make_unique`` names them.

Format: https://www.10xgenomics.com/support/software/space-ranger/latest/analysis/outputs
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import scipy.sparse as sp
from anndata import AnnData

from bench.readers import (
    LEFT_OUT,
    DataError,
    Hdf5File,
    expressed_genes,
    one_line,
    open_hdf5,
    read_bytes,
    read_table,
    sparse_counts,
    unique_names,
    whole_counts,
)

ROLES = ("counts", "positions")
"""Files without which a section cannot be read."""

_POSITIONS = (
    "barcode",
    "in_tissue",
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_PARQUET_MAGIC = b"PAR1"
_MAX_POSITION = 10**9
_MAX_ROWS = 1 << 25
_MAX_JSON = 1 << 20
_SMALLEST_ENTRY = len("1 1 1\n")
_SIZES = re.compile(rb" *([0-9]{1,10}) +([0-9]{1,10}) +([0-9]{1,12}) *\r?")
_SCALES = (
    "spot_diameter_fullres",
    "fiducial_diameter_fullres",
    "tissue_hires_scalef",
    "tissue_lowres_scalef",
    "regist_target_img_scalef",
    "microns_per_pixel",
    "bin_size_um",
)


def read(files: Mapping[str, Path], *, genome: str | None = None, pool: int = 1) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts`` and ``positions``; ``barcodes`` and ``features`` where the
        counts are a MatrixMarket file; optionally ``scalefactors``, which is checked alone, and
        ``labels``: comma-separated, barcodes in a column ``barcode`` or without a name, labels
        in a column ``label`` or ``Classification``.
    genome
        Genome whose genes are kept where the reference holds several.
    pool
        Bins of Visium HD along each edge whose counts are added up to one spot. A block of which
        fewer than half of the bins lie in the tissue is left out.

    Returns
    -------
    AnnData
        Raw counts (spots x genes, CSR int32) in the order of the matrix.

    Raises
    ------
    DataError
        A file is missing, truncated, or not in this layout.
    """
    counts, barcodes, genes, left_out = _read_counts(files, genome)
    path = files["positions"]
    positions = _read_positions(path)
    known = pd.Index(barcodes).isin(positions.index)
    if not known.any():
        raise DataError(
            f"{path}: no barcode in common with {files['counts']} ('{positions.index[0][:40]}'"
            f" here, '{barcodes[0][:40]}' there); the two are not of one section"
        )
    kept = np.flatnonzero(known)
    positions = positions.loc[[barcodes[row] for row in kept]]
    inside = positions["in_tissue"].to_numpy() == 1
    if not inside.any():
        raise DataError(f"{path}: no barcode of {files['counts']} lies in the tissue")
    left_out |= {
        "barcodes without a position": int((~known).sum()),
        "spots out of tissue": int((~inside).sum()),
    }
    kept, positions = kept[inside], positions[inside]
    if "scalefactors" in files:
        read_scalefactors(files["scalefactors"])

    obs = pd.DataFrame(
        {
            "array_row": positions["array_row"].astype(np.int64),
            "array_col": positions["array_col"].astype(np.int64),
            "in_tissue": np.ones(len(kept), dtype=np.int64),
            "label": _read_labels(files["labels"], positions.index) if "labels" in files else "",
        },
        index=pd.Index(positions.index, name=None),
    )
    pixels = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64)
    if pool > 1:
        return _pooled(counts[kept], obs, pixels, unique_names(genes), left_out, pool)
    return AnnData(
        X=counts[kept],
        obs=obs,
        var=pd.DataFrame(index=pd.Index(unique_names(genes))),
        obsm={"spatial": pixels},
        uns={LEFT_OUT: {reason: number for reason, number in left_out.items() if number}},
    )


def _pooled(
    counts: sp.csr_matrix,
    bins: pd.DataFrame,
    pixels: np.ndarray,
    genes: list[str],
    left_out: dict[str, int],
    pool: int,
) -> AnnData:
    """Blocks of `pool` x `pool` bins as spots, named ``ROWxCOLUMN`` and placed at their middle."""
    array = bins[["array_row", "array_col"]].to_numpy()
    blocks, of_bin, sizes = np.unique(
        array // pool, axis=0, return_inverse=True, return_counts=True
    )
    whole = sizes * 2 >= pool * pool
    if not whole.any():
        raise DataError(f"bins: no block of {pool} x {pool} of them lies in the tissue by half")
    left_out = left_out | {"bins of blocks at the edge of the tissue": int(sizes[~whole].sum())}
    member = sp.csr_matrix(
        (np.ones(len(array), dtype=np.int32), (of_bin.ravel(), np.arange(len(array))))
    )
    # Bins stand on a grid: a linear fit gives the middle of a block that is not full.
    design = np.column_stack([array, np.ones(len(array))])
    fit = np.linalg.lstsq(design, pixels, rcond=None)[0]
    blocks = blocks[whole]
    middle = np.column_stack([blocks * pool + (pool - 1) / 2, np.ones(len(blocks))]) @ fit
    obs = pd.DataFrame(
        {
            "array_row": blocks[:, 0],
            "array_col": blocks[:, 1],
            "in_tissue": np.ones(len(blocks), dtype=np.int64),
            "label": "",
        },
        index=pd.Index([f"{row}x{column}" for row, column in blocks.tolist()]),
    )
    return AnnData(
        X=sp.csr_matrix(member @ counts)[np.flatnonzero(whole)],
        obs=obs,
        var=pd.DataFrame(index=pd.Index(genes)),
        obsm={"spatial": middle},
        uns={LEFT_OUT: {reason: number for reason, number in left_out.items() if number}},
    )


def read_scalefactors(path: Path) -> dict[str, float]:
    """Scale factors of ``scalefactors_json.json``.

    Returns
    -------
    dict of str to float
        Those of the format that the file holds, ``tissue_hires_scalef`` (pixels of the hires
        image a full-resolution pixel) and ``spot_diameter_fullres`` (full-resolution pixels)
        among them.

    Raises
    ------
    DataError
        Not such a file; one of those two is missing; a factor is not a finite number above 0.
    """
    try:
        content = json.loads(read_bytes(path, _MAX_JSON), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({one_line(error, 120)})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a JSON object of scale factors")
    for name in ("tissue_hires_scalef", "spot_diameter_fullres"):
        if name not in content:
            raise DataError(
                f"{path}: has no '{name}'; is it Space Ranger's scalefactors_json.json?"
            )
    factors = {}
    for name in _SCALES:
        if name not in content:
            continue
        value = content[name]
        # Compared before it becomes a float, which the largest integers cannot.
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise DataError(f"{path}: '{name}' must be a finite number above 0")
        factors[name] = float(value)
    return factors


def hires_scale(path: Path) -> float:
    """Pixels of ``tissue_hires_image.png`` a full-resolution pixel; see `read_scalefactors`."""
    return read_scalefactors(path)["tissue_hires_scalef"]


def spot_diameter(path: Path) -> float:
    """Diameter of a spot in full-resolution pixels; see `read_scalefactors`."""
    return read_scalefactors(path)["spot_diameter_fullres"]


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs more than once")
    return content


def _read_counts(
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
    _check_names(barcodes, "barcode", named[0])
    if "" in genes:
        raise DataError(f"{named[1]}: gene {genes.index('') + 1} has no name")
    kept, symbols, left_out = expressed_genes(genes, types, str(named[1]), genome=genome)
    return counts[:, kept] if left_out else counts, barcodes, symbols, left_out


def _check_names(names: Sequence[str], kind: str, path: Path) -> None:
    if not names:
        raise DataError(f"{path}: empty, at least one {kind} is needed")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: {kind} '{name[:40]}' occurs more than once")
    if "" in names:
        raise DataError(f"{path}: a {kind} is empty")


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


def _read_positions(path: Path) -> pd.DataFrame:
    """All spots by barcode: in_tissue, array and pixel coordinates."""
    content = read_bytes(path)
    if content.startswith(_PARQUET_MAGIC):
        table = _read_parquet(path, content)
    else:
        header = "barcode" in _first_fields(content)
        table = read_table(path, _POSITIONS, separator=",", text=["barcode"], header=header)
    barcodes = table["barcode"].tolist()
    _check_names(barcodes, "barcode", path)
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


def _first_fields(content: bytes) -> list[str]:
    line = re.split(rb"[\r\n]", content.removeprefix(b"\xef\xbb\xbf"), maxsplit=1)[0]
    try:
        return next(csv.reader([line.decode("utf-8", "replace")]), [])
    except csv.Error:
        return []


def _read_parquet(path: Path, content: bytes) -> pd.DataFrame:
    try:
        file = pa.parquet.ParquetFile(pa.BufferReader(content))
        if file.metadata.num_rows > _MAX_ROWS:
            raise DataError(f"{path}: more than {_MAX_ROWS:,} rows")
        types = [file.schema_arrow.field(name).type for name in _POSITIONS]
        if not all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in types[1:]):
            raise DataError(f"{path}: a column that must be numbers is not")
        table: pd.DataFrame = file.read(columns=list(_POSITIONS)).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a Parquet file of positions ({one_line(error, 120)})"
        ) from error
    return table.assign(barcode=[str(barcode or "") for barcode in table["barcode"]])


def _read_labels(path: Path, barcodes: pd.Index) -> np.ndarray:
    """Label of each barcode, "" where the file has none."""
    fields = _first_fields(read_bytes(path))
    barcode = next((name for name in ("barcode", "Barcode", "") if name in fields), None)
    label = next((name for name in ("label", "Classification") if name in fields), None)
    if barcode is None or label is None:
        raise DataError(
            f"{path}: needs comma-separated columns 'barcode' (or one without a name) and 'label'"
            " (or 'Classification')"
        )
    table = read_table(path, [barcode, label], separator=",", text=[barcode, label])
    if len(table):
        _check_names(table[barcode].tolist(), "barcode", path)
        if not barcodes.isin(table[barcode]).any():
            raise DataError(f"{path}: no barcode in common with the counts")
    labels = table.set_index(barcode)[label]
    return labels.reindex(barcodes).fillna("").astype(str).to_numpy()
