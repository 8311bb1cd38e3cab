"""Options of ``bench tables`` on what a table shows and where it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import names
from bench.cli.terminal import terminal_width
from bench.errors import BenchError, StoreError
from bench.files import atomic_write

if TYPE_CHECKING:
    from bench.report.citations import Citation
    from bench.report.views import View


class TableFormat(StrEnum):
    """How tables can be printed."""

    text = "text"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    html = "html"
    json = "json"


class TableLayout(StrEnum):
    """What the rows and columns of a table are."""

    runs = "runs"
    paper = "paper"


class TableSpread(StrEnum):
    """What is given beside a mean."""

    sd = "sd"
    interval = "interval"
    none = "none"


MACHINES = (TableFormat.csv, TableFormat.json)

_SUFFIXES = {
    ".txt": TableFormat.text,
    ".csv": TableFormat.csv,
    ".md": TableFormat.markdown,
    ".tex": TableFormat.latex,
    ".html": TableFormat.html,
    ".json": TableFormat.json,
}

_PAGE = 130
"""Characters that a table in LaTeX is fitted to, lest it is scaled down to small print."""

FormatOption = Annotated[
    TableFormat | None,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT",
        help=f"Format of the table: {', '.join(TableFormat)}.",
        show_default="text, or by the suffix of --out",
    ),
]
PlainFormatOption = Annotated[
    TableFormat,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT",
        help=f"Format of the table: {', '.join(TableFormat)}.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class TableGroup:
    """Options on rows, columns, digits and file of a table."""

    layout: Annotated[
        TableLayout,
        typer.Option(
            help="runs: one row per run; paper: one row per method, with scores of several datasets"
            " and the best in bold."
        ),
    ] = TableLayout.runs
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|all",
            help="Columns or scores to print, comma-separated; all: also if the lines get longer"
            " than the terminal.",
            show_default="those that fit the terminal",
        ),
    ] = None
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Rows to print, comma-separated.", show_default="all"),
    ] = None
    decimals: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=10, help="Digits after the decimal point.", show_default="4"
        ),
    ] = None
    spread: Annotated[
        TableSpread | None,
        typer.Option(
            help="Spread beside a mean: standard deviation over sections, or 95 % interval.",
            show_default="sd; with --layout runs both",
        ),
    ] = None
    ranks: Annotated[
        bool, typer.Option("--ranks", help="With --layout paper: add the mean rank of each method.")
    ] = False
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write: .tex (with a .bib beside it), .html, .md, .csv, .json or .txt.",
            show_default="print to the terminal",
        ),
    ] = None

    def view(self) -> View:
        """Rows, columns and digits.

        Raises
        ------
        BenchError
            An option names nothing.
        """
        from bench.report.views import View

        for option, text in (("--columns", self.columns), ("--methods", self.methods)):
            if text is not None and not names(text):
                raise BenchError(f"{option} '{text}': write names with commas between them")
        return View(
            columns=names(self.columns),
            methods=names(self.methods),
            decimals=self.decimals,
            spread=self.spread.value if self.spread else None,
        )

    def format(self, how: TableFormat | None) -> TableFormat:
        """Format asked for, or that of the file.

        Raises
        ------
        BenchError
            The file has no known suffix, or an option does not belong to the format.
        """
        if how is None and self.out is not None:
            how = _SUFFIXES.get(self.out.suffix.lower())
            if how is None:
                endings = ", ".join(_SUFFIXES)
                raise BenchError(
                    f"--out {self.out}: name a file ending in {endings}, or a format with --format"
                )
        how = how or TableFormat.text
        if how in MACHINES and (self.decimals is not None or self.spread is not None):
            raise BenchError(f"{how.value} has full precision and all measures of spread; leave out"
                             " --decimals and --spread")  # fmt: skip
        return how

    @property
    def bibliography(self) -> Path | None:
        """File with the cited entries, beside the table."""
        return self.out.with_suffix(".bib") if self.out is not None else None

    def width(self, how: TableFormat) -> int:
        """Characters a line, of LaTeX those of a page; 0 where a table is not fitted."""
        if how is TableFormat.latex:
            return _PAGE
        return terminal_width() if how is TableFormat.text and self.out is None else 0

    def emit(self, text: str, how: TableFormat, citations: Sequence[Citation] = ()) -> None:
        """Print a table, or write it and the entries that it cites.

        Raises
        ------
        BenchError
            The bibliography would replace a file of the user's own.
        StoreError
            A file cannot be written.
        """
        if self.out is None:
            typer.echo(text, nl=how is TableFormat.text)
            return
        from bench.report.citations import check_bibliography, write_bibliography

        bibliography = self.bibliography if how is TableFormat.latex and citations else None
        if bibliography == self.out:
            raise BenchError(f"--out {self.out}: a table is not written to a .bib file")
        written = [self.out]
        try:
            if bibliography:
                check_bibliography(bibliography)
            with atomic_write(self.out) as temporary:
                temporary.write_text(text, encoding="utf-8")
            if bibliography:
                written.append(write_bibliography(bibliography, citations))
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"{self.out}: cannot be written ({reason})") from error
        for path in written:
            typer.echo(path)
