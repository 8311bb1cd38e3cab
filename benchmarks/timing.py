"""Rates of variants that take turns, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bench.execute.environment import package_versions

Rates = Mapping[str, Sequence[float]]
"""Images or queries per second of each variant, one value a round; the harness is the first."""


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Duration of `work`, including what it has queued on the device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait until the device has finished its queue."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def summary(rates: Rates) -> dict[str, Any]:
    """Rates of each variant, and ratios of the first to the others, round by round."""
    first, *others = rates
    found: dict[str, Any] = {name: spread(values) for name, values in rates.items()}
    for name in others:
        pairs = zip(rates[first], rates[name], strict=True)
        found[f"ratio_to_{name}"] = spread([own / other for own, other in pairs])
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum, maximum and all values."""
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "all": list(values),
    }


def machine(device: str) -> dict[str, Any]:
    """Processor, usable cores, load, device and versions, as JSON values."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu_model(),
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": package_versions(),
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            models = [line.partition(":")[2] for line in stream if line.startswith("model name")]
    except OSError:
        models = []
    return models[0].strip() if models else platform.processor() or platform.machine()
