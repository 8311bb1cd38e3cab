"""The quick preset on the demo, run as by ``bench run``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contract.outcome import ContractError
from bench.contract.subject import Subject

QUICK_SECONDS = 60.0
"""Maximum seconds of all fits and predictions of the demo together."""
_CORES = 2


def is_quick_on_the_demo(subject: Subject) -> str:
    """Preset quick fits and predicts all folds of the demo within 60 seconds on two cores."""
    from bench.execute.executors.local import LocalExecutor
    from bench.execute.request import Request
    from bench.execute.run import run_request

    with TemporaryDirectory(dir=subject.folder) as folder, subject.jobs() as watcher:
        request = Request(
            methods=(subject.reference,),
            dataset="demo",
            preset="quick",
            settings=subject.settings,
            device="cpu",
            results=Path(folder),
            oracles=False,
        )
        outcome = run_request(request, watcher=watcher, executor=LocalExecutor(threads=_CORES))
        timings = [
            job.run.fold(job.fold).facts()["timings"]
            for job in outcome.plan.jobs()
            if job.run.fold(job.fold).is_done()
        ]
    if outcome.failures:
        first = outcome.failures[0]
        raise ContractError(
            f"{len(outcome.failures)} of {len(outcome.plan.jobs())} folds failed, first fold"
            f" {first.fold}: {first.reason}"
        )
    seconds = sum(part["fit_seconds"] + part["predict_seconds"] for part in timings)
    if seconds > QUICK_SECONDS:
        raise ContractError(
            f"it takes {seconds:.0f} s, more than {QUICK_SECONDS:.0f} s; on a machine that is busy"
            " with something else, repeat the check"
        )
    return f"{seconds:.1f} s"
