"""Tables of published numbers alone, without a run of one's own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from bench.errors import UnknownNameError
from bench.evaluate.scores import BY_NAME
from bench.registry import collection, dataset_name
from bench.report.formats import Format, with_deviation, write_table
from bench.report.published import COLUMNS, read_published
from bench.report.views import AS_IT_IS, View, check_wanted, is_wanted

MEAN = "mean"
"""Heading of the mean over the datasets of a collection."""

_PAPER = re.compile(r"\bof ([A-Za-z0-9][\w-]*)")
_ROW = ["method", "source", "protocol"]
_YEAR = re.compile(r"(19|20)\d\d")


def published_datasets() -> list[str]:
    """Names of the datasets and collections that there are published numbers on."""
    return sorted(
        Path(str(path)).stem
        for path in files("bench.published").iterdir()
        if str(path).endswith(".csv")
    )


def published_rows(name: str) -> pd.DataFrame:
    """Published numbers on a dataset or a collection, or those that a paper has.

    Parameters
    ----------
    name
        Dataset (``her2st``), collection (``hest``), or paper as its source names it, with or
        without a year (``mclstexp-2024``).

    Returns
    -------
    DataFrame
        Columns :data:`bench.report.published.COLUMNS`.

    Raises
    ------
    UnknownNameError
        There are no such numbers.
    """
    known, plain = published_datasets(), dataset_name(name)
    datasets = [one for one in (*collection(plain), plain) if one in known]
    if datasets:
        return pd.concat([read_published(one) for one in datasets], ignore_index=True)
    every = pd.concat([read_published(one) for one in known], ignore_index=True)
    words = [word for word in re.split(r"[\W_]+", name.lower()) if not _YEAR.fullmatch(word)]
    sources = every["source"].str.lower()
    matches = pd.Series(any(len(word) > 2 for word in words), index=every.index)
    for word in words:
        matches &= sources.str.contains(word, regex=False)
    if not matches.any():
        papers = {match[1].lower() for match in map(_PAPER.search, every["source"]) if match}
        raise UnknownNameError("published table", name, [*known, *sorted(papers)])
    return every[matches].reset_index(drop=True)


def render_literature(
    name: str, how: Format, *, title: str = "", width: int = 0, view: View = AS_IT_IS
) -> str:
    """Published numbers as a table: methods by datasets and scores, the best mean first.

    Parameters
    ----------
    name
        See :func:`published_rows`.
    how, title, width, view
        See :func:`bench.report.tables.render`.

    Raises
    ------
    UnknownNameError
        There are no such numbers.
    """
    rows = published_rows(name)
    check_wanted(view.methods, rows["method"])
    rows = rows[[is_wanted(method, view.methods) for method in rows["method"]]].copy()
    rows["column"] = _columns(rows, collection(dataset_name(name)), dataset_name(name))
    several = rows["protocol"].nunique() > 1
    order = list(dict.fromkeys(rows["column"]))
    leading = MEAN if MEAN in order else order[0]
    notes: list[str] = []

    def number(note: str) -> int:
        if note not in notes:
            notes.append(note)
        return notes.index(note) + 1

    lines = []
    for (method, source, protocol), of_row in rows.groupby(_ROW, sort=False):
        cells = {"method": method, **({"protocol": protocol} if several else {})}
        for column in order:
            cells[column] = " / ".join(
                _cell(row, view) for row in of_row[of_row["column"] == column].itertuples()
            )
        for reason in of_row.loc[of_row["comparable"] == "no", "reason"].unique():
            number(f"* not comparable with runs of this program: {reason}.")
        obtained = "; ".join(of_row["obtained"].unique())
        cells["source"] = f"[{number(f'{source}; {obtained}.')}]"
        led = of_row.loc[of_row["column"] == leading, "value"]
        value = float(led.iloc[0]) if len(led) else float("-inf")
        lines.append((value, cells))
    lines.sort(key=lambda line: -line[0])
    shown = pd.DataFrame([cells for _, cells in lines]).replace("", "–")
    shown.columns = pd.Index([_heading(str(column)) for column in shown.columns])
    return write_table(
        rows[list(COLUMNS)], shown, notes, how, title=title, width=width, columns=view.columns
    )


def _columns(rows: pd.DataFrame, members: Sequence[str], name: str) -> list[str]:
    """Column of each number: its task, its score, or both where there are several of both."""
    if members:
        return [MEAN if one == name else one.removeprefix(f"{name}-") for one in rows["dataset"]]
    if rows["dataset"].nunique() == 1:
        return list(rows["score"])
    return [f"{d} {s}" for d, s in zip(rows["dataset"], rows["score"], strict=True)]


def _heading(column: str) -> str:
    """Column with the heading of its score in place of the score's name."""
    before, _, score = column.rpartition(" ")
    return f"{before} {BY_NAME[score].heading}".strip() if score in BY_NAME else column


def _cell(row: object, view: View) -> str:
    value, sd = float(getattr(row, "value")), float(getattr(row, "sd"))  # noqa: B009
    star = "*" if getattr(row, "comparable") == "no" else ""  # noqa: B009
    digits = 4 if view.decimals is None else view.decimals
    return with_deviation(value, math.nan if view.spread == "none" else sd, digits) + star
