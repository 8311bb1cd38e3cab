"""Progress of a run."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.cli.display import ProgressDisplay
from bench.cli.terminal import plural
from bench.data.card import join_names
from bench.data.dataset import NO_IMAGE
from bench.execute.executors.base import JobWatcher
from bench.execute.plan import Job, Plan


class RunDisplay(ProgressDisplay, JobWatcher):
    """A bar a fit, and one of all folds; one line a fold where standard error is a file."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._all: TaskID | None = None
        self._fits: dict[str, TaskID] = {}

    def planned(self, plan: Plan) -> None:
        """Say what is run on what, and what was left out and why."""
        jobs, left_out = plan.jobs(), plan.left_out
        self.print(f"{plan.summary}; {plural(len(jobs), 'job')}")
        if left_out:
            reasons: dict[str, list[str]] = {}
            for name, reason in left_out.items():
                imageless = reason.startswith("image ") or reason == NO_IMAGE
                kind = "image" if imageless else "other"
                reasons.setdefault(kind, []).append(name)
            for kind, names in reasons.items():
                example = left_out[names[0]]
                what = "image" if kind == "image" else "file"
                why = f"its {what} is missing" if len(names) == 1 else f"their {what}s are missing"
                self.print(
                    f"left out {plural(len(names), 'section')} because {why}:"
                    f" {join_names(names, 40)}"
                    f" (for instance {example})"
                )
        self._all = self.bars.add_task("folds", total=len(jobs), note="")

    def job_started(self, job: Job) -> None:
        """Show a bar for the fit."""
        name = job.name
        self._fits[name] = self.bars.add_task(name, total=None, note="reading data")

    def job_progress(self, job: Job, done: int, total: int, note: str) -> None:
        """Move the fit's bar."""
        fit = self._fits.get(job.name)
        if fit is not None:
            self.bars.update(fit, completed=done, total=total, note=note)

    def job_skipped(self, job: Job) -> None:
        """Say that the fold was there."""
        self._end(job, "kept, it is done")

    def job_rescored(self, job: Job) -> None:
        """Say that nothing was fitted."""
        self._end(job, "scored again, its fit is kept")

    def job_done(self, job: Job) -> None:
        """Say how long the fold took."""
        facts = job.folder.facts()
        seconds = sum(facts.get("timings", {}).values())
        self._end(job, f"done in {seconds:.1f} s")
        for note in facts.get("notes", []):
            self.warn(f"{job.name}: {note}")

    def job_failed(self, job: Job, reason: str) -> None:
        """Say that the fold failed."""
        self._end(job, f"failed, {reason}")

    def warn(self, message: str) -> None:
        """Print it at once, above the bars."""
        self.print(f"warning: {message}")

    def _end(self, job: Job, message: str) -> None:
        fit = self._fits.pop(job.name, None)
        if fit is not None:
            self.bars.remove_task(fit)
        if self._all is not None:
            self.bars.advance(self._all)
        self.print(f"{job.name}: {message}")
