"""Noise ceilings of a whole dataset under a protocol, independent of any method."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.data.dataset import Dataset
from bench.evaluate.metrics import nanmean
from bench.execute.scoring import section_ceiling
from bench.protocol.fold_data import fold_data
from bench.protocol.folds import Folds
from bench.protocol.rules import Protocol


def gene_ceilings(
    dataset: Dataset, folds: Folds, protocol: Protocol, panel: tuple[str, ...] | None
) -> pd.DataFrame:
    """Ceiling of every panel gene in every test section.

    Returns
    -------
    DataFrame
        ``fold``, ``section``, ``patient``, ``gene``, ``heg``, ``ceiling``.
    """
    tables = []
    for fold in folds.folds:
        names = (*fold.train, *fold.validation, *fold.test)
        sections = {name: dataset.section(name) for name in names}
        data = fold_data(fold, sections, protocol, panel)
        tables += [
            pd.DataFrame(
                {
                    "fold": fold.index,
                    "section": truth.section,
                    "patient": truth.patient,
                    "gene": list(data.training.panel),
                    "heg": truth.heg,
                    "ceiling": section_ceiling(truth, protocol),
                }
            )
            for truth in data.truth
        ]
    return pd.concat(tables, ignore_index=True)


def section_ceilings(genes: pd.DataFrame) -> pd.DataFrame:
    """Means over the defined genes of each section, and last their mean over sections.

    Parameters
    ----------
    genes
        Table returned by :func:`gene_ceilings`.

    Returns
    -------
    DataFrame
        ``section``, ``patient``, ``fold``, ``ceiling_acg``, ``ceiling_heg``, ``genes``,
        ``undefined``; the last row is called ``all``.
    """
    rows = []
    for (fold, section, patient), part in genes.groupby(["fold", "section", "patient"], sort=False):
        values = part["ceiling"].to_numpy()
        rows.append(
            {
                "section": section,
                "patient": patient,
                "fold": fold,
                "ceiling_acg": nanmean(values),
                "ceiling_heg": nanmean(values[part["heg"].to_numpy()]),
                "genes": len(values),
                "undefined": int(np.isnan(values).sum()),
            }
        )
    table = pd.DataFrame(rows)
    overall = {
        "section": "all",
        "patient": "",
        "fold": "",
        "ceiling_acg": table["ceiling_acg"].mean(),
        "ceiling_heg": table["ceiling_heg"].mean(),
        "genes": table["genes"].max(),
        "undefined": table["undefined"].sum(),
    }
    return pd.concat([table.astype({"fold": object}), pd.DataFrame([overall])], ignore_index=True)
