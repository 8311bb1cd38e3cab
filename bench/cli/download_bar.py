"""What a person at a terminal sees while files are fetched."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from bench.fetch.download import Watcher


class DownloadBar(Watcher):
    """One bar of bytes on a terminal; one line a file where standard error is none."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._files, self._done = 0, 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def planned(self, files: int, size: int | None) -> None:
        """Show an empty bar."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._files, self._done = files, 0
        self._task = self._progress.add_task("", total=size)

    def started(self, path: str) -> None:
        """Name the file beside the bar."""
        if self._task is not None:
            what = f"{self._done + 1}/{self._files} {escape(path)}"
            self._progress.update(self._task, description=what)

    def received(self, size: int) -> None:
        """Move the bar, backwards where an attempt has failed."""
        if self._task is not None:
            self._progress.advance(self._task, size)

    def ended(self, path: str, fault: str | None) -> None:
        """Count the file; its fault is told at the end."""
        self._done += 1
        if not self._console.is_terminal:
            self.note(f"{path}: {'fetched' if fault is None else 'failed'}")

    def note(self, message: str) -> None:
        """Say it at once, above the bar."""
        self._console.print(message, markup=False, soft_wrap=True)
