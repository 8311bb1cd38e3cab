"""Interface of executors, and the watcher of their jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from bench.execute.plan import Job, Plan


class JobWatcher:
    """Receiver of events; the base class ignores them."""

    def planned(self, plan: Plan) -> None:
        """Report that the request has been checked."""

    def job_started(self, job: Job) -> None:
        """A job begins."""

    def job_progress(self, job: Job, done: int, total: int, note: str) -> None:
        """Report the progress of a fit."""

    def job_skipped(self, job: Job) -> None:
        """Report that the job's result already exists."""

    def job_rescored(self, job: Job) -> None:
        """Report that the job's stored predictions have been scored again without fitting."""

    def job_done(self, job: Job) -> None:
        """Report that the job's result has been stored."""

    def job_failed(self, job: Job, reason: str) -> None:
        """Report that the method failed; other jobs continue."""

    def warn(self, message: str) -> None:
        """Report a warning to the user."""


@dataclass(frozen=True)
class Failure:
    """A fold that did not finish, with the reason."""

    label: str
    fold: int
    reason: str


class Executor(Protocol):
    """Runs the jobs of a plan; their results are in the result store afterwards.

    Attributes
    ----------
    elsewhere
        Whether jobs run on other machines.
    """

    elsewhere: ClassVar[bool]

    def run(self, plan: Plan, watcher: JobWatcher, stored: Callable[[Job], None]) -> list[Failure]:
        """Run all jobs of a plan that are not done.

        Parameters
        ----------
        plan
            Jobs; with ``plan.request.force`` finished folds are repeated.
        watcher
            Receives events of every job, in this process.
        stored
            Called in this process after a result has been written.

        Returns
        -------
        list of Failure
            Jobs whose method failed; the others are done.

        Raises
        ------
        BenchError
            The request cannot be met, or the executor cannot be used.
        """
