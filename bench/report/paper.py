"""The table of a paper: methods in rows, datasets and their scores in columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import BenchError, UnknownNameError
from bench.evaluate.scores import BY_NAME, COMPARABLE, SCORES, Score
from bench.report.citations import PrintedMethod, printed_method
from bench.report.footnotes import BY_FOLD, BY_FOLD_NOTE, INTERVAL_NOTES, footnotes
from bench.report.published import published_label
from bench.report.tables import leads_by_fold, score_table
from bench.report.views import AS_IT_IS, Spread, View, check_wanted, is_wanted, with_preset
from bench.stored_runs import StoredRun

USUAL = ("pcc_acg", "pcc_heg", "mse", "mae")
"""Scores of the papers' tables."""

PUBLISHED = "published"
"""Kind of a row that was not run here."""

_KINDS = ("method", PUBLISHED, "control", "oracle")

Column = tuple[str, str]
"""Dataset and score."""


@dataclass(frozen=True)
class PaperValue:
    """One value of the table.

    Attributes
    ----------
    value, sd, low, high
        Mean, standard deviation and ends of the 95 % interval; NaN where there is none.
    competes
        Whether it may be marked as the best of its column.
    reason
        Why it is not comparable with the others; empty if it is.
    """

    value: float
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    competes: bool = True
    reason: str = ""


@dataclass
class PaperRow:
    """A method with its settings, or published numbers of a method from one source.

    Attributes
    ----------
    label
        Label of the runs, or name of the published method.
    printed
        Name and reference as papers print them.
    kind
        ``method``, ``control``, ``oracle`` or ``published``.
    preset, seed, key
        Of the runs; several seeds are a text such as ``0-4``, the key is that of the first run.
    source
        Where published numbers are from.
    cells
        By dataset and score.
    rank
        Mean rank over the columns; NaN where a value is missing.
    made_by
        Method, if the row was given a label of its own.
    """

    label: str
    printed: PrintedMethod
    kind: str
    preset: str = "-"
    seed: int | str | None = None
    key: str = ""
    source: str = ""
    cells: dict[Column, PaperValue] = field(default_factory=dict)
    rank: float = math.nan
    made_by: str = ""

    @property
    def method(self) -> str:
        """Name without preset and encoder, by which rows of one method stand together."""
        made_by = self.made_by or self.label
        return made_by.removeprefix("tuned:").removeprefix("released:").partition("[")[0]


@dataclass
class PaperTable:
    """Rows in their order, the columns, and what a reader must know."""

    datasets: list[str]
    scores: list[Score]
    rows: list[PaperRow]
    notes: list[str]

    @property
    def columns(self) -> list[Column]:
        """Dataset and score of each column that has a value."""
        return [
            (dataset, score.name)
            for dataset in self.datasets
            for score in self.scores
            if any((dataset, score.name) in row.cells for row in self.rows)
        ]


def paper_table(
    runs: Mapping[str, Sequence[StoredRun]],
    published: pd.DataFrame | None = None,
    view: View = AS_IT_IS,
) -> PaperTable:
    """Table over datasets, of runs, of published numbers, or of both.

    Parameters
    ----------
    runs
        Runs by dataset; empty for published numbers alone.
    published
        Published numbers to show, as :func:`bench.report.published.read_published` gives them.
    view
        Rows and scores to show.

    Raises
    ------
    UnknownNameError
        A row or a score that there is not.
    BenchError
        There is nothing to show.
    """
    tables = {dataset: score_table(list(of)) for dataset, of in runs.items()}
    ours = [row for dataset in runs for row in _rows_of(dataset, runs[dataset], tables[dataset])]
    rows = [*_merged(ours), *_published_rows(published, alone=not runs)]
    check_wanted(view.methods, [row.label for row in rows])
    rows = [row for row in rows if is_wanted(row.label, view.methods)]
    by_fold = any(leads_by_fold(table) for table in tables.values())
    scores = _scores(view, rows, by_fold)
    names = {score.name for score in scores}
    for row in rows:
        row.cells = {at: value for at, value in row.cells.items() if at[1] in names}
    rows = [row for row in rows if any(np.isfinite(v.value) for v in row.cells.values())]
    if not rows:
        raise BenchError("no row has any of the scores; choose others with --columns")
    datasets = list(dict.fromkeys([*runs, *(at[0] for row in rows for at in row.cells)]))
    chosen = {
        dataset: [run for run in of if is_wanted(run.facts["label"], view.methods)]
        for dataset, of in runs.items()
    }
    table = PaperTable(datasets, scores, rows, _notes(chosen, names, view.spread))
    _rank(table)
    table.rows = _ordered(table, view.methods)
    return table


def _scores(view: View, rows: Sequence[PaperRow], by_fold: bool) -> list[Score]:
    """Scores asked for; else the papers' usual ones, or those that there are."""
    ranked = {name: score for name, score in BY_NAME.items() if score.better}
    present = {score for row in rows for _, score in row.cells}
    if view.names_columns:
        by_heading = {score.heading.casefold(): name for name, score in ranked.items()}
        chosen = []
        for column in view.columns:
            name = by_heading.get(column.casefold(), column.casefold())
            if name not in ranked:
                raise UnknownNameError("score", column, ranked)
            chosen.append(ranked[name])
        return chosen
    if view.columns:
        return [
            s for s in SCORES if s.name in present and (s.name in COMPARABLE or s.name == BY_FOLD)
        ]
    usual = (BY_FOLD,) if by_fold or not present & set(USUAL) else USUAL
    return [BY_NAME[name] for name in usual if name in present] or [
        score for score in SCORES if score.name in present and score.better
    ]


def _rows_of(
    dataset: str, runs: Sequence[StoredRun], table: pd.DataFrame
) -> Iterable[tuple[str, PaperRow]]:
    """Rows of one dataset, each with what identifies its settings on every dataset."""
    rivals = table[(table["kind"] == "method") & (table["folds"] > 0)]
    alike = rivals["folds_hash"].nunique() <= 1 and rivals["data_hash"].nunique() <= 1
    by_key = {run.facts["key"][:12]: run.facts for run in runs}
    for line in table.to_dict("records"):
        facts = by_key[line["key"]]
        made_by = published_label(facts.get("method_label", facts["label"]), line["changes"])
        label = facts["label"] if "method_label" in facts else made_by
        printed = printed_method(made_by)
        changes = {} if facts.get("tuned") else line["changes"]
        settings = [facts["label"], line["preset"], line["seed"], changes]
        whole = line["folds"] == line["n_folds"]
        reason = "" if whole else f"only {line['folds']} of {line['n_folds']} folds"
        if whole and not alike and line["kind"] == "method":
            reason = f"rows on {dataset} have different folds, panels or data"
        competes = line["kind"] == "method" and whole and alike
        values = {}
        for score in SCORES:
            if score.is_in("machine") and np.isfinite(_number(line.get(score.shown_as))):
                name = score.shown_as
                values[dataset, score.name] = PaperValue(
                    _number(line[name]),
                    _number(line.get(f"{name}_sd")),
                    _number(line.get(f"{name}_low")),
                    _number(line.get(f"{name}_high")),
                    competes=competes,
                    reason=reason,
                )
        row = PaperRow(
            label,
            printed if label == made_by else PrintedMethod(label, printed.citation),
            line["kind"],
            str(line["preset"]),
            line["seed"],
            str(line["key"]),
            cells=values,
            made_by=made_by,
        )
        yield json.dumps(settings, sort_keys=True, default=str), row


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _merged(rows: Iterable[tuple[str, PaperRow]]) -> list[PaperRow]:
    """Rows with the same settings on several datasets as one; two on one dataset stay two."""
    merged: dict[str, list[PaperRow]] = {}
    for settings, row in rows:
        same = merged.setdefault(settings, [])
        free = next((one for one in same if not {*one.cells} & {*row.cells}), None)
        if free is None:
            same.append(row)
        else:
            free.cells |= row.cells
    return [row for same in merged.values() for row in same]


def _published_rows(published: pd.DataFrame | None, alone: bool) -> list[PaperRow]:
    """Rows of published numbers: one a method, source and protocol."""
    if published is None or published.empty:
        return []
    # Among themselves numbers may be compared that are not comparable with runs of this program.
    columns = published.groupby(["dataset", "score"])["comparable"]
    mixed = columns.transform("nunique") > 1
    rows: dict[tuple[str, str, str], PaperRow] = {}
    several = published["protocol"].nunique() > 1
    for said, is_mixed in zip(published.to_dict("records"), mixed, strict=True):
        source = f"{said['source']}; {said['obtained']}"
        if several:
            source += f"; protocol {said['protocol']}"
        row = rows.setdefault(
            (said["method"], source, said["protocol"]),
            PaperRow(said["method"], printed_method(said["method"]), PUBLISHED, source=source),
        )
        comparable = said["comparable"] == "yes"
        value = PaperValue(
            float(said["value"]),
            float(said["sd"]),
            competes=comparable or (alone and not is_mixed),
            reason="" if comparable else said["reason"],
        )
        row.cells.setdefault((said["dataset"], said["score"]), value)
    return list(rows.values())


def _rank(table: PaperTable) -> None:
    """Give each row that competes everywhere its mean rank over the columns; ties share ranks."""
    columns = table.columns
    ranks: list[pd.Series] = []
    for dataset, name in columns:
        values = pd.Series(
            [
                row.cells[dataset, name].value
                if (dataset, name) in row.cells and row.cells[dataset, name].competes
                else math.nan
                for row in table.rows
            ]
        )
        ranks.append(values.rank(ascending=BY_NAME[name].better == "lower"))
    mean = pd.concat(ranks, axis=1).mean(axis=1, skipna=False)
    for row, rank in zip(table.rows, mean, strict=True):
        row.rank = float(rank)


def _ordered(table: PaperTable, methods: Sequence[str]) -> list[PaperRow]:
    """Rows as they were asked for; else the best first, published ones below ours of the method.

    Controls and oracles are last.
    """
    score = table.scores[0]
    sign = 1.0 if score.better == "lower" else -1.0

    def mean(row: PaperRow) -> float:
        values = [row.cells.get((dataset, score.name)) for dataset in table.datasets]
        known = [value.value for value in values if value is not None]
        # A mean over fewer datasets is not one over all: more datasets go first.
        return sign * sum(known) / len(known) + 1e3 * (len(values) - len(known)) if known else 1e9

    def side(row: PaperRow) -> int:
        return max(_KINDS.index(row.kind) - 1, 0)

    best: dict[tuple[int, str], float] = {}
    for row in table.rows:
        group = (side(row), row.method)
        best[group] = min(best.get(group, math.inf), mean(row))

    def place(row: PaperRow) -> tuple[Any, ...]:
        asked = next((n for n, name in enumerate(methods) if is_wanted(row.label, [name])), 0)
        group = (side(row), row.method)
        own = (row.kind == PUBLISHED, mean(row), row.label)
        return (asked, *own) if methods else (group[0], best[group], group[1], *own)

    return sorted(table.rows, key=place)


def _notes(
    runs: Mapping[str, Sequence[StoredRun]], scores: set[str], spread: Spread | None
) -> list[str]:
    """Footnotes of the datasets' own tables, without definitions of columns not shown here."""
    other = {score.note for score in SCORES if score.note and score.name not in scores}
    other |= {BY_FOLD_NOTE} if BY_FOLD not in scores else set()
    other |= set(INTERVAL_NOTES) if spread != "interval" else set()
    by_dataset: dict[str, list[str]] = {}
    for dataset, of in runs.items():
        for note in footnotes(of, score_table(list(of))) if of else ():
            if note not in other:
                by_dataset.setdefault(note, []).append(dataset)
    return [
        note if len(datasets) == len(runs) else f"{', '.join(datasets)}: {note}"
        for note, datasets in by_dataset.items()
    ]


def row_names(rows: Sequence[PaperRow]) -> list[str]:
    """Names of the rows as printed; equal ones with their seed and run."""
    names = []
    for row in rows:
        name, preset = row.printed.name, with_preset("", row.preset).strip(" ()")
        marks = [preset, row.kind if row.kind in {"control", "oracle"} else ""]
        told = ", ".join(filter(None, marks))
        names.append(f"{name} ({told})" if told else name)
    ours = [name for row, name in zip(rows, names, strict=True) if row.kind != PUBLISHED]
    return [
        f"{name} (seed {row.seed}, {row.key[:6]})"
        if row.kind != PUBLISHED and ours.count(name) > 1
        else name
        for row, name in zip(rows, names, strict=True)
    ]
