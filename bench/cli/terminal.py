"""What the commands say on the terminal."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap

import typer

from bench.errors import BenchError
from bench.files import printable

_LONGEST = 4000
"""Characters of a message; what is longer is cut."""


_NO_TERMINAL = 100
"""Characters a line where the output is no terminal and COLUMNS is not set."""


_NUMBER = re.compile(r"(< |\+)?[\d.,]+\+?( ?%| (B|kB|MB|GB|s|min|h|d))?|[-–?]")
"""Cell that is aligned to the right: a number, perhaps with a unit, or the sign of none."""


_CELL_PADDING, _TABLE_EDGES = 3, 1


def terminal_width() -> int:
    """Characters a line: those of the terminal or of the variable COLUMNS."""
    # A size of the terminal is known by its output alone, which may be a file.
    return shutil.get_terminal_size((_NO_TERMINAL, 24)).columns


def print_rows(title: str, rows: list[dict[str, str]], width: int | None = None) -> None:
    """Print a table whose columns are the keys of its rows, in so many characters a line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    headings = list(rows[0]) if rows else []
    narrowest = 0
    for name in headings:
        numbers = all(_NUMBER.fullmatch(row[name]) for row in rows)
        # The last column has room for long words; the others are never broken.
        longest = max(map(len, name.split()))
        cells = [longest] if name == headings[-1] else map(len, (r[name] for r in rows))
        narrowest += max(longest, *cells) + _CELL_PADDING
        table.add_column(
            name,
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=name != headings[-1],
            min_width=longest,
        )
    for row in rows:
        table.add_row(*map(printable, row.values()))
    # Lines that are longer than the terminal are better than headings that are cut.
    width = max(width or terminal_width(), narrowest + _TABLE_EDGES)
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def plural(number: int, noun: str, several: str = "") -> str:
    """A number with its noun: ``1 file``, ``2 files``; `several` is an irregular plural."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def say(line: str) -> None:
    """Print one line that may hold names from files: what cannot be printed is shown as escapes."""
    typer.echo(printable(line))


def confirm_removal(told: str) -> bool:
    """Whether the user wants something removed, after a question on the terminal.

    Raises
    ------
    BenchError
        Nobody can be asked, since the input is no terminal.
    """
    if not sys.stdin.isatty():
        raise BenchError(f"{told}: add --yes to remove without a question")
    agreed = typer.confirm(f"Remove {printable(told)}?")
    if not agreed:
        say("nothing is removed")
    return agreed


def say_wrapped(line: str, indent: int) -> None:
    """Print a line that is broken between words, with its continuation indented."""
    text = textwrap.fill(
        printable(line),
        max(terminal_width(), 40),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    typer.echo(text)


def complain(message: str) -> None:
    """Print on standard error, as one line, what is wrong."""
    text = printable(" ".join(message.splitlines()))
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    typer.echo(f"bench: {text}", err=True)
