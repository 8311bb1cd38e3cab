"""Who runs the jobs. An executor decides where a job runs, never what it computes."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.errors import BenchError
from bench.execute.job import run_fold
from bench.execute.plan import Job, Plan
from bench.files import atomic_write, one_line
from bench.store import FAILURE, disk_is_full, not_writable


class Watcher:
    """Told what happens; the base class ignores it."""

    def planned(self, plan: Plan) -> None:
        """The request has been checked."""

    def job_started(self, job: Job) -> None:
        """A job begins."""

    def job_progress(self, job: Job, done: int, total: int, note: str) -> None:
        """A fit has come so far."""

    def job_skipped(self, job: Job) -> None:
        """The job's result is there already."""

    def job_done(self, job: Job) -> None:
        """The job's result has been stored."""

    def job_failed(self, job: Job, reason: str) -> None:
        """The method failed; other jobs go on."""

    def warn(self, message: str) -> None:
        """Something the user should know."""


@dataclass(frozen=True)
class Failure:
    """A fold that did not finish, and why."""

    label: str
    fold: int
    reason: str


def run_serially(
    jobs: Sequence[Job],
    watcher: Watcher,
    *,
    force: bool = False,
    stored: Callable[[Job], None] = lambda job: None,
) -> list[Failure]:
    """Run jobs one after another in this process; finished folds are skipped unless `force`.

    `stored` is called after each job whose result has been written.

    A method that fails costs its fold, whose folder then holds the traceback. A request that
    cannot be met, or a store that cannot be written, ends everything.

    Raises
    ------
    BenchError
        As above.
    """
    failures = []
    for job in jobs:
        folder = job.run.fold(job.fold)
        if not force and folder.is_done():
            watcher.job_skipped(job)
            continue
        watcher.job_started(job)

        def progress(done: int, total: int, note: str, job: Job = job) -> None:
            watcher.job_progress(job, done, total, note)

        try:
            run_fold(job, progress)
        except BenchError:
            raise
        except Exception as error:  # a method may fail in any way; its fold is reported missing
            if disk_is_full(error):
                raise not_writable(folder.path, error) from error
            reason = f"{type(error).__name__}: {one_line(error, 400)}"
            try:
                with atomic_write(folder.path / FAILURE) as temporary:
                    temporary.write_text(traceback.format_exc(), encoding="utf-8")
            except OSError as refused:
                raise not_writable(folder.path, refused) from refused
            failures.append(Failure(job.entrant.label, job.fold, reason))
            watcher.job_failed(job, reason)
        else:
            stored(job)
            watcher.job_done(job)
    return failures
