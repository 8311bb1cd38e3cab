"""The quick preset on the demo, as ``bench run`` would do it."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contract.check import ContractError
from bench.contract.subject import Subject

QUICK_SECONDS = 60.0
"""Most time that all fits and predictions of the demo may take together."""
_CORES = 2


def is_quick_on_the_demo(subject: Subject) -> str:
    """Preset quick fits and predicts all folds of the demo within 60 seconds on two cores."""
    import torch

    from bench.comparison import carry_out
    from bench.execute.request import Request

    worked = time.process_time()
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, _CORES))
    try:
        with TemporaryDirectory(dir=subject.folder) as folder, subject.jobs() as watcher:
            request = Request(
                methods=(subject.kind.name,),
                dataset="demo",
                preset="quick",
                device="cpu",
                results=Path(folder),
                oracles=False,
            )
            outcome = carry_out(request, tracking="none", watcher=watcher)
            timings = [
                job.run.fold(job.fold).facts()["timings"]
                for job in outcome.plan.jobs()
                if job.run.fold(job.fold).is_done()
            ]
    finally:
        torch.set_num_threads(threads)
    if outcome.failures:
        first = outcome.failures[0]
        raise ContractError(
            f"{len(outcome.failures)} of {len(outcome.plan.jobs())} folds failed, first fold"
            f" {first.fold}: {first.reason}"
        )
    worked = time.process_time() - worked
    seconds = sum(part["fit_seconds"] + part["predict_seconds"] for part in timings)
    if seconds > QUICK_SECONDS:
        raise ContractError(
            f"it takes {seconds:.0f} s, more than {QUICK_SECONDS:.0f} s (with {worked:.0f} s of"
            " processor time; if that is much less, the machine is busy with something else)"
        )
    return f"{seconds:.1f} s"
