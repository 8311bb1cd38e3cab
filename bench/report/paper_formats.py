"""How the table of a paper is written: for terminals, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.evaluate.scores import BY_NAME
from bench.files import printable
from bench.report.citations import Citation
from bench.report.formats import Format, shown_number, with_deviation, with_interval, write_table
from bench.report.grid import Cell, Grid, Rank
from bench.report.html_tables import html_table
from bench.report.latex import latex_table
from bench.report.paper import PUBLISHED, Column, PaperRow, PaperTable, PaperValue, row_names
from bench.report.views import AS_IT_IS, View

_ARROWS = {"higher": "↑", "lower": "↓", None: ""}
_NOT_COMPARABLE = "†"


def write_paper(
    table: PaperTable,
    how: Format,
    *,
    title: str = "",
    width: int = 0,
    view: View = AS_IT_IS,
    ranks: bool = False,
    bibliography: str = "",
) -> str:
    """The table as text.

    Parameters
    ----------
    table
        Result of :func:`bench.report.paper.paper_table`.
    how
        ``csv`` and ``json`` have one row for each value, with full precision.
    title
        Caption.
    width
        Characters a line for ``text``: datasets that do not fit are put into a table below.
    view
        Digits and measure of spread.
    ranks
        Add a column with the mean rank over all others.
    bibliography
        Name of the file with the cited entries, for LaTeX.
    """
    title = printable(" ".join(title.split()))
    if how in {"csv", "json"}:
        long = _long(table)
        notes = [*_remarks(table, view, ranks, how), *_reasons(table), *table.notes]
        return write_table(long, long, notes, how)
    if how == "text":
        return _as_text(table, title, width, view, ranks)
    grid = _grid(table, title, view, ranks, how)
    if how == "latex":
        return latex_table(grid, bibliography=bibliography)
    if how == "html":
        return html_table(grid)
    shown = pd.DataFrame(
        [[_marked(cell, "**", "<u>", "</u>") for cell in row] for row in grid.rows],
        columns=_flat(table, ranks),
    )
    # Sources come first: rows name them by their numbers in the list.
    return write_table(shown, shown, [*grid.notes, *grid.remarks], how, title=title, left=1)


def citations(table: PaperTable) -> list[Citation]:
    """References of the methods in the table."""
    rows = [row for row in table.rows if row.kind in {"method", PUBLISHED}]
    found = [row.printed.citation for row in rows]
    return [citation for citation in dict.fromkeys(found) if citation]


def _grid(
    table: PaperTable,
    title: str,
    view: View,
    ranks: bool,
    how: Format,
    columns: Sequence[Column] | None = None,
) -> Grid:
    """The table with the best values marked; only some of its columns for a narrow terminal."""
    shown = table.columns if columns is None else columns
    sources = list(dict.fromkeys(row.source for row in table.rows if row.source))
    marks = {at: _marks(table.rows, at, view) for at in table.columns}
    rows = []
    for number, (row, name) in enumerate(zip(table.rows, row_names(table.rows), strict=True)):
        cited = row.printed.citation if row.kind in {"method", PUBLISHED} else None
        cite = cited.key if cited else ""
        source = str(sources.index(row.source) + 1) if row.source else ""
        cells = [Cell(printable(name), note=source, cite=cite)]
        for at in shown:
            value = row.cells.get(at)
            note = _NOT_COMPARABLE if value is not None and value.reason else ""
            text = _text(value, at, view)
            cells.append(Cell(text, marks[at][number], note, blank=_blank(text, at, table, view)))
        if ranks:
            cells.append(Cell(shown_number(row.rank, 2)))
        rows.append(cells)
    sides = [row.kind in {"control", "oracle"} for row in table.rows]
    rules = {n for n in range(1, len(sides)) if sides[n] != sides[n - 1]}
    sizes = {d: sum(at[0] == d for at in shown) for d in dict.fromkeys(at[0] for at in shown)}
    return Grid(
        headings=["method", *(_heading(s) for _, s in shown), *(["mean rank"] if ranks else [])],
        rows=rows,
        groups=[("", 1), *sizes.items(), *([("", 1)] if ranks else [])],
        rules=frozenset(rules),
        numeric=frozenset(range(1, len(shown) + 1 + ranks)),
        notes=[printable(f"{source}.") for source in sources],
        remarks=[
            printable(" ".join(note.split()))
            for note in (*_remarks(table, view, ranks, how), *_reasons(table), *table.notes)
        ],
        title=title,
    )


def _text(value: PaperValue | None, at: Column, view: View) -> str:
    if value is None or not np.isfinite(value.value):
        return "–"
    digits = view.digits(BY_NAME[at[1]])
    if view.spread == "none":
        return shown_number(value.value, digits)
    if view.spread == "interval":
        return with_interval(value.value, value.low, value.high, digits)
    return with_deviation(value.value, value.sd, digits)


def _blank(text: str, at: Column, table: PaperTable, view: View) -> str:
    """Spread of other values of the column, if a value has none."""
    if view.spread in {"none", "interval"} or "±" in text or text == "–":
        return ""
    values = [row.cells[at] for row in table.rows if at in row.cells]
    return next((f" ± {v.sd:.{view.digits(BY_NAME[at[1]])}f}" for v in values if v.sd >= 0), "")


def _marks(rows: Sequence[PaperRow], at: Column, view: View) -> list[Rank]:
    """Best and second best of a column, as rounded: equal numbers are marked alike."""
    digits, lower = view.digits(BY_NAME[at[1]]), BY_NAME[at[1]].better == "lower"
    values = [row.cells.get(at) for row in rows]
    rounded = [round(v.value, digits) + 0.0 if v and v.competes else None for v in values]
    order = sorted({v for v in rounded if v is not None and np.isfinite(v)}, reverse=not lower)
    names: dict[float | None, Rank] = dict(zip(order, ("best", "second"), strict=False))
    # One value alone is no comparison.
    return [names.get(v, "") if len(order) > 1 or rounded.count(v) > 1 else "" for v in rounded]


def _marked(cell: Cell, best: str, second: str, end: str) -> str:
    value, sign, rest = cell.text.partition(" ±")
    if not sign:
        value, sign, rest = cell.text.partition(" [") if cell.rank else (cell.text, "", "")
    if cell.rank:
        begin, close = (best, best) if cell.rank == "best" else (second, end)
        value = f"{begin}{value}{close}"
    note = f" [{cell.note}]" if cell.note.isdigit() else cell.note
    return f"{value}{sign}{rest}{note}"


def _heading(score: str) -> str:
    return f"{BY_NAME[score].heading} {_ARROWS[BY_NAME[score].better]}"


def _flat(table: PaperTable, ranks: bool) -> list[str]:
    """Headings on one level: the dataset's name is left out where there is one dataset."""
    several = len({dataset for dataset, _ in table.columns}) > 1
    headings = [
        f"{dataset} {_heading(score)}" if several else _heading(score)
        for dataset, score in table.columns
    ]
    return ["method", *headings, *(["mean rank"] if ranks else [])]


def _remarks(table: PaperTable, view: View, ranks: bool, how: Format) -> list[str]:
    """How to read the numbers and marks."""
    spread = {
        "none": "Mean over test sections.",
        "interval": "Mean over test sections [95 % interval: bootstrap over patients, then their"
        " sections].",
    }.get(view.spread or "sd", "Mean over test sections ± standard deviation, where known.")
    marked = {
        "text": "In each column: *best*, _second best_",
        "csv": "",
        "json": "",
    }.get(how, "In each column the best value is bold, the second best underlined")
    others = [row for row in table.rows if row.kind in {"control", "oracle"}]
    marked += "; controls and oracles are not ranked." if marked and others else "." * bool(marked)
    notes = [f"{spread} {marked}".strip()]
    if ranks:
        notes.append("Mean rank: over all columns, 1 is best; only of rows with every value.")
    if any(row.kind == PUBLISHED for row in table.rows):
        ours = any(row.kind != PUBLISHED for row in table.rows)
        notes.append(
            "Rows with a numbered source are published numbers, the others were run here."
            if ours
            else "Published numbers; none was run here."
        )
    return notes


def _reasons(table: PaperTable) -> list[str]:
    """Why values are not comparable, each reason with its columns."""
    by_reason: dict[str, list[str]] = {}
    for row in table.rows:
        for (dataset, score), value in row.cells.items():
            if value.reason:
                by_reason.setdefault(value.reason, []).append(f"{dataset} {BY_NAME[score].heading}")
    return [
        f"{_NOT_COMPARABLE} Not comparable ({', '.join(dict.fromkeys(where))}): {reason}."
        for reason, where in by_reason.items()
    ]


def _as_text(table: PaperTable, title: str, width: int, view: View, ranks: bool) -> str:
    """Blocks of whole datasets, as many beside one another as fit."""
    hidden = ""
    widest = max(
        _width(_text_frame(table, [dataset], view, ranks))
        for dataset in dict.fromkeys(at[0] for at in table.columns)
    )
    if width and widest > width and view.spread is None:
        view = replace(view, spread="none")
        hidden = f"Standard deviations do not fit into {width} characters; --spread sd shows them."
    blocks: list[list[str]] = [[]]
    for dataset in dict.fromkeys(at[0] for at in table.columns):
        wider = [*blocks[-1], dataset]
        if width and blocks[-1] and _width(_text_frame(table, wider, view, ranks)) > width:
            blocks.append([dataset])
        else:
            blocks[-1] = wider
    grid = _grid(table, title, view, ranks, "text")
    frames = [_text_frame(table, block, view, ranks) for block in blocks]
    texts = [write_table(frame, frame, [], "text", left=1) for frame in frames]
    notes = [*grid.remarks, *(f"[{n}] {note}" for n, note in enumerate(grid.notes, 1))]
    notes += [hidden] if hidden else []
    if width:
        notes = [textwrap.fill(note, width, subsequent_indent="   ") for note in notes]
    return "\n".join([*([f"{title}\n"] if title else []), *texts, *notes, ""])


def _text_frame(
    table: PaperTable, datasets: Sequence[str], view: View, ranks: bool
) -> pd.DataFrame:
    columns = [at for at in table.columns if at[0] in datasets]
    grid = _grid(table, "", view, ranks, "text", columns)
    several = len({at[0] for at in table.columns}) > 1
    headings = [
        f"{at[0]}\n{heading}" if several else heading
        for at, heading in zip(columns, grid.headings[1:], strict=False)
    ]
    rows = [[_marked(cell, "*", "_", "_") for cell in row] for row in grid.rows]
    return pd.DataFrame(rows, columns=["method", *headings, *(["mean rank"] if ranks else [])])


def _width(shown: pd.DataFrame) -> int:
    return sum(
        3 + max(len(line) for text in (str(name), *shown[name]) for line in text.split("\n"))
        for name in shown
    )


def _long(table: PaperTable) -> pd.DataFrame:
    """One row for each value."""
    lines: list[dict[str, Any]] = []
    for row in table.rows:
        for (dataset, score), value in row.cells.items():
            lines.append(
                {
                    "method": row.label,
                    "kind": row.kind,
                    "preset": row.preset,
                    "seed": row.seed,
                    "dataset": dataset,
                    "score": score,
                    "value": value.value,
                    "sd": value.sd,
                    "low": value.low,
                    "high": value.high,
                    "comparable": not value.reason,
                    "reason": value.reason,
                    "mean_rank": row.rank,
                    "source": row.source,
                }
            )
    return pd.DataFrame(lines)
