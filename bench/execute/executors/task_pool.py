"""Tasks in the queue of a cluster: submission, adoption from earlier calls, monitoring."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data.card import join_names
from bench.errors import BenchError
from bench.execute.executors import slurm_client
from bench.execute.executors.profile import Profile
from bench.execute.executors.slurm_client import SlurmError, TaskState
from bench.execute.executors.submission import (
    Assignment,
    Submission,
    TaskReport,
    read_submissions,
    sbatch_options,
    script_path,
    write_submission,
)

RETRY_SECONDS = 60.0
"""Seconds between two attempts to submit a refused array."""


@dataclass(eq=False)
class Task:
    """One task of an array.

    Attributes
    ----------
    submission, number
        Submission with its assignments, and its number.
    state
        Last state in the queue, None if the queue does not list it.
    gone_since
        Time at which its end was first observed, in seconds of the monotonic clock.
    """

    submission: Submission
    number: int
    state: TaskState | None = None
    gone_since: float | None = None

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """Assignments of the task."""
        return self.submission.bundles[self.number]

    @property
    def address(self) -> tuple[str, int]:
        """Name of its array, and its number in it."""
        return self.submission.address(self.number)

    @property
    def log(self) -> Path:
        """Its output."""
        return self.submission.log(self.number)

    @property
    def end(self) -> str:
        """End of the task, as far as the queue shows it."""
        return "no longer in the queue" if self.state is None else str(self.state)

    def report(self) -> TaskReport:
        """Report of the task."""
        return self.submission.report(self.number)


@dataclass(eq=False)
class _Array:
    """An array that Slurm has not accepted yet."""

    submission: Submission
    number: int
    accepted: bool = False

    @property
    def name(self) -> str:
        return self.submission.array_name(self.number)

    def submit(self, profile: Profile) -> None:
        """Submit the array; raises SlurmError if it is refused."""
        options = sbatch_options(self.submission, self.number, profile)
        self.accept(slurm_client.submit(script_path(self.submission, self.number), options))

    def accept(self, job: str) -> None:
        """Record that the array is in the queue as this job."""
        self.accepted = True
        with contextlib.suppress(OSError):  # for users; tasks are identified by name
            self.submission.note_accepted(self.number, job)


class TaskPool:
    """Tasks that a call waits for.

    Parameters
    ----------
    profile
        Resources and options of the tasks.
    array_limit
        Maximum number of tasks of an array.
    results
        The results folder.
    request
        Request that the tasks read; see :mod:`bench.execute.executors.submission`.
    warn
        Receives warnings.

    Attributes
    ----------
    tasks
        Tasks not yet removed as ended.
    """

    def __init__(
        self,
        profile: Profile,
        array_limit: int,
        results: Path,
        request: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self.tasks: list[Task] = []
        self._profile = profile
        self._array_limit = array_limit
        self._results = results
        self._request = request
        self._warn = warn
        self._refused: list[_Array] = []
        self._retry_at = 0.0
        self._silent = False
        self._warned: set[str] = set()

    def describe(self, what: str, wanted: Callable[[Assignment], bool]) -> str:
        """Description in one line of the tasks in the queue.

        Parameters
        ----------
        what
            Work of the tasks, such as ``15 folds``.
        wanted
            Whether an assignment is part of it.
        """
        tasks = [task for task in self.tasks if any(map(wanted, task.assignments))]
        submissions = {task.submission.folder: task.submission for task in tasks}.values()
        jobs = [job for submission in submissions for job in submission.accepted().values()]
        said = f"{what}: {len(tasks)} tasks are queued or running in Slurm"
        said += f" ({'job' if len(jobs) == 1 else 'jobs'} {join_names(jobs)})" if jobs else ""
        if self._refused:
            arrays = self._refused
            refused = sum(len(array.submission.tasks_of(array.number)) for array in arrays)
            said += f"; {refused} of them have not been accepted yet, the same call submits them"
        return said

    def adopt(self, wanted: Callable[[Assignment], bool]) -> None:
        """Take over tasks of earlier calls that are still queued or running.

        Parameters
        ----------
        wanted
            Whether an assignment is part of this call.

        Raises
        ------
        SlurmError
            The controller does not answer.
        """
        candidates = [
            Task(submission, number)
            for submission in read_submissions(self._results)
            for number, bundle in enumerate(submission.bundles)
            if any(map(wanted, bundle))
        ]
        known = slurm_client.array_tasks({task.address[0] for task in candidates})
        for task in candidates:
            task.state = known.get(task.address)
            if task.state is not None and not task.state.ended:
                self.tasks.append(task)

    def submit(self, bundles: Sequence[Sequence[Assignment]], *, first: bool = False) -> bool:
        """Submit one task per bundle, in as many arrays as the cluster's limit requires.

        Arrays that Slurm refuses stay in the pool and are submitted later.

        Parameters
        ----------
        bundles
            Assignments of each task.
        first
            Whether this call has submitted nothing yet; then a refusal is an error, unless
            there are tasks of earlier calls.

        Returns
        -------
        bool
            Whether the tasks are in the pool; if not, try again later.

        Raises
        ------
        BenchError
            Nothing could be submitted, and there are no other tasks to wait for.
        """
        may_fail = first and not self.tasks
        if not may_fail and time.monotonic() < self._retry_at:
            return False
        try:
            submission = write_submission(
                self._results, self._request, bundles, self._profile, self._array_limit
            )
        except BenchError as error:
            if may_fail:
                raise
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._warn_once(f"{error}; it is tried again")
            return False
        arrays = [_Array(submission, number) for number in submission.arrays]
        refusal = self._press(arrays)
        if refusal is not None:
            if may_fail and not any(array.accepted for array in arrays):
                _check_seen(submission, refusal)
            self._warn_once(f"{refusal}; what was refused is submitted later")
        self._refused += [array for array in arrays if not array.accepted]
        self.tasks += [Task(submission, number) for number in range(len(bundles))]
        return True

    def look(self) -> None:
        """Query the state of all tasks, and submit refused arrays again.

        If the controller does not answer, warn once; the tasks keep their last state.
        """
        try:
            known = slurm_client.array_tasks({task.address[0] for task in self.tasks})
        except SlurmError as error:
            if not self._silent:
                self._warn(f"{error}; jobs may continue in the meantime, Slurm is queried again")
            self._silent = True
            return
        if self._silent:
            self._warn("Slurm answers again")
        self._silent = False
        for array in self._refused:
            # An apparent refusal may be a lost answer.
            jobs = {
                state.job
                for (name, _), state in known.items()
                if name == array.name and state.accepted
            }
            if jobs:
                array.accept(jobs.pop())
        if time.monotonic() >= self._retry_at:
            self._press(self._refused)
        unaccepted = {array.name for array in self._refused}  # including those refused just now
        self._refused = [array for array in self._refused if not array.accepted]
        now = time.monotonic()
        for task in self.tasks:
            task.state = known.get(task.address)
            here = task.state is not None and not task.state.ended
            if here or task.address[0] in unaccepted:
                task.gone_since = None
            elif task.gone_since is None:
                task.gone_since = now
            if task.state is not None and task.state.stuck:
                self._warn_once(f"a task waits in the queue until somebody acts: {task.state}")

    def take_gone(self) -> list[Task]:
        """Remove and return the tasks that ended so long ago that their results must be visible."""
        latest = time.monotonic() - self._profile.settle_seconds
        gone = [t for t in self.tasks if t.gone_since is not None and t.gone_since <= latest]
        self.tasks = [task for task in self.tasks if task not in gone]
        return gone

    def _press(self, arrays: Sequence[_Array]) -> SlurmError | None:
        """Try to submit arrays, up to the first refusal, as the next would be refused too."""
        for array in arrays:
            if not array.accepted:
                try:
                    array.submit(self._profile)
                except SlurmError as error:
                    self._retry_at = time.monotonic() + RETRY_SECONDS
                    return error
        return None

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._warn(message)


def _check_seen(submission: Submission, refusal: SlurmError) -> None:
    """Raise if Slurm has accepted nothing of a submission, and remove the submission.

    Raises
    ------
    SlurmError
        Always, unless the queue shows that it was accepted after all.
    """
    try:
        known = slurm_client.array_tasks({submission.array_name(0)})
    except SlurmError:
        # Keep the folder: if Slurm accepted it, the same call identifies its tasks by it.
        raise SlurmError(f"{refusal}; call again when Slurm answers") from refusal
    if not any(state.accepted for state in known.values()):
        shutil.rmtree(submission.folder, ignore_errors=True)
        raise SlurmError(f"nothing was submitted: {refusal}") from refusal
