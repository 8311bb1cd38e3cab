"""Reader of AnnData files (``.h5ad``), as scanpy, squidpy and others write them.

A file, ``counts``, holds one section or several that a column of ``obs`` tells apart: raw counts in
``layers["counts"]``, ``layers["raw_counts"]``, ``X`` or ``raw.X`` (the first of these that holds
whole numbers), and full-resolution pixel (x, y) in ``obsm["spatial"]`` (or ``"X_spatial"``). Of
``obs`` are read, where it has them: ``in_tissue`` (spots outside of it are left out),
``array_row`` and ``array_col``, ``label``. Without array coordinates, spots must stand on a square
or hexagonal grid, whose columns and rows are then counted. Features whose ``var["feature_types"]``
is not gene expression, and control probes, are left out. ``uns["left_out"]`` counts what is left
out by reason. A gene name that occurs again becomes ``SYMBOL-1``, ``SYMBOL-2``, as scanpy's
``var_names_make_unique`` names it.

Only what is named here is read, element by element and by anndata, after a check that nothing in
the file is unpickled, followed to another file or larger than the file can hold.

Format: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from bench.datasets.h5ad.columns import (
    COORDINATES,
    DIVIDING,
    SPOT_COLUMNS,
    as_numbers,
    as_texts,
    image_libraries,
    read_column,
    read_index,
    section_of_spots,
    sections_of_spots,
)
from bench.readers import (
    DataError,
    Hdf5File,
    expressed_genes,
    open_hdf5,
    sparse_counts,
    whole_counts,
)

ROLES = ("counts",)
"""Files without which a section cannot be read."""

_PLACES = (
    ("layers/counts", "var"),
    ("layers/raw_counts", "var"),
    ("X", "var"),
    ("raw/X", "raw/var"),
)


_XY = (
    ("x", "y"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("imagecol", "imagerow"),
    ("pixel_x", "pixel_y"),
    ("x_centroid", "y_centroid"),
    ("col", "row"),
)
"""Names of the columns of x and y where coordinates are a data frame."""


def read(
    files: Mapping[str, Path],
    *,
    library: str | None = None,
    by: str = DIVIDING,
    genome: str | None = None,
    tissue_only: bool = True,
) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts``.
    library
        Section of a file that holds several: its value in column `by` of ``obs``.
    by
        Column that tells sections apart.
    genome
        Genome whose genes are kept where the reference holds several.
    tissue_only
        Leave out spots that ``in_tissue`` places outside of the tissue.

    Returns
    -------
    AnnData
        Raw counts (spots x genes, CSR int32) in the order of the file.

    Raises
    ------
    DataError
        The file is missing, damaged, holds several sections, or lacks raw counts or coordinates.
    """
    path = files["counts"]
    with open_hdf5(path) as file:
        spots = read_index(file, "obs")
        _check_unique(spots, path)
        own, nowhere = _rows_of(file, by, library, len(spots))
        pixels = _pixels(file, len(spots))
        counts, genes, left_out = _raw_counts(file, len(spots), genome)
        columns = {
            name: read_column(file, "obs", name, len(spots))
            for name in SPOT_COLUMNS
            if tissue_only or name != "in_tissue"
        }
    left_out[f"spots of the file without a value of {by[:40]}"] = nowhere
    return section_of_spots(
        path,
        spots,
        pixels,
        {"in_tissue": None, **columns},
        own,
        lambda rows: (counts[rows], genes, left_out),
    )


def _rows_of(file: Hdf5File, by: str, library: str | None, spots: int) -> tuple[np.ndarray, int]:
    """(spots,) bool: spots of the section that is read; number of spots of no section."""
    values = sections_of_spots(file, by)
    if library is not None:
        if values is None or library not in values:
            raise DataError(f"{file.path}: obs column '{by[:40]}' has no section '{library[:40]}'")
        return np.asarray(values == library), int((values == "").sum())
    several = sorted(set(values) - {""}) if values is not None else []
    if len(several) > 1 or (values is None and len(image_libraries(file)) > 1):
        named = several or image_libraries(file)
        raise DataError(
            f"{file.path}: holds {len(named)} sections ('{named[0][:40]}', '{named[1][:40]}',"
            f" ...); name the column of obs that tells them apart with --by, or write each to a"
            " file of its own"
        )
    return np.ones(spots, dtype=bool), 0


def _check_unique(spots: Sequence[str], path: Path) -> None:
    if not spots:
        raise DataError(f"{path}: empty, at least one spot is needed")
    name, times = Counter(spots).most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: spot '{name[:40]}' occurs more than once")


def _pixels(file: Hdf5File, spots: int) -> np.ndarray:
    place = next((one for one in COORDINATES if file.kind(one) is not None), None)
    if place is None:
        raise DataError(
            f"{file.path}: has no obsm['spatial']; full-resolution pixel (x, y) of the spots are"
            " needed there"
        )
    if file.kind(place) == "group":  # a data frame
        names = _xy_columns(list(np.atleast_1d(file.attribute(place, "column-order"))))
        pixels = np.column_stack(
            [
                as_numbers(file.values(f"{place}/{name}").to_numpy(), place, file.path)
                for name in names
            ]
        )
    else:
        pixels = file.numbers(place, dimensions=2).astype(np.float64)
    if pixels.shape[0] != spots or pixels.shape[1] < 2:
        raise DataError(
            f"{file.path}: obsm['spatial'] is {pixels.shape[0]} x {pixels.shape[1]}, {spots} x 2"
            " is needed"
        )
    if not np.isfinite(pixels).all():
        raise DataError(f"{file.path}: a coordinate in obsm['spatial'] is not finite")
    return pixels[:, :2]


def _xy_columns(columns: list[str]) -> list[str]:
    """Columns of x and y by their usual names, in either order, else the first two."""
    by_name = {str(name).lower(): str(name) for name in columns}
    for x, y in _XY:
        if x in by_name and y in by_name:
            return [by_name[x], by_name[y]]
    return [str(name) for name in columns[:2]]


def _raw_counts(
    file: Hdf5File, spots: int, genome: str | None
) -> tuple[sp.csr_matrix, list[str], dict[str, int]]:
    """Raw counts, the names of their genes, and the features left out by reason."""
    reasons = []
    for place, frame in _PLACES:
        if file.kind(place) is None:
            continue
        genes = read_index(file, frame)
        try:
            counts = _matrix(file, place, (spots, len(genes)))
        except DataError as error:
            if place.startswith("layers/"):
                raise
            reasons.append(str(error).removeprefix(f"{file.path}, "))
            continue
        if "" in genes:
            raise DataError(f"{file.path}: gene {genes.index('') + 1} of '{frame}' has no name")
        types = read_column(file, frame, "feature_types", len(genes))
        kept, symbols, left_out = expressed_genes(
            genes, None if types is None else list(as_texts(types)), str(file.path), genome=genome
        )
        return counts[:, kept] if left_out else counts, symbols, left_out
    raise DataError(
        f"{file.path}: raw counts are needed in layers['counts'], X or raw.X"
        f" ({'; '.join(reasons)[:200] or 'none of these is there'})"
    )


def _matrix(file: Hdf5File, place: str, shape: tuple[int, int]) -> sp.csr_matrix:
    where = f"{file.path}, {place}"
    if file.kind(place) == "data set":
        if file.shape(place) != shape:
            raise DataError(f"{where}: is {file.shape(place)}, {shape[0]} x {shape[1]} is needed")
        blocks = [sp.csr_matrix(whole_counts(block, where)) for block in file.blocks(place)]
        return sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix(shape, dtype=np.int32)
    encoding = file.attribute(place, "encoding-type") or file.attribute(place, "h5sparse_format")
    declared = file.attribute(place, "shape")
    if declared is None:
        declared = file.attribute(place, "h5sparse_shape")
    form = str(encoding).removesuffix("_matrix")
    if form not in ("csr", "csc") or not isinstance(declared, np.ndarray):
        raise DataError(f"{where}: is neither a dense nor a sparse matrix")
    if declared.tolist() != list(shape):
        raise DataError(f"{where}: is {declared.tolist()}, {shape[0]} x {shape[1]} is needed")
    counts = sparse_counts(
        file.numbers(f"{place}/data"),
        file.numbers(f"{place}/indices", "iu"),
        file.numbers(f"{place}/indptr", "iu"),
        shape if form == "csr" else shape[::-1],
        where,
    )
    return counts if form == "csr" else counts.T.tocsr()
