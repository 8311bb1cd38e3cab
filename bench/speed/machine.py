"""What a measurement of speed must say of the machine it was taken on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads of torch, memory, GPU and system, as JSON values."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def load_average() -> float | None:
    """Processes that wanted a core over the last minute; None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def busy_warning(load: float | None) -> str | None:
    """What to tell of a machine that others use; None if more than half of it is free."""
    cores = _usable_cores()
    if load is None or load <= cores / 2:
        return None
    return (
        f"the machine is busy: load {load:.1f} on {cores} cores before the first measurement;"
        " compare ratios, not rates, and measure again when it is idle"
    )


def wait_for(device: str) -> None:
    """Return when the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Seconds since it was made, work on the device included."""

    def __init__(self, device: str) -> None:
        self._device = device
        wait_for(device)
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Time since the start, when the device is done."""
        wait_for(self._device)
        return time.perf_counter() - self._start


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, lowest and highest of repeated measurements, and all of them in their order."""
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "all": list(values),
    }


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, Any]:
    """Spread of the quotients of measurements that were taken one right after the other."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None
