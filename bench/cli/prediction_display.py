"""Progress of a prediction."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bench.cli.display import ProgressDisplay
from bench.files import printable
from bench.prediction.watching import PredictionWatcher

_LINES = 20
"""Lines of progress of a prediction where standard error is a file."""


class _Rate(ProgressColumn):
    """Spots a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f} spots/s")


class PredictionDisplay(ProgressDisplay, PredictionWatcher):
    """A bar of spots; lines where standard error is a file."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        self._task: TaskID | None = None
        self._printed = 0

    def say(self, text: str) -> None:
        """Print it above the bar."""
        self.print(printable(text))

    def predicted(self, done: int, total: int) -> None:
        """Move the bar, or print a line each twentieth of the spots."""
        if self._task is None:
            self._task = self.bars.add_task("spots", total=total)
        self.bars.update(self._task, completed=done, total=total)
        if not self.console.is_terminal and done >= self._printed + total / _LINES:
            self._printed = done
            self.say(f"predicted {done:,} of {total:,} spots")
