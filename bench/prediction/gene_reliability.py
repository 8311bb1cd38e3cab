"""What the stored scores of a run say about each gene it predicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.evaluate.metrics import nanmean
from bench.evaluate.uncertainty import bootstrap_interval
from bench.prediction import MIN_PCC
from bench.stored_runs import StoredRun


def gene_reliability(
    run: StoredRun, genes: Sequence[str], threshold: float = MIN_PCC
) -> pd.DataFrame:
    """Scores of genes on the test sections of all finished folds.

    Parameters
    ----------
    run
        The run.
    genes
        Genes, in the order of the rows.
    threshold
        PCC from which a gene counts as predictable.

    Returns
    -------
    DataFrame
        Index `genes`. ``pcc``: mean over test sections; ``pcc_low``, ``pcc_high``: its 95 %
        interval over patients (NaN with fewer than two); ``ceiling``: mean noise ceiling;
        ``share_of_ceiling``: quotient of the two, NaN where the ceiling is not above 0;
        ``sections``: sections in which the PCC is defined; ``predictable``: whether ``pcc`` is
        `threshold` or more. A gene that no test section scored is not predictable.
    """
    table = run.genes()
    by_gene = {str(gene): rows for gene, rows in table.groupby("gene", sort=False)}
    nothing = table.iloc[:0]
    rows = [_row(by_gene.get(gene, nothing)) for gene in genes]
    columns = ["pcc", "pcc_low", "pcc_high", "ceiling", "share_of_ceiling", "sections"]
    scores = pd.DataFrame(rows, columns=columns, index=pd.Index(list(genes), dtype=object))
    scores["sections"] = scores["sections"].astype(np.int64)
    scores["predictable"] = (scores["pcc"] >= threshold).to_numpy()
    return scores


def best_first(var: pd.DataFrame) -> list[str]:
    """Genes by descending PCC on unseen sections, those without one last.

    Parameters
    ----------
    var
        Table of :func:`gene_reliability`.
    """
    ranked = var["pcc"].sort_values(ascending=False, na_position="last", kind="stable")
    return [str(gene) for gene in ranked.index]


def _row(scored: pd.DataFrame) -> tuple[float, float, float, float, float, int]:
    values = scored["pcc"].to_numpy(dtype=np.float64)
    if not np.isfinite(values).any():
        return (np.nan, np.nan, np.nan, np.nan, np.nan, 0)
    low, high = bootstrap_interval(values, scored["patient"].astype(str).tolist())
    pcc, ceiling = nanmean(values), nanmean(scored["ceiling"].to_numpy(dtype=np.float64))
    share = pcc / ceiling if ceiling > 0 else np.nan
    return (pcc, low, high, ceiling, share, int(np.isfinite(values).sum()))
