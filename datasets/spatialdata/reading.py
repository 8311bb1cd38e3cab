"""Reading of the spots of one section from a SpatialData store.

Counts are taken from ``layers["counts"]``, ``layers["raw_counts"]``, ``X`` or ``raw.X`` of the
table (the first that holds whole numbers), and of ``obs`` the columns ``in_tissue``, ``array_row``,
``array_col`` and ``label``, as from AnnData files. The places of the spots are the centres of the
shapes that the table annotates, else ``obsm["spatial"]``, in pixels of the section's image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from bench.datasets.h5ad.columns import SPOT_COLUMNS, as_texts, section_of_spots
from bench.datasets.spatialdata.store import (
    Picture,
    Spots,
    Store,
    moved,
    open_store,
    quiet,
    sections_of,
    size_of,
    to_image,
)
from bench.readers import (
    DataError,
    expressed_genes,
    sparse_counts,
    whole_counts,
)

ROLES = ("counts",)
"""Files without which a section cannot be read: the folder of the store."""

_LAYERS = ("counts", "raw_counts")


def read(
    files: Mapping[str, Path],
    *,
    table: str | None = None,
    region: str | None = None,
    image: str | None = None,
    system: str | None = None,
    level: int = 0,
    genome: str | None = None,
) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts``, the folder of the store.
    table, region
        Table, and the shapes that it annotates; needed where the store holds several sections.
    image, system
        Image and coordinate system in which the spots are placed; without them, spots stay in the
        coordinates in which they are stored.
    level
        Scale of the image that is used; the spots do not depend on it.
    genome
        Genome whose genes are kept where the reference holds several.

    Returns
    -------
    AnnData
        Raw counts (spots x genes, CSR int32) in the order of the table; ``obsm["spatial"]`` in
        full-resolution pixels, see :func:`frame`.

    Raises
    ------
    DataError
        No SpatialData store, or a damaged or hostile one; no such section; no raw counts.
    """
    path = files["counts"]
    store = open_store(path)
    spots = _chosen(store, table, region)
    with quiet(path):
        return _section(store, spots, image, system, genome)


def _chosen(store: Store, table: str | None, region: str | None) -> Spots:
    sections, reasons = sections_of(store)
    fitting = [
        one
        for one in sections
        if (table is None or one.table == table) and (region is None or one.region == region)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        why = f" ({'; '.join(reasons)[:200]})" if reasons else ""
        raise DataError(f"{store.path}: has no table with the spots of this section{why}")
    names = [one.region or one.table for one in fitting]
    raise DataError(
        f"{store.path}: holds {len(names)} sections ('{names[0][:40]}', '{names[1][:40]}', ...);"
        " name table and region in the settings of the section"
    )


def frame(spots: Spots, picture: Picture | None, system: str | None) -> tuple[np.ndarray, float]:
    """Full-resolution pixels of a section, and the scale of its image in them.

    They are the pixels of the image's largest scale. If that is a reduced image, on which the
    spots' own coordinates are reduced too, they are larger by the same factor: the hires image of
    Space Ranger is then a reduced one, and its spots keep the pixels of the full one.

    Returns
    -------
    tuple of (3, 3) float64 array and float
        Matrix from the spots' coordinates to the pixels; pixels of the largest scale a pixel.
    """
    if picture is None or system is None:
        return np.eye(3), 1.0
    matrix = to_image(spots, picture, system)
    scale = size_of(matrix)
    if scale >= 1 - 1e-6:
        return matrix, 1.0
    full = matrix.copy()
    full[:2] /= scale
    return full, scale


def _section(
    store: Store, spots: Spots, image: str | None, system: str | None, genome: str | None
) -> AnnData:
    path, table = store.path, store.tables[spots.table]
    picture = None
    if image is not None:
        picture = store.pictures.get(image)
        if picture is None or system not in picture.systems or system not in spots.systems:
            raise DataError(
                f"{path}: image '{image[:40]}' and the spots share no coordinate system"
                f" '{str(system)[:40]}'"
            )
    pixels = moved(spots.xy, frame(spots, picture, system)[0])
    obs = table.obs.iloc[spots.rows]
    names = [str(name) for name in obs.index]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a spot of table '{spots.table[:40]}' occurs more than once")
    return section_of_spots(
        path,
        names,
        pixels,
        {name: _column(obs, name) for name in SPOT_COLUMNS},
        np.ones(len(obs), dtype=bool),
        lambda rows: _raw_counts(table, spots.rows[rows], genome, str(path)),
    )


def _column(obs: pd.DataFrame, name: str) -> np.ndarray | None:
    """A column as objects, None where a value is missing; None where there is no such column."""
    if name not in obs:
        return None
    values = obs[name].astype(object).to_numpy()
    values[obs[name].isna().to_numpy()] = None
    return np.asarray(values)


def _raw_counts(
    table: AnnData, rows: np.ndarray, genome: str | None, where: str
) -> tuple[sp.csr_matrix, list[str], dict[str, int]]:
    """Raw counts, the names of their genes, and the features left out by reason."""
    places = [(f"layers['{n}']", table.layers[n], table.var) for n in _LAYERS if n in table.layers]
    if table.X is not None:
        places.append(("X", table.X, table.var))
    if table.raw is not None:
        places.append(("raw.X", table.raw.X, table.raw.var))
    reasons = []
    for place, held, var in places:
        try:
            counts = _matrix(held, f"{where}, {place}")
        except DataError as error:
            if place.startswith("layers"):
                raise
            reasons.append(str(error).removeprefix(f"{where}, "))
            continue
        names = [str(name) for name in var.index]
        if "" in names:
            raise DataError(f"{where}: gene {names.index('') + 1} has no name")
        types = _column(var, "feature_types")
        kept, symbols, left_out = expressed_genes(
            names, None if types is None else list(as_texts(types)), where, genome=genome
        )
        return counts[rows][:, kept], symbols, left_out
    raise DataError(
        f"{where}: raw counts are needed in layers['counts'], X or raw.X"
        f" ({'; '.join(reasons)[:200] or 'none of these is there'})"
    )


def _matrix(held: Any, where: str) -> sp.csr_matrix:
    if sp.issparse(held) and held.format in ("csr", "csc"):
        shape = held.shape if held.format == "csr" else held.shape[::-1]
        counts = sparse_counts(held.data, held.indices, held.indptr, shape, where)
        return counts if held.format == "csr" else counts.T.tocsr()
    if isinstance(held, np.ndarray) and held.ndim == 2:
        return sp.csr_matrix(whole_counts(held, where))
    raise DataError(f"{where}: is neither a dense nor a sparse matrix")
