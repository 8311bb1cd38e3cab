"""What every executor promises, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from bench.execute.plan import Job, Plan


class JobWatcher:
    """Told what happens; the base class ignores it."""

    def planned(self, plan: Plan) -> None:
        """The request has been checked."""

    def job_started(self, job: Job) -> None:
        """A job begins."""

    def job_progress(self, job: Job, done: int, total: int, note: str) -> None:
        """A fit has come so far."""

    def job_skipped(self, job: Job) -> None:
        """The job's result is there already."""

    def job_rescored(self, job: Job) -> None:
        """The job's stored predictions have been scored anew; nothing was fitted."""

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


class Executor(Protocol):
    """Runs the jobs of a plan somewhere; their results lie in the result store afterwards.

    Attributes
    ----------
    elsewhere
        Whether jobs run on other machines than this one.
    """

    elsewhere: ClassVar[bool]

    def run(self, plan: Plan, watcher: JobWatcher, stored: Callable[[Job], None]) -> list[Failure]:
        """Run all jobs of a plan that are not done.

        Parameters
        ----------
        plan
            What to do; ``plan.request.force`` redoes finished folds.
        watcher
            Told of every job, in this process.
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
