"""What the open folds of a study will cost, judged by what has been measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from bench.execute.plan import Job
from bench.store import RUN, RunFolder, folder_name, read_run
from bench.yaml_files import read_yaml

_FRESH = 3
"""Newest stored runs of a method that are looked at."""

_RATES = Path(str(files("bench.study"))) / "rates.yaml"


@dataclass(frozen=True)
class FitCost:
    """Cost of one fit; NaN for what nothing tells.

    Attributes
    ----------
    seconds
        Wall time on one device of the kind asked for.
    gpu_gb, disk_gb
        Memory of the GPU, and size of the stored fold, in 10^9 bytes.
    basis
        What it is judged by: ``stored folds``, ``docs/performance.md`` or empty.
    """

    seconds: float = math.nan
    gpu_gb: float = math.nan
    disk_gb: float = math.nan
    basis: str = ""


@dataclass(frozen=True)
class _Measured:
    dataset: str
    sections: int
    seconds: float
    gpu_gb: float
    disk_gb: float


def fit_costs(jobs: Sequence[Job], preset: str) -> list[FitCost]:
    """Cost of each job.

    A fold of the same method, settings aside, and preset on the same dataset tells it; else one on
    another dataset, by its number of training sections; else the rates of ``docs/performance.md``
    for a method with the authors' settings, by spots times epochs.

    Parameters
    ----------
    jobs
        Jobs of one dataset.
    preset
        Their preset.
    """
    known: dict[str, list[_Measured]] = {}
    costs = []
    for job in jobs:
        label = job.method_spec.label
        if label not in known:
            known[label] = list(_measured(job.run.results, label, preset, job.device))
        costs.append(_by_folds(job, known[label]) or _by_rates(job, preset) or FitCost())
    return costs


def _measured(results: Path, label: str, preset: str, device: str) -> Iterable[_Measured]:
    paths = (results / "runs").glob(f"*/*/{folder_name(label)}-*/{RUN}")
    for path in sorted(paths, key=lambda one: one.stat().st_mtime)[-_FRESH:]:
        facts = read_run(path.parent)
        if facts is None or facts["label"] != label or facts["preset"] not in {preset, "-"}:
            continue
        run = RunFolder(path.parent, facts["key"])
        for index in range(int(facts["n_folds"])):
            fold = run.fold(index)
            if not fold.state("tables").done:
                continue
            of_fold = fold.facts()
            if of_fold["device"] != device:
                continue
            size = sum(one.stat().st_size for one in fold.path.rglob("*") if one.is_file())
            memory = of_fold.get("peak_device_memory_mb")
            yield _Measured(
                facts["dataset"],
                len(of_fold["train"]),
                sum(of_fold["timings"].values()),
                math.nan if memory is None else memory / 1000,
                size / 1e9,
            )


def _by_folds(job: Job, folds: Sequence[_Measured]) -> FitCost | None:
    if not folds:
        return None
    dataset, sections = job.source.dataset.card.name, _training_sections(job)
    same = [fold for fold in folds if fold.dataset == dataset]
    shares = [1.0 if same else sections / max(1, fold.sections) for fold in same or folds]
    pairs = list(zip(same or folds, shares, strict=True))
    return FitCost(
        median(fold.seconds * share for fold, share in pairs),
        max((fold.gpu_gb for fold, _ in pairs if not math.isnan(fold.gpu_gb)), default=math.nan),
        median(fold.disk_gb * share for fold, share in pairs),
        "stored folds",
    )


def _by_rates(job: Job, preset: str) -> FitCost | None:
    rates: dict[str, dict[str, dict[str, Any]]] = read_yaml(_RATES)
    spec = job.method_spec
    rate = rates.get(job.device, {}).get(spec.name or "")
    epochs = spec.config.get("epochs")
    if rate is None or preset != "authors" or spec.shuffled or not isinstance(epochs, int):
        return None
    train = job.source.learned
    spots = len(job.source.dataset.section(train[0]).adata) * len(train)
    return FitCost(
        seconds=spots * epochs / rate["images"],
        gpu_gb=rate.get("gpu_gb", math.nan),
        basis="docs/performance.md",
    )


def _training_sections(job: Job) -> int:
    return len(job.source.learned)


def total(costs: Sequence[FitCost]) -> dict[str, Any]:
    """Sum of costs: ``hours``, ``gpu_gb`` (largest), ``disk_gb``, ``unknown`` fits, ``basis``.

    Sums leave out what is unknown.
    """
    hours = sum(cost.seconds for cost in costs if not math.isnan(cost.seconds)) / 3600
    memory = [cost.gpu_gb for cost in costs if not math.isnan(cost.gpu_gb)]
    return {
        "hours": hours,
        "gpu_gb": max(memory, default=math.nan),
        "disk_gb": sum(cost.disk_gb for cost in costs if not math.isnan(cost.disk_gb)),
        "unknown": sum(math.isnan(cost.seconds) for cost in costs),
        "basis": sorted({cost.basis for cost in costs if cost.basis}),
    }
