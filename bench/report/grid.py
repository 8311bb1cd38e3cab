"""A table laid out for print: cells, groups of columns, marks of the best values, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from bench.files import printable

Rank = Literal["", "best", "second"]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes
    ----------
    text
        Text as a reader sees it, unescaped.
    rank
        Whether the value is the best of its column, or the second best.
    note
        Raised after the text: numbers of notes, or a sign.
    cite
        Key of a bibliography entry, for LaTeX.
    blank
        Text whose width is left free after the value, so that digits are below one another.
    """

    text: str
    rank: Rank = ""
    note: str = ""
    cite: str = ""
    blank: str = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes
    ----------
    headings
        Heading of each column.
    rows
        Cells of each row.
    groups
        Title of each group of columns and its number of columns, from the left; an empty title
        for columns without one. Empty if no column is in a group.
    rules
        Rows that a thin rule precedes.
    numeric
        Columns aligned to the right, by their position.
    notes
        Notes below the table, numbered in this order.
    remarks
        Notes without a number, before the others.
    title
        Caption; empty for none.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = ()
    rules: frozenset[int] = frozenset()
    numeric: frozenset[int] = frozenset()
    notes: Sequence[str] = ()
    remarks: Sequence[str] = field(default=())
    title: str = ""


def grid_of(shown: pd.DataFrame, notes: Sequence[str], title: str = "") -> Grid:
    """A table of texts as a grid; all but the first two columns are aligned to the right."""
    return Grid(
        headings=[printable(str(heading)) for heading in shown.columns],
        rows=[
            [Cell(printable(str(cell))) for cell in row] for row in shown.itertuples(index=False)
        ],
        numeric=frozenset(range(2, len(shown.columns))),
        notes=notes,
        title=title,
    )
