"""Correlation of every gene under every row, in pieces that a page without a server can load.

A browser reads no JSON file beside a page that it has opened as a file. It runs scripts, so each
piece is a script with one call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.report.seeds import SeedRuns
from bench.report.site_content import Ranking

SCALE = 1000
"""Correlations are given in thousandths, as whole numbers."""

_PIECE = 400_000
"""Values of a piece at most: some 2 MB of text."""

_MOST_GENES = 50


@dataclass(frozen=True, eq=False)
class GeneMatrix:
    """Mean correlation of each gene over test sections, by row.

    Attributes
    ----------
    genes
        Names, the best predicted by the methods first.
    pcc : (genes, rows) float32; NaN where undefined or not predicted
    ceiling, mean : (genes,) noise ceiling; mean over the methods, of all rows where none is one
    """

    genes: tuple[str, ...]
    pcc: np.ndarray
    ceiling: np.ndarray
    mean: np.ndarray

    @property
    def in_piece(self) -> int:
        """Genes of one piece."""
        return max(1, min(_MOST_GENES, _PIECE // max(1, self.pcc.shape[1])))

    def overview(self) -> dict[str, Any]:
        """What the page itself holds: names, means, ceilings."""
        return {
            "genes": list(self.genes),
            "mean": _thousandths(self.mean),
            "ceiling": _thousandths(self.ceiling),
            "piece": self.in_piece,
        }

    def pieces(self) -> Iterator[str]:
        """Scripts with the values of some genes each, in their order."""
        for number, first in enumerate(range(0, len(self.genes), self.in_piece)):
            rows = [_thousandths(of_gene) for of_gene in self.pcc[first : first + self.in_piece]]
            text = json.dumps(rows, separators=(",", ":"), allow_nan=False)
            yield f"SpotBench.genes({number},{text});\n"


def _thousandths(values: np.ndarray) -> list[int | None]:
    whole = np.rint(np.nan_to_num(values.astype(np.float64)) * SCALE).astype(int).tolist()
    return [
        None if missing else value
        for value, missing in zip(whole, np.isnan(values).tolist(), strict=True)
    ]


def gene_matrix(ranking: Ranking) -> GeneMatrix:
    """Matrix of all genes of a ranking's rows."""
    columns, ceilings = [], []
    for line in ranking.lines:
        pcc, ceiling = _means(line)
        columns.append(pcc)
        ceilings.append(ceiling)
    genes = sorted(set().union(*(column.index for column in columns)))
    values = np.full((len(genes), len(columns)), np.nan, dtype=np.float32)
    limits = np.full(len(genes), np.nan)
    place = {gene: number for number, gene in enumerate(genes)}
    for number, (column, ceiling) in enumerate(zip(columns, ceilings, strict=True)):
        at = [place[gene] for gene in column.index]
        values[at, number] = column.to_numpy()
        own = ceiling.to_numpy()
        limits[at] = np.where(np.isnan(limits[at]), own, limits[at])
    methods = np.array([kind == "method" for kind in ranking.kinds])
    of_methods = values[:, methods] if methods.any() else values
    defined = ~np.isnan(of_methods)
    counts = defined.sum(axis=1)
    sums = np.where(defined, of_methods, 0.0).sum(axis=1)
    mean = np.divide(sums, counts, out=np.full(len(genes), np.nan), where=counts > 0)
    order = np.lexsort((np.array(genes), -np.nan_to_num(mean, nan=-2.0)))
    return GeneMatrix(
        tuple(genes[number] for number in order), values[order], limits[order], mean[order]
    )


def _means(line: SeedRuns) -> tuple[pd.Series, pd.Series]:
    """Mean correlation and ceiling of each gene over sections, folds and seeds."""
    parts = [run.gene_columns() for run in line.done]
    names, pcc, ceiling = (np.concatenate(of) for of in zip(*parts, strict=True))
    codes, genes = pd.factorize(names)
    return tuple(_mean_by(codes, genes, values) for values in (pcc, ceiling))  # type: ignore[return-value]


def _mean_by(codes: np.ndarray, genes: np.ndarray, values: np.ndarray) -> pd.Series:
    defined = ~np.isnan(values)
    counts = np.bincount(codes[defined], minlength=len(genes))
    sums = np.bincount(codes[defined], weights=values[defined], minlength=len(genes))
    means = np.divide(sums, counts, out=np.full(len(genes), np.nan), where=counts > 0)
    return pd.Series(means, index=genes)
