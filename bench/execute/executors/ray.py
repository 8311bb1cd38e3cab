"""Jobs as tasks of a Ray cluster. The Ray library is imported when a cluster is used, not before.

A task runs one job with the same code as on this machine, so its numbers are the same. A node that
is lost interrupts the tasks that ran on it; Ray restarts them on other nodes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from bench.claims import check_held, claim
from bench.errors import BenchError, StoreError
from bench.execute.executors.base import Failure, JobWatcher
from bench.execute.executors.local import run_jobs
from bench.execute.executors.ray_cluster import AUTO, connected
from bench.execute.executors.ray_node import JobReport, installation, run_parcel, run_work
from bench.execute.executors.ray_object_store import ObjectStore
from bench.execute.executors.ray_transfer import Parcel, SharedDisk, Transfer
from bench.execute.executors.weights import fetch_weights
from bench.execute.inputs import InputsOfFolds
from bench.execute.job import job_keys
from bench.execute.plan import Job, Plan
from bench.files import one_line
from bench.method_references import is_file

RETRIES = 3
"""Maximum number of restarts of a task whose node or process was lost."""

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5.0
"""Seconds for cancelled tasks to end by themselves, before their processes are killed."""

_AHEAD = 2
"""Submitted tasks per task that can run, so that a node need not wait for the next."""


@dataclass(frozen=True)
class RayExecutor:
    """Jobs as tasks of a Ray cluster.

    Attributes
    ----------
    address
        ``HOST:PORT`` of the cluster, ``auto`` for the one that runs on this machine, or ``local``
        to start Ray on this machine for this call.
    shared_disk
        Whether all nodes see the results folder and the data under the same paths.
    cpus
        CPUs of a task.
    gpus
        GPUs of a task, which may be a fraction; tasks that run on a CPU take none.
    """

    elsewhere: ClassVar[bool] = True

    address: str = AUTO
    shared_disk: bool = True
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise BenchError(f"--ray-gpus {self.gpus:g}: above 1, a task takes whole GPUs")

    def run(self, plan: Plan, watcher: JobWatcher, stored: Callable[[Job], None]) -> list[Failure]:
        """Run all jobs of a plan that are not done; see :class:`~.base.Executor`."""
        force = plan.request.force
        jobs = [self.placed(job, plan.request.device) for job in plan.jobs()]
        if self.gpus and not any(job.device == "cuda" for job in jobs):
            watcher.warn("no method of this call uses a GPU; --ray-gpus has no effect")
        fitted, left = ([], jobs) if force else _divided(jobs)
        # Skipped, or scored again from stored predictions, which needs no cluster.
        failures = run_jobs(fitted, watcher, stored=stored) if fitted else []
        if not left:
            return failures
        self.prepare(left)
        with connected(self.address) as ray, self._transfer(plan.request.results) as transfer:
            tasks = _Tasks(ray, self, transfer, left, watcher, stored, force=force)
            tasks.run()
        return failures + tasks.failures

    def placed(self, job: Job, device: str) -> Job:
        """Return a job with its device on a node.

        Parameters
        ----------
        job
            Job planned on this machine, which may have other devices.
        device
            Device requested by the user; ``auto`` is the GPU of a task that has one.

        Raises
        ------
        BenchError
            A GPU is requested as device, but not as resource of a task.
        """
        if device == "auto":
            on_gpu = bool(self.gpus) and job.method_spec.needs_image
            return replace(job, device="cuda" if on_gpu else "cpu")
        if job.device == "cuda" and not self.gpus:
            raise BenchError(
                "a task of Ray sees no GPU unless it asks for one: name --ray-gpus, such as 1 or"
                " 0.5, or --device cpu"
            )
        return job

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Fetch the weights that jobs need, since nodes do not download.

        Raises
        ------
        BenchError
            A method is a file that nodes do not see, or weights cannot be fetched.
        """
        if self.shared_disk:
            fetch_weights(jobs)
            return
        for job in jobs:
            if is_file(str(job.method_spec.method)):
                raise BenchError(
                    f"{job.method_spec.label}: with --no-shared-disk nodes do not see the file of"
                    " the method; install it as a package on all nodes"
                )

    def run_workers(
        self, job: Job, work: Callable[[Job], None], number: int, told: Callable[[], None]
    ) -> str:
        """Call a function in several parallel tasks, the workers of a tuning study.

        Parameters
        ----------
        job
            Argument of the function; on each node its paths are those of the node.
        work
            Module-level function, or a partial of one. It is called again if its node is lost.
        number
            Number of tasks.
        told
            Called at intervals while they run.

        Returns
        -------
        str
            Reason why a task was lost after all restarts; empty if none was.

        Raises
        ------
        BenchError
            Error raised by the function.
        """
        with connected(self.address) as ray, self._transfer(job.run.results) as transfer:
            task = self._task(ray, run_work, job)
            parcel, expected = transfer.parcel(job), installation()
            running = [task.remote(parcel, work, expected) for _ in range(number)]
            lost = ""
            try:
                while running:
                    ready, running = ray.wait(running, timeout=_POLL_SECONDS)
                    told()
                    for reference in ready:
                        report = _report(ray, reference)
                        if report.outcome == "refused":
                            raise BenchError(report.reason)
                        lost = report.reason or lost
            except BaseException:
                cancel(ray, running)
                raise
        return lost

    def check_storage(self, storage: str | None) -> None:
        """Check that all nodes can reach the storage of a tuning study.

        Raises
        ------
        BenchError
            It is a file without a shared disk, or an SQLite file.
        """
        server = "a database server with --storage, such as postgresql+psycopg://user@host/name"
        if storage is None and not self.shared_disk:
            raise BenchError(f"--no-shared-disk: all nodes must reach the trials; name {server}")
        if storage is not None and storage.startswith("sqlite"):
            raise BenchError(f"several machines cannot share an SQLite file; name {server}")

    @contextmanager
    def _transfer(self, results: Path) -> Iterator[Transfer]:
        with closing(SharedDisk(results) if self.shared_disk else ObjectStore()) as transfer:
            yield transfer

    def _task(self, ray: ModuleType, function: Callable[..., JobReport], job: Job) -> Any:
        return ray.remote(function).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus if job.device == "cuda" else 0,
            max_retries=RETRIES,
            name=f"{job.name}",
        )


@dataclass
class _RunningTask:
    """A submitted job and the claim held for it."""

    number: int
    job: Job
    held: ExitStack
    lease: Any = None
    task: Any = None
    begun: int = 0


class _Tasks:
    """Tasks of a call: submits them, receives their events, stores their results."""

    def __init__(
        self,
        ray: ModuleType,
        executor: RayExecutor,
        transfer: Transfer,
        jobs: Sequence[Job],
        watcher: JobWatcher,
        stored: Callable[[Job], None],
        *,
        force: bool,
    ) -> None:
        self.failures: list[Failure] = []
        self._ray, self._executor, self._transfer = ray, executor, transfer
        self._pending = dict(enumerate(jobs))
        self._running: dict[Any, _RunningTask] = {}
        self._watcher, self._stored, self._force = watcher, stored, force
        self._expected = installation()
        self._events = _queue_here(ray)
        self._refused: set[int] = set()  # jobs that other processes were running first
        self._limit = _AHEAD * slots(ray, executor, watcher.warn)

    def run(self) -> None:
        try:
            while self._pending or self._running:
                self._submit()
                if not self._running:
                    time.sleep(_POLL_SECONDS)  # other processes run all remaining jobs
                    continue
                ready, _ = self._ray.wait(list(self._running), timeout=_POLL_SECONDS)
                self._listen()
                for reference in ready:
                    self._end(self._running.pop(reference), _report(self._ray, reference))
        except BaseException:
            cancel(self._ray, list(self._running))
            raise
        finally:
            for running in self._running.values():
                running.held.close()

    def _submit(self) -> None:
        for number, job in list(self._pending.items()):
            if len(self._running) >= self._limit:
                return
            if self._waits_for_its_method(job):
                continue
            running = _RunningTask(number, job, ExitStack())
            if not self._executor.shared_disk and not self._claim(running):
                continue
            del self._pending[number]
            if number in self._refused and not self._force and _divided([job])[0]:
                running.held.close()
                self._watcher.job_skipped(job)
                continue
            try:
                self._send(running)
            except BaseException:
                running.held.close()
                raise

    def _send(self, running: _RunningTask) -> None:
        task = self._executor._task(self._ray, _run_and_tell, running.job)
        parcel = self._transfer.parcel(running.job)
        running.task = task.remote(
            parcel, running.number, self._force, self._expected, self._events
        )
        self._running[running.task] = running

    def _waits_for_its_method(self, job: Job) -> bool:
        """Whether the job is a permuted-image control whose method has not been fitted yet."""
        if job.twin is None:
            return False
        path = job.twin.fold(job.fold).path
        others = [*self._pending.values(), *(running.job for running in self._running.values())]
        return any(other.folder.path == path for other in others)

    def _claim(self, running: _RunningTask) -> bool:
        """Claim a fold for a node that cannot do so itself; False if another process holds it."""
        folder = running.job.folder
        try:
            running.lease = running.held.enter_context(claim(folder.claim_file))
        except StoreError:
            if not os.access(folder.path.parent, os.W_OK):
                raise
            self._refused.add(running.number)
            return False
        return True

    def _listen(self) -> None:
        """Pass on the events of the tasks."""
        running = {one.number: one for one in self._running.values()}
        while waiting := self._events.qsize():
            for kind, number, *facts in self._events.get_nowait_batch(waiting):
                if number not in running:
                    continue
                if kind == "started":
                    self._start(running[number])
                elif kind == "progress":
                    self._watcher.job_progress(running[number].job, *facts)
                else:
                    self._watcher.warn(*facts)

    def _start(self, running: _RunningTask) -> None:
        job = running.job
        running.begun += 1
        if running.begun == 1:
            self._watcher.job_started(job)
            return
        self._watcher.warn(f"{job.name}: begun again, its node was lost")
        if running.begun > RETRIES + 1:
            # By default Ray restarts a task without limit if its node ran out of memory.
            self._ray.cancel(running.task, force=True)

    def _end(self, running: _RunningTask, report: JobReport) -> None:
        job = running.job
        with running.held:
            if report.outcome == "refused":
                raise BenchError(report.reason)
            if report.outcome != "skipped" and not running.begun:
                self._start(running)
            if report.outcome in {"failed", "lost"}:
                self._fail(running, report)
                return
            if running.lease is not None:
                check_held(running.lease)
            self._transfer.take(job, report.result)
        if report.outcome == "skipped":
            self._watcher.job_skipped(job)
            return
        self._stored(job)
        if report.outcome == "rescored":
            self._watcher.job_rescored(job)
        else:
            self._watcher.job_done(job)

    def _fail(self, running: _RunningTask, report: JobReport) -> None:
        job = running.job
        if report.outcome == "lost" or not self._executor.shared_disk:
            job.folder.fail(report.reason, report.details)
        self.failures.append(Failure(job.row, job.fold, report.reason))
        self._watcher.job_failed(job, report.reason)


def _run_and_tell(
    parcel: Parcel, number: int, force: bool, expected: Mapping[str, str], events: Any
) -> JobReport:
    """Run a job and send its events; executed by a task."""

    def tell(event: tuple[Any, ...]) -> None:
        # While waiting for the queue, a task would release its CPU to another one.
        events.actor.put_nowait.remote(event)

    return run_parcel(parcel, number, force, expected, tell)


def _report(ray: ModuleType, reference: Any) -> JobReport:
    """Report of an ended task."""
    try:
        report: JobReport = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # Errors of methods are in the report; this is the node's installation or a bug here.
        return JobReport("refused", fault(ray, error))
    except ray.exceptions.RayError as error:
        return JobReport("lost", fault(ray, error), str(error))
    return report


def fault(ray: ModuleType, error: Exception) -> str:
    """Reason in one line why a task has no value.

    Parameters
    ----------
    ray
        The library.
    error
        What getting the value raised.
    """
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = getattr(error, "cause", error)
        return f"a node failed: {type(cause).__name__}: {one_line(cause, 300)}"
    return f"its node or process was lost too often ({type(error).__name__})"


def cancel(ray: ModuleType, references: Sequence[Any]) -> None:
    """Cancel tasks; kill those that do not end by themselves."""
    for reference in references:
        with suppress(ray.exceptions.RayError):
            ray.cancel(reference)
    if references:
        _, left = ray.wait(list(references), num_returns=len(references), timeout=_GRACE_SECONDS)
        for reference in left:
            with suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)


def _queue_here(ray: ModuleType) -> Any:
    """Queue that tasks write into, located on this machine."""
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def slots(ray: ModuleType, executor: RayExecutor, warn: Callable[[str], None]) -> int:
    """Number of tasks that the cluster can run at a time, at least one."""
    cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    slots = sum(int(number // executor.cpus) for number in cpus)
    if not slots:
        warn(f"no node of the cluster has {executor.cpus} CPUs; tasks wait until there is one")
    return max(1, slots)


def _divided(jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Jobs with a stored fit, with or without its scores, and the other jobs."""
    fitted: list[Job] = []
    left: list[Job] = []
    with closing(InputsOfFolds()) as folds:
        for job in jobs:
            state = job.folder.state()
            known = state.done and state.fit_key == job_keys(job, folds.of(job.source))[0]
            (fitted if known else left).append(job)
    return fitted, left
