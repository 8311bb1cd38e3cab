"""Bars of progress on a terminal, and lines where standard error is a file."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.theme import Theme

_THEME = Theme(
    # The yellow and cyan of rich cannot be read on white.
    dict.fromkeys(
        (
            "progress.elapsed",
            "progress.remaining",
            "progress.download",
            "progress.data.speed",
            "progress.filesize.total",
        ),
        "default",
    )
)


class ProgressDisplay:
    """Bars on standard error, which vanish at the end; standard output is for results alone.

    Parameters
    ----------
    columns
        Columns of a bar.
    """

    def __init__(self, *columns: ProgressColumn) -> None:
        self.console = Console(stderr=True, highlight=False, theme=_THEME)
        self.bars = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def print(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(message, markup=False, soft_wrap=True)
