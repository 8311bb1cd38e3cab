"""Largest memory that a process and its GPU have used."""

from __future__ import annotations

import sys


def reset_peak_memory(device: str = "cpu") -> None:
    """Start counting anew, where the system lets us: Linux for the process, CUDA for the GPU."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
    except OSError:
        return


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process since the last reset, in MB; None on Windows."""
    try:
        with open("/proc/self/status") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return None
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def peak_device_memory_mb(device: str) -> float | None:
    """Largest GPU memory allocated since the last reset, in MB."""
    if device != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated() / (1 << 20)
