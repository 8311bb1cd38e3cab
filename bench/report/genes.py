"""Genes that a run predicts well: ranking, marker sets, over-represented gene sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from bench.errors import DataError
from bench.files import listed
from bench.report.formats import Format, rounded, write_table
from bench.stored_runs import StoredRun

SIGNIFICANT = 0.05
LARGEST_LOG = 300.0
"""Cap of -log10 p: smaller p-values than 1e-300 cannot be told apart."""

_LARGEST_GMT = 200_000_000


def section_genes(run: StoredRun) -> pd.DataFrame:
    """Every gene in every test section of a run.

    Returns
    -------
    DataFrame
        Columns of ``genes.parquet``, with ``q_value``: Benjamini and Hochberg's adjustment over
        the genes of a section. Both rank genes and prove nothing: neighbouring spots are not
        independent.
    """
    table = run.genes()
    table["q_value"] = np.nan
    for rows in table.groupby(["fold", "section"]).groups.values():
        p = table.loc[rows, "p_value"].dropna()
        if len(p):
            table.loc[p.index, "q_value"] = stats.false_discovery_control(p.to_numpy())
    return table


def gene_ranking(run: StoredRun) -> pd.DataFrame:
    """Genes in the order of their mean -log10 p over sections, as the mclSTExp paper ranks them.

    Returns
    -------
    DataFrame
        ``rank``, ``gene``, ``sections``, ``mean_log10_p``, ``pcc``, ``pcc_best``,
        ``best_section``, ``ceiling``, ``significant`` (sections with q < 0.05 and a positive
        correlation). A gene undefined in every section comes last.
    """
    table = section_genes(run)
    evidence = -np.log10(table["p_value"].clip(lower=10.0**-LARGEST_LOG))
    # A correlation of the wrong sign is no evidence of a good prediction.
    table["log10_p"] = np.where(table["pcc"] > 0, evidence, np.where(evidence.isna(), np.nan, 0.0))
    table["significant"] = (table["q_value"] < SIGNIFICANT) & (table["pcc"] > 0)
    grouped = table.groupby("gene", sort=False)
    ranking = grouped.agg(
        sections=("pcc", "count"),
        mean_log10_p=("log10_p", "mean"),
        pcc=("pcc", "mean"),
        pcc_best=("pcc", "max"),
        ceiling=("ceiling", "mean"),
        significant=("significant", "sum"),
    )
    defined = table.dropna(subset="pcc")
    best = defined.loc[defined.groupby("gene")["pcc"].idxmax()].set_index("gene")["section"]
    ranking["best_section"] = best.reindex(ranking.index).fillna("")
    ranking = ranking.sort_values("mean_log10_p", ascending=False, kind="stable").reset_index()
    ranking.insert(0, "rank", np.arange(1, len(ranking) + 1))
    order = ["rank", "gene", "sections", "mean_log10_p", "pcc", "pcc_best", "best_section"]
    return ranking[[*order, "ceiling", "significant"]]


def read_gmt(path: Path) -> dict[str, frozenset[str]]:
    """Gene sets of a GMT file: name, description, genes, separated by tabs.

    Raises
    ------
    DataError
        Missing, too large, not text, or a line without genes or with a name that came before.
    """
    try:
        if path.stat().st_size > _LARGEST_GMT:
            raise DataError(f"{path}: larger than {_LARGEST_GMT // 10**6} MB; not a gene set file")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise DataError(f"{path}: cannot be read as a gene set file ({reason})") from error
    sets: dict[str, frozenset[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = frozenset(filter(None, rest[1:]))
        if not name or not genes:
            raise DataError(
                f"{path}, line {number}: write name, description and genes, tabs between"
            )
        if name in sets:
            raise DataError(f"{path}, line {number}: set '{name}' came before")
        sets[name] = genes
    if not sets:
        raise DataError(f"{path}: holds no gene set")
    return sets


def marker_sets() -> dict[str, frozenset[str]]:
    """Marker genes by set: those that the papers show, and canonical ones with mouse symbols."""
    return read_gmt(Path(str(files("bench.report") / "markers.gmt")))


def over_representation(
    best: Iterable[str], panel: Iterable[str], sets: Mapping[str, frozenset[str]]
) -> pd.DataFrame:
    """Gene sets over-represented among the best-predicted genes, relative to the panel.

    Parameters
    ----------
    best
        Best-predicted genes.
    panel
        All genes that they were selected from; other genes of a set are ignored.
    sets
        Genes by name of the set.

    Returns
    -------
    DataFrame
        ``set``, ``in_panel``, ``among_best``, ``expected``, ``p_value`` (hypergeometric, upper
        tail), ``q_value`` (Benjamini and Hochberg) and ``genes``, smallest p-value first. Sets
        without a panel gene are left out.
    """
    universe = set(panel)
    chosen = set(best) & universe
    rows = []
    for name, genes in sets.items():
        listed = genes & universe
        if not listed:
            continue
        hit = listed & chosen
        p = stats.hypergeom.sf(len(hit) - 1, len(universe), len(listed), len(chosen))
        rows.append(
            {
                "set": name,
                "in_panel": len(listed),
                "among_best": len(hit),
                "expected": len(listed) * len(chosen) / len(universe),
                "p_value": float(p),
                "genes": " ".join(sorted(hit)),
            }
        )
    columns = ["set", "in_panel", "among_best", "expected", "p_value", "q_value", "genes"]
    table = pd.DataFrame(rows, columns=[name for name in columns if name != "q_value"])
    table["q_value"] = stats.false_discovery_control(table["p_value"]) if len(table) else []
    return table[columns].sort_values(["p_value", "set"], kind="stable").reset_index(drop=True)


_PEOPLE = {"mean log10 p": "mean -log10 p", "pcc": "PCC", "pcc best": "best PCC"}
"""Headings for people, by those of the table."""

_HINT = "a wider terminal or --format csv shows all"


def render_genes(run: StoredRun, how: Format, *, top: int, title: str = "", width: int = 0) -> str:
    """The best-predicted genes as text, and below them every marker gene of the panel.

    Parameters
    ----------
    run
        A run with finished folds.
    how, title, width
        See :func:`bench.report.tables.render`.
    top
        Number of genes to list; csv and json contain all genes.
    """
    ranking = gene_ranking(run)
    belongs = {
        gene: ", ".join(sorted(name for name, genes in marker_sets().items() if gene in genes))
        for gene in ranking["gene"]
    }
    ranking["markers"] = ranking["gene"].map(belongs)
    people = ranking[(ranking["rank"] <= top) | (ranking["markers"] != "")]
    notes = [
        "Ranked by the mean over sections of -log10 p of a positive correlation; p-values take"
        " spots as independent, which neighbours are not: they rank genes and prove nothing.",
        "Significant: sections with a positive correlation and q < 0.05 (Benjamini and Hochberg"
        " over the genes of a section). Markers are listed whatever their rank.",
    ]
    shown = rounded(people).rename(columns=_PEOPLE)
    if not people["markers"].any():
        shown = shown.drop(columns="markers")
    return write_table(
        ranking,
        shown,
        notes,
        how,
        title=title,
        width=width,
        give_way=("best PCC", "best section", "sections", "mean -log10 p"),
        hint=_HINT,
    )


def render_sets(
    run: StoredRun, how: Format, *, top: int, gmt: Path | None, title: str = "", width: int = 0
) -> str:
    """Gene sets over-represented among the `top` best-predicted genes, as text.

    Raises
    ------
    DataError
        A gene set file that cannot be read, or none of whose genes is in the panel.
    """
    ranking = gene_ranking(run)
    sets = marker_sets() if gmt is None else read_gmt(gmt)
    best = ranking.loc[ranking["pcc"].notna(), "gene"].head(top)
    table = over_representation(best, ranking["gene"], sets)
    if table.empty:
        where = "the marker genes" if gmt is None else str(gmt)
        raise DataError(
            f"{where}: no gene of any set is in the panel; name another file with --gmt"
        )
    shown = rounded(table)
    for name in ("p_value", "q_value"):
        shown[name.replace("_", " ")] = [f"{value:.2g}" for value in table[name]]
    notes = [
        f"Among the {len(best)} best-predicted of {len(ranking)} panel genes; hypergeometric upper"
        " tail, Benjamini and Hochberg over the sets."
    ]
    if how == "text":
        shown["genes"] = [listed(genes.split()) for genes in table["genes"]]
    shown = shown.rename(columns={"p value": "p", "q value": "q"})
    return write_table(
        table,
        shown,
        notes,
        how,
        title=title,
        width=width,
        left=1,
        give_way=("genes",),
        hint=_HINT,
    )
