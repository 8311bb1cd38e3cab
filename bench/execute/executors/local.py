"""Jobs on this machine: one worker process per job, several at a time on request."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import connection as connections
from pathlib import Path
from typing import Any, ClassVar, Literal

from bench.cache import cache_folder
from bench.claims import check_held, claim
from bench.errors import BenchError, StoreError, TrainingError
from bench.execute.executors.base import Failure, JobWatcher
from bench.execute.in_process import InProcess
from bench.execute.inputs import FoldInputs, InputsOfFolds
from bench.execute.job import fit_task, job_keys, rescore, run_ensemble, run_oracle, store_fit
from bench.execute.keys import fit_key
from bench.execute.plan import Job, Plan
from bench.files import one_line
from bench.store import FAILURE, disk_is_full, not_writable
from bench.worker.process import Worker, WorkerFailedError, WorkerRefusedError, start_server
from bench.worker.task import task_text

Isolation = Literal["process", "none"]
ISOLATIONS: Mapping[str, Isolation] = {"process": "process", "none": "none"}

_POLL_SECONDS = 0.5
_LOG = "log.txt"


@dataclass(frozen=True)
class LocalExecutor:
    """Jobs in worker processes of this machine.

    Attributes
    ----------
    jobs
        Number of parallel workers; the cores are divided among them.
    gpus
        Numbers of the GPUs that workers use, one each in turn; torch's choice where empty.
    time_limit
        Seconds that the fit and prediction of one job may take, None without limit.
    isolation
        ``none`` fits and predicts in this process, for debugging; the result records it.
    threads
        Threads of a worker; None: its share of the cores.
    """

    elsewhere: ClassVar[bool] = False

    jobs: int = 1
    gpus: tuple[int, ...] = ()
    time_limit: float | None = None
    isolation: Isolation = "process"
    threads: int | None = None

    def run(self, plan: Plan, watcher: JobWatcher, stored: Callable[[Job], None]) -> list[Failure]:
        """Run all jobs of a plan that are not done; see :class:`Executor`."""
        force = plan.request.force
        return run_jobs(plan.jobs(), watcher, force=force, stored=stored, where=self)


def run_jobs(
    jobs: Sequence[Job],
    watcher: JobWatcher,
    *,
    force: bool = False,
    stored: Callable[[Job], None] = lambda job: None,
    where: LocalExecutor | None = None,
) -> list[Failure]:
    """Run jobs on this machine; finished folds are skipped unless `force`.

    Folds that another process works on are waited for. A method that fails, for any reason,
    loses its fold, whose folder then contains the reason. Data or settings that a method of this
    package refuses, and a store that cannot be written, end the call.

    Parameters
    ----------
    jobs
        Jobs, in the order in which they are started.
    watcher
        Receives events.
    force
        Whether to repeat finished folds.
    stored
        Called after each job whose result has been written.
    where
        Workers, GPUs, time limit.

    Returns
    -------
    list of Failure
        Jobs whose method failed.

    Raises
    ------
    BenchError
        As above.
    """
    loop = _Loop(jobs, watcher, force, stored, where or LocalExecutor())
    try:
        loop.run()
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise not_writable(Path(error.filename or cache_folder()), error) from error
    finally:
        loop.close()
    return loop.failures


@dataclass
class _Running:
    """A job that a worker is running."""

    job: Job
    inputs: FoldInputs
    slot: int
    worker: Worker | InProcess
    held: ExitStack
    timings: dict[str, float]
    lease: Any
    started: float = field(default_factory=time.perf_counter)


class _Loop:
    def __init__(
        self,
        jobs: Sequence[Job],
        watcher: JobWatcher,
        force: bool,
        stored: Callable[[Job], None],
        where: LocalExecutor,
    ) -> None:
        self.failures: list[Failure] = []
        self._pending = list(jobs)
        self._watcher, self._force, self._stored, self._where = watcher, force, stored, where
        self._running: list[_Running] = []
        self._folds = InputsOfFolds()
        self._begun = time.time()
        self._refused: set[int] = set()  # jobs that other processes were running first
        self._slots = max(where.jobs, len(where.gpus))
        self._networks = any(job.method_spec.needs_image for job in jobs)

    def run(self) -> None:
        while self._pending or self._running:
            began = self._begin()
            if self._running:
                waits = [on for running in self._running for on in running.worker.waits_on]
                connections.wait(waits, self._wait_seconds())
                for running in list(self._running):
                    self._step(running)
            elif self._pending and not began:
                time.sleep(_POLL_SECONDS)  # other processes run all remaining jobs

    def close(self) -> None:
        for running in list(self._running):
            self._end(running)
        self._folds.close()

    def _wait_seconds(self) -> float:
        """Maximum wait in seconds; an interruption raised by another thread is seen after it."""
        left = [running.worker.seconds_left for running in self._running]
        waits = [seconds for seconds in left if seconds is not None]
        return min([_POLL_SECONDS, *waits])

    # ------------------------------------------------------------------------ beginning

    def _begin(self) -> bool:
        """Start the jobs that can be started; True if any was."""
        began = False
        for job in list(self._pending):
            if len(self._running) >= self._slots:
                break
            if self._waits_for_its_method(job):
                continue
            if self._begin_one(job):
                self._pending.remove(job)
                began = True
        return began

    def _waits_for_its_method(self, job: Job) -> bool:
        """Whether the job is a permuted-image control whose method has not been fitted yet."""
        if job.twin is None:
            return False
        others = [*self._pending, *(running.job for running in self._running)]
        source = job.twin.fold(job.fold).path
        return any(other.folder.path == source for other in others)

    def _begin_one(self, job: Job) -> bool:
        """Start a job, or skip it if done; False if another process is running it."""
        inputs = self._folds.of(job.source)
        known = id(job) in self._refused
        if not known and not self._force and self._is_settled(job, inputs):
            return True
        held = ExitStack()
        try:
            lease = held.enter_context(claim(job.folder.claim_file))
        except StoreError:
            if not os.access(job.folder.path.parent, os.W_OK):
                raise
            self._refused.add(id(job))
            return False
        try:
            if known and self._was_settled_by_another(job, inputs):
                held.close()
                return True
            self._start(job, inputs, held, lease)
        except BaseException:
            held.close()
            raise
        return True

    def _is_settled(self, job: Job, inputs: FoldInputs) -> bool:
        """Whether the result exists with its scores; reports it to the watcher."""
        fit, score = job_keys(job, inputs)
        state = job.folder.state()
        if state.damage and state.fit_key in {"", fit}:
            self._watcher.warn(f"{job.name}: {state.damage}; it is done again")
        if not state.done or (state.fit_key, state.score_key) != (fit, score):
            return False
        self._watcher.job_skipped(job)
        return True

    def _was_settled_by_another(self, job: Job, inputs: FoldInputs) -> bool:
        """Whether the process that was running a job finished it or recorded its failure."""
        if self._is_settled(job, inputs):
            return True
        try:
            failed = (job.folder.path / FAILURE).stat().st_mtime >= self._begun
        except OSError:
            return False
        if failed:
            self._fail(job, f"{job.folder.failure()} (in another process)")
        return failed

    def _start(self, job: Job, inputs: FoldInputs, held: ExitStack, lease: Any) -> None:
        self._watcher.job_started(job)
        if job.method_spec.method is not None and self._where.isolation == "process":
            start_server(networks=self._networks)  # it imports while this process reads data
        self._folds.keep_only([inputs, *(running.inputs for running in self._running)])
        clock = time.perf_counter()
        try:
            fit, _ = job_keys(job, inputs)
            state = job.folder.state()
            if not self._force and state.done and state.fit_key == fit:
                rescore(job, inputs)
                held.close()
                self._stored(job)
                self._watcher.job_rescored(job)
                return
            if job.method_spec.method is None:
                self._run_here(job, inputs, held)
                return
            twin = self._twin_is_done(job, inputs)
            task = fit_task(job, inputs, twin_done=twin)
            timings = {"data_seconds": round(time.perf_counter() - clock, 4)}
        except OSError as error:
            raise not_writable(job.folder.path, error) from error
        slot = min(set(range(self._slots)) - {running.slot for running in self._running})
        worker = self._worker(job, inputs, slot, task_text(task))
        self._running.append(_Running(job, inputs, slot, worker, held, timings, lease))

    def _run_here(self, job: Job, inputs: FoldInputs, held: ExitStack) -> None:
        """Run an oracle or an ensemble, which need no worker."""
        try:
            (run_ensemble if job.members else run_oracle)(job, inputs)
        except TrainingError as error:
            job.folder.fail(str(error), "")
            held.close()
            self._fail(job, str(error))
            return
        held.close()
        self._stored(job)
        self._watcher.job_done(job)

    def _twin_is_done(self, job: Job, inputs: FoldInputs) -> bool:
        if job.twin is None:
            return False
        fitted = job.twin.fold(job.fold).state()
        handed_over = inputs.hashes.seen_by(job.method_spec)
        return fitted.done and fitted.fit_key == fit_key(job.twin.key, job.fold, handed_over)

    def _worker(self, job: Job, inputs: FoldInputs, slot: int, text: str) -> Worker | InProcess:
        def answer(message: Mapping[str, Any]) -> Mapping[str, Any] | None:
            if message["kind"] == "progress":
                done, total = int(message["done"]), int(message["total"])
                self._watcher.job_progress(job, done, total, one_line(message["note"], 100))
                return None
            given = inputs.answer(message, job.method_spec.config)
            return given or {"error": f"no such question: {one_line(message['kind'])}"}

        if self._where.isolation == "none":
            return InProcess(text, inputs, answer)
        gpus = self._where.gpus
        return Worker(
            "fit",
            text,
            answer=answer,
            log=job.folder.work.absolute() / _LOG,
            threads=self._threads(),
            environment={"CUDA_VISIBLE_DEVICES": str(gpus[slot % len(gpus)])} if gpus else {},
            time_limit=self._where.time_limit,
        )

    def _threads(self) -> int | None:
        if self._where.threads is not None or self._slots == 1:
            return self._where.threads
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return max(1, (cores or 1) // self._slots)

    # --------------------------------------------------------------------------- ending

    def _step(self, running: _Running) -> None:
        job = running.job
        try:
            if not running.worker.step():
                return
        except BaseException:
            self._end(running)
            raise
        try:
            answer = running.worker.result()
            spent = float(answer["fit_seconds"]) + float(answer["predict_seconds"])
            whole = time.perf_counter() - running.started
            running.timings["worker_seconds"] = round(max(0.0, whole - spent), 4)
            check_held(running.lease)
            isolation = {"isolation": self._where.isolation, "threads": self._threads()}
            store_fit(job, running.inputs, answer, running.timings, isolation)
        except WorkerRefusedError as error:
            facts = job.method_spec.facts
            if facts is not None and facts.built_in:
                self._end(running)
                raise error.original from error
            self._end_failed(running, str(error), "")
        except WorkerFailedError as error:
            if disk_is_full(error):
                self._end(running)
                raise not_writable(job.folder.path, error) from error
            self._end_failed(running, str(error), error.details)
        except BenchError:
            self._end(running)
            raise
        except Exception as error:
            if disk_is_full(error) or isinstance(error, OSError):
                self._end(running)
                raise not_writable(job.folder.path, error) from error
            reason = f"{type(error).__name__}: {one_line(error, 400)}"
            self._end_failed(running, reason, traceback.format_exc())
        else:
            self._end(running)
            self._stored(job)
            self._watcher.job_done(job)

    def _end_failed(self, running: _Running, reason: str, details: str) -> None:
        try:
            running.job.folder.fail(reason, details)
        except OSError as error:
            raise not_writable(running.job.folder.path, error) from error
        finally:
            self._end(running)
        self._fail(running.job, reason)

    def _fail(self, job: Job, reason: str) -> None:
        self.failures.append(Failure(job.row, job.fold, reason))
        self._watcher.job_failed(job, reason)

    def _end(self, running: _Running) -> None:
        if running in self._running:
            self._running.remove(running)
        running.worker.end()
        shutil.rmtree(running.job.folder.work, ignore_errors=True)
        running.held.close()
