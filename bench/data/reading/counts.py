"""Raw counts from a file: checked, and as a matrix of spots by genes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import DataError

if TYPE_CHECKING:
    import scipy.sparse as sp

# More molecules than all reads of a section: such a count is another type's bits.
_MAX_COUNT = 10**8


def whole_counts(values: np.ndarray, where: str) -> np.ndarray:
    """Counts as int32, whatever number type a file holds them in.

    Parameters
    ----------
    values
        Numbers of any shape.
    where
        File and the data set in it, for the message.

    Returns
    -------
    int32 array of the same shape

    Raises
    ------
    DataError
        A value is not finite, negative, fractional, or beyond 10^8.
    """
    if values.dtype.kind not in "iuf":
        raise DataError(f"{where}: holds {values.dtype}, counts must be numbers")
    if values.size:
        if not np.isfinite(values).all():
            raise DataError(f"{where}: a count is not finite")
        if values.min() < 0:
            raise DataError(f"{where}: a count is negative")
        if values.max() > _MAX_COUNT:
            raise DataError(f"{where}: a count is beyond 10^8; no spot holds so many")
        if values.dtype.kind == "f" and np.any(values != np.rint(values)):
            raise DataError(f"{where}: a count is fractional; raw counts are needed")
    return values.astype(np.int32)


def sparse_counts(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    shape: tuple[int, int],
    where: str,
) -> sp.csr_matrix:
    """Counts from the three arrays of a compressed sparse matrix.

    Parameters
    ----------
    data, indices
        (entries,) counts, and the column of each.
    indptr
        (rows + 1,) where each row begins in them.
    shape
        Rows and columns.
    where
        File and the data set in it, for the message.

    Returns
    -------
    csr_matrix
        int32, without stored zeros, columns ascending in each row.

    Raises
    ------
    DataError
        The arrays do not fit together, name a column that there is not or one twice in a row, or
        hold what is no count.
    """
    import scipy.sparse as sp

    rows, columns = shape
    if len(data) != len(indices):
        raise DataError(f"{where}: {len(data)} counts, but {len(indices)} indices")
    if len(indptr) != rows + 1:
        raise DataError(f"{where}: {len(indptr) - 1} rows begin, the shape says {rows}")
    # Compared, not subtracted: a difference of unsigned numbers is never negative.
    if int(indptr[0]) != 0 or int(indptr[-1]) != len(data) or np.any(indptr[1:] < indptr[:-1]):
        raise DataError(f"{where}: indptr does not ascend from 0 to {len(data)}")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= columns):
        raise DataError(f"{where}: an index is outside of the {columns} columns")
    matrix = sp.csr_matrix(
        (whole_counts(data, where), indices.astype(np.int64), indptr.astype(np.int64)), shape=shape
    )
    matrix.sort_indices()
    starts_row = np.zeros(len(data) + 1, dtype=bool)
    starts_row[matrix.indptr] = True
    twice = (matrix.indices[1:] == matrix.indices[:-1]) & ~starts_row[1 : len(data)]
    if twice.any():
        raise DataError(f"{where}: a row holds the same index twice")
    matrix.eliminate_zeros()
    return matrix


def unique_names(names: Sequence[str]) -> list[str]:
    """Gene symbols, with those that occur again told apart.

    The second ``SYMBOL`` becomes ``SYMBOL-1``, the third ``SYMBOL-2``: what scanpy's
    ``var_names_make_unique`` makes of them, so that no gene is lost and names match other work.

    Parameters
    ----------
    names
        Gene symbols; some may occur several times.

    Returns
    -------
    list of str
        Different names in the same order.

    Examples
    --------
    >>> unique_names(["TBCE", "HSPA14", "TBCE"])
    ['TBCE', 'HSPA14', 'TBCE-1']
    """
    import pandas as pd
    from anndata.utils import make_index_unique

    with warnings.catch_warnings():
        # It warns where a name already looks like one that it made, which it then avoids.
        warnings.simplefilter("ignore", UserWarning)
        return [str(name) for name in make_index_unique(pd.Index(list(names)))]


def check_names(names: Sequence[str], kind: str, path: Path) -> None:
    """Refuse names of which none is there, one is empty or one occurs twice.

    Parameters
    ----------
    names
        Names of spots or genes.
    kind
        What they name, for the message.
    path
        File, for the message.

    Raises
    ------
    DataError
        No name, an empty name, or a name that occurs twice.
    """
    if not names:
        raise DataError(f"{path}: empty, at least one {kind} is needed")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: {kind} '{name[:40]}' occurs more than once")
    if "" in names:
        raise DataError(f"{path}: a {kind} is empty")
