"""Progress of downloads."""

from __future__ import annotations

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from bench.cli.display import ProgressDisplay
from bench.fetch.download import Watcher


class DownloadDisplay(ProgressDisplay, Watcher):
    """One bar of bytes; one line a file where standard error is a file."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._task: TaskID | None = None
        self._files, self._done = 0, 0

    def planned(self, files: int, size: int | None) -> None:
        """Show an empty bar."""
        if self._task is not None:
            self.bars.remove_task(self._task)
        self._files, self._done = files, 0
        self._task = self.bars.add_task("", total=size)

    def started(self, path: str) -> None:
        """Name the file beside the bar."""
        if self._task is not None:
            what = f"{self._done + 1}/{self._files} {escape(path)}"
            self.bars.update(self._task, description=what)

    def received(self, size: int) -> None:
        """Move the bar, backwards where an attempt has failed."""
        if self._task is not None:
            self.bars.advance(self._task, size)

    def ended(self, path: str, fault: str | None) -> None:
        """Count the file; its fault is told at the end."""
        self._done += 1
        if not self.console.is_terminal:
            self.note(f"{path}: {'fetched' if fault is None else 'failed'}")

    def note(self, message: str) -> None:
        """Print it at once, above the bar."""
        self.print(message)
