"""AnnData files whose gene symbols lie in a column of ``var``, beside names such as Ensembl ids.

All else is read as from other AnnData files; see :mod:`bench.datasets.h5ad`. It is a layout of its
own so that datasets that need no column keep the keys of their results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from anndata import AnnData

from bench.datasets import h5ad
from bench.datasets.h5ad import ROLES, embedded_image
from bench.datasets.h5ad.columns import DIVIDING, as_texts, read_column, read_index
from bench.readers import (
    LEFT_OUT,
    DataError,
    FoundSection,
    Hdf5File,
    expressed_genes,
    open_hdf5,
    unique_names,
)

__all__ = ["ROLES", "discover", "embedded_image", "read"]


def read(
    files: Mapping[str, Path],
    *,
    gene_column: str,
    library: str | None = None,
    by: str = DIVIDING,
    genome: str | None = None,
    tissue_only: bool = True,
) -> AnnData:
    """Read one section; see :func:`bench.datasets.h5ad.read`.

    Parameters
    ----------
    files, library, by, genome, tissue_only
        As there.
    gene_column
        Column of ``var`` with the gene symbols. A gene without a symbol keeps its name.

    Returns
    -------
    AnnData
        As there, with the symbols as names of the genes.

    Raises
    ------
    DataError
        As there; or there is no such column.
    """
    path = files["counts"]
    adata = h5ad.read(files, library=library, by=by, tissue_only=tissue_only)
    with open_hdf5(path) as file:
        symbols = _symbols(file, [str(name) for name in adata.var_names], gene_column)
    kept, symbols, left_out = expressed_genes(symbols, None, str(path), genome=genome)
    adata = adata[:, kept].copy()
    adata.var_names = unique_names(symbols)
    adata.uns[LEFT_OUT] = {**adata.uns.get(LEFT_OUT, {}), **left_out}
    return adata


def _symbols(file: Hdf5File, genes: list[str], column: str) -> list[str]:
    """Symbol of each gene, from the data frame that names all of them."""
    columns: set[str] = set()
    for frame in ("var", "raw/var"):
        if file.kind(frame) != "group":
            continue
        names = unique_names(read_index(file, frame))
        if not set(genes) <= set(names):
            continue
        columns |= {name for name in file.names(frame) if not name.startswith("_")}
        values = None if "/" in column else read_column(file, frame, column, len(names))
        if values is not None:
            texts = [text.strip() for text in as_texts(values)]
            of_name = dict(zip(names, texts, strict=True))
            return [of_name[gene] or gene for gene in genes]
    there = ", ".join(sorted(columns)[:8]) or "none"
    raise DataError(f"{file.path}: var has no column '{column[:40]}'; its columns: {there[:300]}")


def discover(
    folder: Path,
    *,
    gene_column: str | None = None,
    by: str | None = None,
    genome: str | None = None,
) -> list[FoundSection]:
    """Sections in a folder, as :func:`bench.datasets.h5ad.discover` finds them.

    Parameters
    ----------
    folder, by, genome
        As there.
    gene_column
        Column of ``var`` with the gene symbols; no section is found where None.

    Returns
    -------
    list of FoundSection
        Sections with the column among their settings.
    """
    if gene_column is None:
        return []
    return [
        section
        if section.missing
        else replace(section, settings={**section.settings, "gene_column": gene_column})
        for section in h5ad.discover(folder, by=by, genome=genome)
    ]
