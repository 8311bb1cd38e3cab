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

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from bench.datasets.space_ranger.matrix import read_matrix
from bench.readers import (
    LEFT_OUT,
    DataError,
    check_names,
    first_fields,
    read_bytes,
    read_json,
    read_positions,
    read_table,
    unique_names,
)

ROLES = ("counts", "positions")
"""Files without which a section cannot be read."""

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
    counts, barcodes, genes, left_out = read_matrix(files, genome)
    path = files["positions"]
    positions = read_positions(path)
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
    content = read_json(path)
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


def _read_labels(path: Path, barcodes: pd.Index) -> np.ndarray:
    """Label of each barcode, "" where the file has none."""
    fields = first_fields(read_bytes(path))
    barcode = next((name for name in ("barcode", "Barcode", "") if name in fields), None)
    label = next((name for name in ("label", "Classification") if name in fields), None)
    if barcode is None or label is None:
        raise DataError(
            f"{path}: needs comma-separated columns 'barcode' (or one without a name) and 'label'"
            " (or 'Classification')"
        )
    table = read_table(path, [barcode, label], separator=",", text=[barcode, label])
    if len(table):
        check_names(table[barcode].tolist(), "barcode", path)
        if not barcodes.isin(table[barcode]).any():
            raise DataError(f"{path}: no barcode in common with the counts")
    labels = table.set_index(barcode)[label]
    return labels.reindex(barcodes).fillna("").astype(str).to_numpy()
