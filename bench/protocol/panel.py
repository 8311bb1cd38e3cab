"""Gene panels chosen inside a fold from its training sections alone."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.data.section import Section
from bench.errors import BenchError
from bench.evaluate.spatial import morans_i
from bench.protocol.rules import Protocol

if TYPE_CHECKING:
    from anndata import AnnData

NEIGHBOURS = 6
"""Number of nearest spots in the weights of Moran's I."""

_GENES_AT_ONCE = 512  # as a dense array in memory


def choose_panel(
    sections: Sequence[Section], protocol: Protocol, among: Collection[str] | None = None
) -> tuple[str, ...]:
    """Panel of a fold from its training sections alone.

    Genes measured in all sections and detected in at least ``detected_share`` of their spots
    together; of these the ``panel_size`` best by the protocol's rule: ``hvg``, the most variable
    ones as scanpy ranks them with the section as batch; ``svg``, those of the highest Moran's I,
    averaged over the sections; ``expressed``, those of the highest mean. All three look at
    log(1 + 10,000 * count / total).

    Parameters
    ----------
    sections
        Training sections, including those for validation.
    protocol
        Rules with the size of the panel and the share of spots.
    among
        Genes that may be chosen; all where None.

    Returns
    -------
    tuple of str
        Genes in the order of the first section's columns.

    Raises
    ------
    BenchError
        No gene meets the criteria.
    """
    import anndata

    measured = set.intersection(*(set(section.adata.var_names) for section in sections))
    genes = [gene for gene in sections[0].adata.var_names if gene in measured]
    if not genes:
        raise BenchError("the training sections have no gene in common")
    if among is not None:
        genes = [gene for gene in genes if gene in among]
        if not genes:
            raise BenchError("training and test sections have no gene in common")
    pooled = anndata.concat(
        [section.adata[:, genes] for section in sections],
        label="section",
        keys=[section.name for section in sections],
        index_unique="-",
    )
    detected = np.asarray((pooled.X > 0).mean(axis=0)).ravel() >= protocol.detected_share
    if not detected.any():
        raise BenchError(
            f"no gene is detected in {protocol.detected_share:.0%} of the training spots"
        )
    pooled = pooled[:, detected].copy()
    if pooled.n_vars <= protocol.panel_size:
        return tuple(pooled.var_names)
    import scanpy  # the import takes seconds and is needed only to rank genes

    pooled.X = pooled.X.astype(np.float32)
    scanpy.pp.normalize_total(pooled, target_sum=1e4)
    scanpy.pp.log1p(pooled)
    if protocol.panel == "hvg":
        with warnings.catch_warnings():
            # scanpy 1.11 ranks with an indexing pattern for which pandas warns of a future change.
            warnings.simplefilter("ignore", FutureWarning)
            scanpy.pp.highly_variable_genes(
                pooled, n_top_genes=protocol.panel_size, batch_key="section"
            )
        return tuple(pooled.var_names[pooled.var["highly_variable"]])
    if protocol.panel == "svg":
        worth = _morans_i(pooled)
    else:
        worth = np.asarray(pooled.X.mean(axis=0), dtype=np.float64).ravel()
    best = np.sort(np.argsort(-worth, kind="stable")[: protocol.panel_size])
    return tuple(pooled.var_names[best])


def panel_by_totals(sections: Iterable[Section], protocol: Protocol) -> tuple[str, ...]:
    """Panel of a dataset: the genes of the highest total count, from the highest on.

    They are measured in all sections and detected in at least ``detected_share`` of all spots
    together; ``panel_size`` of them are taken, equal totals in the order of their names.

    Parameters
    ----------
    sections
        All sections of the dataset, looked at one after the other.
    protocol
        Rules with the size of the panel and the share of spots.

    Raises
    ------
    BenchError
        No gene meets the criteria.
    """
    totals: pd.Series | None = None
    detected: pd.Series | None = None
    spots = 0
    for section in sections:
        counts, genes = section.adata.X, section.adata.var_names
        own = (counts.sum(axis=0), (counts > 0).sum(axis=0))
        here, seen = (pd.Series(np.asarray(v, dtype=np.float64).ravel(), genes) for v in own)
        shared = genes if totals is None else totals.index.intersection(genes, sort=False)
        totals = here if totals is None else totals[shared] + here[shared]
        detected = seen if detected is None else detected[shared] + seen[shared]
        spots += section.adata.n_obs
    if totals is None or detected is None or totals.empty:
        raise BenchError("the sections have no gene in common")
    frequent = totals[detected >= protocol.detected_share * spots]
    if frequent.empty:
        raise BenchError(f"no gene is detected in {protocol.detected_share:.0%} of all spots")
    ranked = sorted(frequent.items(), key=lambda item: (-item[1], str(item[0])))
    return tuple(str(gene) for gene, _ in ranked[: protocol.panel_size])


def _morans_i(pooled: AnnData) -> np.ndarray:
    """(genes,) Moran's I on the nearest spots, averaged over the sections.

    Moran's I is undefined for a gene constant in a section, which is left out of its mean.
    """
    from sklearn.neighbors import kneighbors_graph

    of_sections = []
    for name in pooled.obs["section"].unique():
        section = pooled[pooled.obs["section"] == name]
        neighbours = min(NEIGHBOURS, section.n_obs - 1)
        graph = kneighbors_graph(np.asarray(section.obsm["spatial"]), neighbours)
        expression = section.X.tocsc()
        of_sections.append(
            np.concatenate(
                [
                    morans_i(expression[:, start : start + _GENES_AT_ONCE].toarray(), graph)
                    for start in range(0, section.n_vars, _GENES_AT_ONCE)
                ]
            )
        )
    values = np.array(of_sections, dtype=np.float64)
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), -np.inf)


def panel_columns(section: Section, panel: Sequence[str]) -> np.ndarray:
    """(panel,) int64 column of each panel gene in a section, -1 where it was not measured."""
    return section.adata.var_names.get_indexer(list(panel)).astype(np.int64)
