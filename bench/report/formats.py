"""How a table becomes text: for terminals, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

import io
import json
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench.evaluate.scores import SCORES, Column
from bench.files import printable
from bench.report.grid import grid_of
from bench.report.html_tables import html_table
from bench.report.latex import latex_table
from bench.report.views import EVERYTHING, chosen_columns

Format = Literal["text", "csv", "markdown", "latex", "html", "json"]


_GIVE_WAY = {"fit s": 2, "sections": 5, "folds": 12}
"""Like :attr:`bench.evaluate.scores.Score.gives_way`, for columns other than scores."""


SPREAD_NOTE = "Scores: mean over test sections ± standard deviation (n - 1)."
"""Footnote of tables that show deviations."""

DEVIATIONS = "standard deviations"
"""What a narrow table hides when columns alone are not enough."""


def write_table(
    table: pd.DataFrame,
    shown: pd.DataFrame,
    notes: Sequence[str],
    how: Format,
    *,
    title: str = "",
    width: int = 0,
    columns: Sequence[str] = (),
    left: int = 2,
    give_way: Sequence[str] = (),
    hint: str = "'bench tables --columns all' shows all",
) -> str:
    """A table with footnotes as text.

    Parameters
    ----------
    table
        Columns for csv and json, with full precision.
    shown
        Columns for the other formats: rounded, as strings.
    notes
        Footnotes, numbered in this order.
    how, title, width
        See :func:`render`.
    columns
        Columns to show; see :class:`bench.report.views.View`.
    left
        Number of columns, from the first, that are aligned to the left.
    give_way
        Headings of columns, beside those of scores, that are hidden first in narrow text.
    hint
        Where hidden columns are shown.

    Raises
    ------
    UnknownNameError
        A column that the table does not have.
    """
    if columns:
        width = 0
    if columns and tuple(columns) != EVERYTHING:
        if how in {"csv", "json"}:
            table = chosen_columns(table, columns, ("dataset", "protocol", "method", "preset"))
        else:
            shown = chosen_columns(shown, columns)
    # A line break would end a comment.
    notes = [printable(" ".join(note.split())) for note in notes]
    title = printable(" ".join(title.split()))
    if how == "csv":
        nested = {name: table[name].map(json.dumps) for name in {"changes"} & {*table}}
        return table.assign(**nested).map(_guarded).to_csv(index=False)
    if how == "json":
        # Not pandas' own writer: it rounds to 15 decimals.
        rows = [
            {name: None if pd.isna(value) else value for name, value in row.items()}
            for row in table.to_dict("records")
        ]
        return json.dumps({"rows": rows, "footnotes": list(notes)}, indent=2) + "\n"
    if how in {"text", "latex"} and width:
        shown, hidden = _fitting(shown, width, give_way)
        if hidden:
            unneeded = {
                score.note
                for score in SCORES
                # Sums explain the dashes of other columns too.
                if score.combine != "sum"
                and not any(score.heading in heading for heading in shown.columns)
            }
            if DEVIATIONS in hidden:
                unneeded.add(SPREAD_NOTE)
            notes = [note for note in notes if note not in unneeded]
            notes.append(f"Hidden in {width} characters: {', '.join(hidden)}; {hint}.")
    if how in {"latex", "html"}:
        grid = grid_of(shown, notes, title)
        return latex_table(grid) if how == "latex" else html_table(grid)
    if how == "text" and width:
        # A hyphen inside of a name or option is no place for a break.
        notes = [
            textwrap.fill(note, width - 4, subsequent_indent="   ", break_on_hyphens=False)
            for note in notes
        ]
    if how == "markdown":
        title, notes = markdown_text(title), [markdown_text(note) for note in notes]
    style = box.MARKDOWN if how == "markdown" else box.SIMPLE_HEAD
    drawn = Table(box=style)
    for number, heading in enumerate(shown.columns):
        drawn.add_column(heading, justify="left" if number < left else "right", no_wrap=True)
    for row in shown.itertuples(index=False):
        cells = (printable(str(cell)) for cell in row)
        drawn.add_row(*(markdown_text(cell) if how == "markdown" else cell for cell in cells))
    console = Console(
        file=io.StringIO(), width=10_000, no_color=True, highlight=False, markup=False, emoji=False
    )
    console.print(drawn)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    text = "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")
    heading = f"{'### ' if how == 'markdown' else ''}{title}\n\n" if title else ""
    listed = "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))
    return heading + text + ("\n\n" + listed if listed else "") + "\n"


def _guarded(cell: Any) -> Any:
    """Cell of a CSV file; a text that spreadsheets take for a formula begins with an apostrophe."""
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    formula = len(cell) > 1 and cell[0] in _FORMULA and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


_NUMBER = re.compile(r"[+-]?\d[\d,]*\.\d+(?: ± [\d,.]+| to [+-]?[\d,.]+)?")
"""A number as tables show it, which no spreadsheet takes for a formula."""

_FORMULA = "=+-@\t\r"


def markdown_text(text: str) -> str:
    """Text for Markdown: bars would separate cells, and marks of HTML but ``<u>`` be followed."""
    return re.sub(r"<(?!/?u>)", r"\\<", text.replace("|", r"\|"))


def _fitting(
    shown: pd.DataFrame, width: int, give_way: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Table without the columns that do not fit, and the headings of those."""
    widths = {str(name): _column_width(shown, name) for name in shown}
    folds = [str(cell).partition("/") for cell in shown["folds"]] if "folds" in shown else []
    # That folds are missing must not be hidden.
    kept = {"folds"} if any(done != of for done, _, of in folds) else set()
    hidden = [
        heading
        for heading in (*give_way, *_expendable())
        if heading not in kept and sum(widths.values()) > width and widths.pop(heading, 0)
    ]
    shown = shown[list(widths)]
    if sum(widths.values()) > width:
        means = shown.replace(r" ± .*", "", regex=True)
        if not means.equals(shown):
            hidden.append(DEVIATIONS)
        shown = means
        widths = {str(name): _column_width(shown, name) for name in shown}
        # The last columns say least; a name and one score are always shown.
        for heading in list(widths)[:1:-1]:
            if sum(widths.values()) > width and heading not in kept:
                hidden.insert(0, heading)
                del widths[heading]
        shown = shown[list(widths)]
    return shown, hidden


def _expendable() -> list[str]:
    """Headings of columns hidden on a narrow terminal, in the order in which they are hidden."""
    ranks = dict(_GIVE_WAY)
    for score in SCORES:
        columns = (Column(score.heading, score.gives_way), score.interval, score.share)
        ranks |= {column.heading: column.gives_way for column in columns if column}
    return sorted((name for name, rank in ranks.items() if rank), key=ranks.__getitem__)


def _column_width(shown: pd.DataFrame, name: Any) -> int:
    return 3 + max(map(len, [str(name), *shown[name]]))


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Table for reading: numbers with four decimals, underscores as spaces."""
    shown = pd.DataFrame()
    for name in table:
        values = table[name]
        if pd.api.types.is_float_dtype(values):
            shown[str(name).replace("_", " ")] = [shown_number(value, 4) for value in values]
        else:
            shown[str(name).replace("_", " ")] = values.astype(str)
    return shown


def shown_number(value: float, digits: int) -> str:
    """A number with so many decimals, a dash where it is undefined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def shown_interval(low: float, high: float) -> str:
    """Both ends of an interval with three decimals."""
    return "–" if math.isnan(low) or math.isnan(high) else f"{low:.3f} to {high:.3f}"


def shown_percent(share: float) -> str:
    """A share as a whole number of per cent."""
    # Adding zero turns minus zero into zero.
    return "–" if math.isnan(share) else f"{round(100 * share) + 0} %"


def with_deviation(mean: float, sd: float, digits: int) -> str:
    """A mean with its standard deviation, where there is one."""
    if mean is None or math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def with_interval(mean: float, low: float, high: float, digits: int) -> str:
    """A mean with its interval, where there is one."""
    if mean is None or math.isnan(mean):
        return "–"
    ends = "" if math.isnan(low) or math.isnan(high) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{mean:.{digits}f}{ends}"
