"""The machine and the installation that a run takes place in."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.errors import BenchError, UnknownNameError
from bench.method import Precision

PACKAGE = Path(__file__).parents[1]
"""Folder of the installed package."""

PACKAGES = (
    "anndata",
    "lightning",
    "numpy",
    "pillow",
    "scanpy",
    "scikit-learn",
    "scipy",
    "spotbench",
    "timm",
    "torch",
    "torchvision",
)
"""Packages whose version is part of a run's key."""

PRECISIONS = ("auto", "bf16", "float32")
"""What a user may ask image encoders to compute in."""


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can change numbers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def git_commit() -> str | None:
    """Commit of the checkout the package runs from, None for an installed package."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def choose_device(asked: str) -> str:
    """Device by name; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises
    ------
    BenchError
        Unknown, or not on this machine.
    """
    if asked == "cpu":
        return "cpu"
    if asked not in {"auto", "cuda", "mps"}:
        raise UnknownNameError("device", asked, {"auto", "cpu", "cuda", "mps"})
    if asked == "auto":
        # Settled when a job starts, so that planning needs no torch.
        return "auto"
    if asked not in available_devices():
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
