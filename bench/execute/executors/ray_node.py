"""Work on a node of a Ray cluster: check the node, run one job, report."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from bench.errors import BenchError
from bench.execute.encoders import encoder_identity
from bench.execute.environment import package_versions
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.local import run_jobs
from bench.execute.executors.node_task import forbid_downloads
from bench.execute.executors.ray_transfer import Parcel, ReturnedFiles
from bench.execute.plan import Job
from bench.sources import code_hash
from bench.store import FAILURE
from bench.worker.process import WorkerFailedError, run_worker

_CODE = (
    *("bench.worker.fitting", "bench.worker.handover", "bench.worker.child"),
    *("bench.execute.scoring", "bench.execute.executors.local"),
)
_PROGRESS_SECONDS = 1.0
"""Minimum seconds between two reports of a fit's progress."""

Tell = Callable[[tuple[Any, ...]], None]
"""Function that receives an event: its kind, the job's number, and details."""


@dataclass(frozen=True)
class JobReport:
    """Outcome of a job.

    Attributes
    ----------
    outcome
        ``done``, ``rescored``, ``skipped``, ``failed`` (the method), ``refused`` (the request) or
        ``lost`` (the node).
    reason, details
        Reason of a failure in one line, and details for the failure file.
    result
        Files that the caller has to store.
    """

    outcome: str
    reason: str = ""
    details: str = ""
    result: ReturnedFiles = field(default_factory=ReturnedFiles)


def installation() -> dict[str, str]:
    """Versions that must be equal on all machines, by name: Python, packages, harness code."""
    versions = {"Python": ".".join(platform.python_version_tuple()[:2]), **package_versions()}
    return {**versions, "code of spotbench": code_hash(_CODE)[:12]}


def run_parcel(
    parcel: Parcel, number: int, force: bool, expected: Mapping[str, str], tell: Tell
) -> JobReport:
    """Run one job on this node.

    Parameters
    ----------
    parcel
        The job.
    number
        Number of the job, for `tell`.
    force
        Whether to repeat a finished fold.
    expected
        The caller's :func:`installation`.
    tell
        Receives the job's start and progress.
    """
    try:
        check_installation(expected)
        forbid_downloads()
        with parcel.opened() as job:
            _check_method(job)
            check_encoder(job.method_spec.config, job.encoder)
            teller = _Teller(number, tell)
            run_jobs([job], teller, force=force)
            if teller.outcome == "failed":
                return JobReport("failed", teller.reason, _details(job))
            return JobReport(teller.outcome, result=parcel.result(job))
    except BenchError as error:
        return JobReport("refused", str(error))


def run_work(parcel: Parcel, work: Callable[[Job], None], expected: Mapping[str, str]) -> JobReport:
    """Call a function with a job prepared for this node."""
    try:
        check_installation(expected)
        forbid_downloads()
        with parcel.opened() as job:
            _check_method(job)
            check_encoder(job.method_spec.config, job.encoder)
            work(job)
    except BenchError as error:
        return JobReport("refused", str(error))
    return JobReport("done")


class _Teller(JobWatcher):
    """Passes events to the caller, and stores the outcome of the job."""

    def __init__(self, number: int, tell: Tell) -> None:
        self.outcome, self.reason = "failed", "it was not begun"
        self._number, self._tell = number, tell
        self._last = 0.0

    def job_started(self, job: Job) -> None:
        self._tell(("started", self._number))

    def job_progress(self, job: Job, done: int, total: int, note: str) -> None:
        if time.monotonic() - self._last >= _PROGRESS_SECONDS:
            self._last = time.monotonic()
            self._tell(("progress", self._number, done, total, note))

    def job_skipped(self, job: Job) -> None:
        self.outcome = "skipped"

    def job_rescored(self, job: Job) -> None:
        self.outcome = "rescored"

    def job_done(self, job: Job) -> None:
        self.outcome = "done"

    def job_failed(self, job: Job, reason: str) -> None:
        self.outcome, self.reason = "failed", reason

    def warn(self, message: str) -> None:
        self._tell(("warn", self._number, message))


def _details(job: Job) -> str:
    with suppress(OSError, UnicodeError):
        text = (job.folder.path / FAILURE).read_text(encoding="utf-8")
        return text.partition("\n\n")[2]
    return ""


def check_installation(expected: Mapping[str, str]) -> None:
    """Compare the versions on this node with the caller's :func:`installation`.

    Raises
    ------
    BenchError
        A version differs.
    """
    here = _installation()
    for name, version in expected.items():
        if here.get(name) != version:
            raise BenchError(
                f"node {platform.node()} has {name} {here.get(name)}, the caller has {version};"
                " install the same versions on all nodes, or results would differ"
            )


@lru_cache(maxsize=1)
def _installation() -> Mapping[str, str]:
    return installation()


def _check_method(job: Job) -> None:
    facts, method = job.method_spec.facts, job.method_spec.method
    if facts is None or method is None:
        return
    code = _method_code(method, job.source.dataset.card.name)
    if code != dict(facts.code):
        raise BenchError(
            f"node {platform.node()} has other code of method {method} than the caller; install"
            " the same version on all nodes"
        )


def check_encoder(config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare the image encoder of settings with the caller's.

    Parameters
    ----------
    config
        Settings of a method.
    expected
        The caller's :func:`bench.execute.encoders.encoder_identity`.

    Raises
    ------
    BenchError
        This node has other weights, or none.
    """
    if encoder_identity(config) != expected:
        raise BenchError(
            f"node {platform.node()} has other weights of encoder {config['encoder']} than the"
            " caller; store the same on all nodes"
        )


@lru_cache(maxsize=64)
def _method_code(method: str, dataset: str) -> dict[str, str]:
    question = {"method": method, "dataset": dataset, "preset": "authors", "settings": {}}
    try:
        code: dict[str, str] = run_worker("describe", json.dumps(question))["facts"]["code"]
    except WorkerFailedError as error:
        raise BenchError(
            f"method '{method}' cannot be imported on node {platform.node()}: {error}"
        ) from error
    return code
