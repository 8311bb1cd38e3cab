"""Devices that networks run on, and the precision that image encoders compute in."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.cache import JsonCache
from bench.errors import BenchError, UnknownNameError
from bench.files import canonical_hash
from bench.method import Precision

PRECISIONS = ("auto", "bf16", "float32")
"""What a user may ask image encoders to compute in."""


DEVICES = ("auto", "cpu", "cuda", "mps")
"""What a user may ask networks to run on."""


def check_device(asked: str) -> None:
    """Refuse what is no device.

    Raises
    ------
    UnknownNameError
        There is no such device.
    """
    if asked not in DEVICES:
        raise UnknownNameError("device", asked, DEVICES)


def choose_device(asked: str) -> str:
    """Device by name; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises
    ------
    BenchError
        Unknown, or not on this machine.
    """
    check_device(asked)
    here = available_devices()
    if asked == "auto":
        return here[0]
    if asked not in here:
        raise BenchError(f"device {asked} is not available on this machine; use --device auto")
    return asked


def check_precision(asked: str) -> None:
    """Refuse what :func:`choose_precision` does not know.

    Raises
    ------
    UnknownNameError
        There is no such precision.
    """
    if asked not in PRECISIONS:
        raise UnknownNameError("precision", asked, PRECISIONS)


def choose_precision(asked: str, device: str) -> Precision:
    """Precision by name; ``auto`` takes ``bf16`` where the device has arithmetic for it.

    Raises
    ------
    UnknownNameError
        There is no such precision.
    """
    check_precision(asked)
    return "bf16" if asked == "bf16" or (asked == "auto" and has_bf16(device)) else "float32"


def has_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16 by itself; others emulate it, slower than float32."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    # Older releases of torch do not tell; a processor then counts as one without.
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def available_devices() -> list[str]:
    """Devices torch can use here, the fastest first."""
    import torch

    devices = []
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def find_devices() -> list[list[str]]:
    """Devices torch can use here, the fastest first, each with its best precision."""
    return [[name, "bf16" if has_bf16(name) else "float32"] for name in available_devices()]


def _machine_key() -> str:
    """Another one after the machine starts again, or torch or the visible devices change."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        started = platform.platform()
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "absent"
    seen = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")]
    return canonical_hash([platform.node(), started, torch, seen])


def _decode(content: Any) -> dict[str, Precision]:
    return {str(name): "bf16" if best == "bf16" else "float32" for name, best in content}


_MACHINES = JsonCache("machines", _decode)
"""Devices of a machine until it starts again."""


def remembered_devices() -> dict[str, Precision] | None:
    """What :func:`remember_devices` wrote; None where it did not."""
    return _MACHINES.get(_machine_key())


def remember_devices(devices: list[list[str]]) -> None:
    """Store the result of :func:`find_devices`, since asking torch takes seconds."""
    _MACHINES.put(_machine_key(), devices)
