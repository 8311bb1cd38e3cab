"""Columns, names and libraries of an AnnData file, and the section that its columns make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from bench.readers import LEFT_OUT, DataError, Hdf5File, array_of_grid, unique_names

DIVIDING = "library_id"
"""Column of ``obs`` that tells the sections of a file apart unless another is named."""


COORDINATES = ("obsm/spatial", "obsm/X_spatial")
"""Places of the pixel coordinates of the spots, the first that exists counts."""

_MAX_POSITION = 10**9


def image_libraries(file: Hdf5File) -> list[str]:
    """Names under which the file keeps images."""
    if file.kind("uns/spatial") != "group":
        return []
    return [n for n in file.names("uns/spatial") if file.kind(f"uns/spatial/{n}") == "group"]


def sections_of_spots(file: Hdf5File, by: str) -> np.ndarray | None:
    """Section of each spot as a column says, None where there is no such column."""
    if "/" in by or file.kind(f"obs/{by}") is None:
        return None
    values = read_column(file, "obs", by, len(read_index(file, "obs")))
    return None if values is None else as_texts(values)


def read_index(file: Hdf5File, frame: str) -> list[str]:
    """Names of the rows of a data frame of the file, ``obs`` or ``var``."""
    if file.kind(frame) != "group":
        raise DataError(
            f"{file.path}: has no group '{frame}'; if an old anndata wrote it, read it with"
            " anndata.read_h5ad and write it again"
        )
    name = file.attribute(frame, "_index")
    place = f"{frame}/{name if isinstance(name, str) else '_index'}"
    gaps = str(file.attribute(place, "encoding-type")).startswith("nullable-")
    if file.kind(place) != ("group" if gaps else "data set"):
        raise DataError(f"{file.path}: has no data set '{place}', the index of '{frame}'")
    names = file.values(place)
    if not all(isinstance(one, str) for one in names):
        raise DataError(f"{file.path}: '{place}' is not a list of text, or a name is missing")
    return [str(one) for one in names]


def read_column(file: Hdf5File, frame: str, column: str, rows: int) -> np.ndarray | None:
    """A column as objects, None where a value is missing; None where there is no such column."""
    name = f"{frame}/{column}"
    if file.kind(name) is None:
        if column in np.atleast_1d(file.attribute(frame, "column-order")):
            raise DataError(f"{file.path}: damaged, '{frame}' lists '{column}' but lacks it")
        return None
    values = file.values(name)
    # Before anndata 0.8 a column held codes, and its categories lay beside the columns.
    old = f"{frame}/__categories/{column}"
    if file.kind(old) is not None:
        categories = file.values(old)
        codes = values.to_numpy()
        if codes.dtype.kind not in "iu" or not (
            len(codes) == 0 or -1 <= int(codes.min()) <= int(codes.max()) < len(categories)
        ):
            raise DataError(f"{file.path}: '{name}' names a category that there is not")
        # Code -1, a missing value, takes the last.
        words = np.array([*categories.tolist(), None], dtype=object)
        values = pd.Series(words[codes.astype(np.int64)], dtype=object)
    if len(values) != rows:
        raise DataError(f"{file.path}: '{name}' has {len(values)} values for {rows} rows")
    objects = values.astype(object).to_numpy()
    objects[values.isna().to_numpy()] = None
    return np.asarray(objects)


def as_texts(values: np.ndarray) -> np.ndarray:
    """Values of a column as text, empty where one is missing."""
    return np.array(["" if pd.isna(value) else str(value) for value in values], dtype=object)


def as_numbers(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Numbers of a column, which some writers keep as text or categories."""
    truths = {"true": 1, "false": 0}
    values = np.array(
        [truths.get(v.strip().lower(), v) if isinstance(v, str) else v for v in values], object
    )
    try:
        numbers = pd.to_numeric(pd.Series(values)).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        raise DataError(f"{path}: obs column '{name}' is not numeric") from None
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: obs column '{name}' has a value that is missing or not finite")
    return np.asarray(numbers)


SPOT_COLUMNS = ("in_tissue", "array_row", "array_col", "label")
"""Columns of ``obs`` that a section is made of, where a file has them."""


def section_of_spots(
    path: Path,
    names: Sequence[str],
    pixels: np.ndarray,
    columns: Mapping[str, np.ndarray | None],
    own: np.ndarray,
    counts: Callable[[np.ndarray], tuple[sp.csr_matrix, list[str], dict[str, int]]],
) -> AnnData:
    """One section of a table, its spots out of tissue left out and counted.

    Parameters
    ----------
    path
        File, for messages.
    names, pixels
        Name and full-resolution pixel (x, y) of each row of the table.
    columns
        Values of :data:`SPOT_COLUMNS`, None for those that the table lacks.
    own
        (rows,) bool: rows of the section.
    counts
        Gives for row numbers the counts, the symbols of the genes, and what is left out by reason.

    Raises
    ------
    DataError
        No spot in the tissue, or two at one place of the array.
    """
    in_tissue = in_tissue_of(columns["in_tissue"], len(names), path)
    inside = np.flatnonzero(own & in_tissue)
    if not len(inside):
        raise DataError(f"{path}: no spot of the section lies in the tissue")
    matrix, genes, left_out = counts(inside)
    left_out["spots out of tissue"] = int((own & ~in_tissue).sum())
    row, column = columns["array_row"], columns["array_col"]
    if row is not None and column is not None:
        rows, cols = (array_coordinates(values, path)[inside] for values in (row, column))
    else:
        rows, cols = array_of_grid(pixels[inside], str(path))
    if pd.MultiIndex.from_arrays([rows, cols]).has_duplicates:
        raise DataError(f"{path}: two spots have the same array_row and array_col")
    labels = columns["label"]
    obs = pd.DataFrame(
        {
            "array_row": rows,
            "array_col": cols,
            "in_tissue": np.ones(len(inside), dtype=np.int64),
            "label": "" if labels is None else as_texts(labels)[inside],
        },
        index=pd.Index([names[spot] for spot in inside.tolist()], dtype=object),
    )
    return AnnData(
        X=matrix,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(unique_names(genes))),
        obsm={"spatial": pixels[inside]},
        uns={LEFT_OUT: {reason: number for reason, number in left_out.items() if number}},
    )


def in_tissue_of(values: np.ndarray | None, spots: int, path: Path) -> np.ndarray:
    """(spots,) bool: spots that lie in the tissue."""
    if values is None:
        return np.ones(spots, dtype=bool)
    numbers = as_numbers(values, "in_tissue", path)
    if not np.isin(numbers, [0, 1]).all():
        raise DataError(f"{path}: obs column 'in_tissue' must be 0 or 1")
    if not numbers.any():
        raise DataError(f"{path}: obs column 'in_tissue' says that no spot lies in the tissue")
    return numbers == 1


def array_coordinates(values: np.ndarray, path: Path) -> np.ndarray:
    """(spots,) int64 rows or columns of the array."""
    numbers = as_numbers(values, "array_row or array_col", path)
    if (numbers != np.rint(numbers)).any() or (np.abs(numbers) > _MAX_POSITION).any():
        raise DataError(f"{path}: an array coordinate is no whole number or beyond {_MAX_POSITION}")
    return numbers.astype(np.int64)
