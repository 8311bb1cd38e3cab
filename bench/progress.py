"""What a person at a terminal sees while jobs run."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.data.card import join_names
from bench.execute.executors.base import JobWatcher
from bench.execute.plan import Job, Plan


class TerminalWatcher(JobWatcher):
    """Bars with the time left on a terminal; one line a fold where output is a file.

    Everything goes to standard error, so that standard output holds the table alone.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all: TaskID | None = None
        self._fits: dict[str, TaskID] = {}

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

    def planned(self, plan: Plan) -> None:
        """Say what is run on what, and what was left out and why."""
        dataset = plan.dataset
        jobs = plan.jobs()
        self._say(
            f"{dataset.card.name}: {len(dataset.hashes)} sections,"
            f" {len(set(plan.folds.patients.values()))} patients,"
            f" {len(plan.folds.folds)} folds ({plan.folds.hash[:12]}), protocol"
            f" {plan.protocol.name}; {len(jobs)} jobs"
        )
        if dataset.left_out:
            reasons: dict[str, list[str]] = {}
            for name, reason in dataset.left_out.items():
                kind = "image" if reason.startswith("image ") else "other"
                reasons.setdefault(kind, []).append(name)
            for kind, names in reasons.items():
                example = dataset.left_out[names[0]]
                why = "their image is missing" if kind == "image" else "their files are missing"
                self._say(
                    f"left out {len(names)} sections because {why}: {join_names(names, 40)}"
                    f" (for instance {example})"
                )
        self._all = self._progress.add_task("folds", total=len(jobs), note="")

    def job_started(self, job: Job) -> None:
        """Show a bar for the fit."""
        name = job.name
        self._fits[name] = self._progress.add_task(name, total=None, note="reading data")

    def job_progress(self, job: Job, done: int, total: int, note: str) -> None:
        """Move the fit's bar."""
        fit = self._fits.get(job.name)
        if fit is not None:
            self._progress.update(fit, completed=done, total=total, note=note)

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
        """Say it at once, above the bars."""
        self._say(f"warning: {message}")

    def _end(self, job: Job, message: str) -> None:
        fit = self._fits.pop(job.name, None)
        if fit is not None:
            self._progress.remove_task(fit)
        if self._all is not None:
            self._progress.advance(self._all)
        self._say(f"{job.name}: {message}")

    def _say(self, message: str) -> None:
        self._console.print(message, markup=False, soft_wrap=True)
