"""What of a table is shown, and how: its rows, columns, digits and measure of spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from bench.errors import UnknownNameError
from bench.evaluate.scores import BY_NAME, Score
from bench.method_references import split_encoder
from bench.report.presets import NO_PRESET

Spread = Literal["sd", "interval", "none"]

EVERYTHING = ("all",)
"""Choice of columns that hides none, however narrow the terminal is."""

MOST_DECIMALS = 10


@dataclass(frozen=True)
class View:
    """Choices of a reader; the defaults show a table as it is.

    Attributes
    ----------
    columns
        Headings or names of scores, in the order in which they are shown; empty for the usual
        ones, :data:`EVERYTHING` for all of them.
    methods
        Rows by method or label; empty for all.
    decimals
        Digits after the point of every score; None for those that each score declares.
    spread
        What is given beside a mean; None for what the table gives by itself.
    """

    columns: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    decimals: int | None = None
    spread: Spread | None = None

    @property
    def names_columns(self) -> bool:
        """Whether single columns are asked for."""
        return bool(self.columns) and self.columns != EVERYTHING

    def among(self, labels: Sequence[str]) -> View:
        """The view with only those of its rows that are among some labels."""
        here = (m for m in self.methods if any(is_wanted(label, [m]) for label in labels))
        return replace(self, methods=tuple(here))

    def digits(self, score: Score) -> int:
        """Digits after the point of a score; a count has none."""
        return score.decimals if self.decimals is None or not score.decimals else self.decimals


AS_IT_IS = View()


def is_wanted(label: str, methods: Sequence[str]) -> bool:
    """Whether a row is asked for: by its label, or by its method without the encoder."""
    return not methods or label in methods or split_encoder(label)[0] in methods


def check_wanted(methods: Sequence[str], labels: Iterable[str]) -> None:
    """Refuse a row that is asked for and that there is not.

    Raises
    ------
    UnknownNameError
        No row has the name.
    """
    known = set(labels)
    for method in methods:
        if not any(is_wanted(label, [method]) for label in known):
            raise UnknownNameError("row", method, known)


def chosen_columns(
    table: pd.DataFrame, columns: Sequence[str], kept: Sequence[str] = ("method",)
) -> pd.DataFrame:
    """Some columns of a table, in the order asked for, after those that are always kept.

    Parameters
    ----------
    table
        A table for people or for machines.
    columns
        Headings, whatever their case, or names of scores.
    kept
        Columns that identify a row.

    Raises
    ------
    UnknownNameError
        The table has no such column.
    """
    by_name: dict[str, str] = {}
    for heading in map(str, table.columns):
        by_name.setdefault(heading.casefold(), heading)
    for name, score in BY_NAME.items():
        for other in (score.heading, score.shown_as):
            if other.casefold() in by_name:
                by_name.setdefault(name, by_name[other.casefold()])
                by_name.setdefault(score.heading.casefold(), by_name[other.casefold()])
    chosen = [name for name in kept if name in table.columns]
    for column in columns:
        if column.casefold() not in by_name:
            raise UnknownNameError("column", column, map(str, table.columns))
        heading = by_name[column.casefold()]
        if heading not in chosen:
            chosen.append(heading)
    return table[chosen]


def with_preset(name: str, preset: str) -> str:
    """Name of a row with its preset, unless that is the authors' or the method has none."""
    return name if preset in {"authors", NO_PRESET} else f"{name} ({preset})"


def shown_names(rows: Sequence[Mapping[Any, Any]], names: Sequence[str]) -> list[str]:
    """Names of rows without a preset column, each with its preset; equal names with their runs."""
    told = [with_preset(name, str(row["preset"])) for name, row in zip(names, rows, strict=True)]
    return [
        name if told.count(name) == 1 else f"{name} [seed {row['seed']}, {str(row['key'])[:6]}]"
        for name, row in zip(told, rows, strict=True)
    ]
