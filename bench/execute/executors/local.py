"""Jobs on this machine."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

from bench.errors import BenchError
from bench.execute.executors.base import Failure, Watcher
from bench.execute.job import run_fold
from bench.execute.plan import Job, Plan
from bench.files import atomic_write, one_line
from bench.store import FAILURE, disk_is_full, not_writable


class LocalExecutor:
    """Jobs one after another in this process."""

    def run(self, plan: Plan, watcher: Watcher, stored: Callable[[Job], None]) -> list[Failure]:
        """Run all jobs of a plan that are not done; see :class:`Executor`."""
        return run_jobs(plan.jobs(), watcher, force=plan.request.force, stored=stored)


def run_jobs(
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
