"""Checks of the machine, each with the way to mend it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from bench.cache import cache_folder
from bench.data.layouts import layout_faults
from bench.errors import BenchError
from bench.store import check_writable

_WANTED_DISK_GB = 5.0
_WANTED_MEMORY_GB = 6.0


@dataclass(frozen=True)
class MachineFinding:
    """One check: what was looked at, what was found, and how to mend it if it is not good."""

    what: str
    found: str
    good: bool
    mend: str = ""


def examine(results: Path) -> list[MachineFinding]:
    """All checks, in the order in which a person would make them."""
    return [
        MachineFinding("python", platform.python_version(), True),
        *_packages(),
        _torch(),
        _memory(),
        _folder("results folder", results),
        _folder("cache folder", cache_folder()),
        *_layouts(),
    ]


def _packages() -> list[MachineFinding]:
    findings = []
    good = []
    for text in requires("spotbench") or []:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            findings.append(MachineFinding(needed.name, "absent", False, f"pip install '{needed}'"))
            continue
        if needed.specifier.contains(installed, prereleases=True):
            good.append(f"{needed.name} {installed}")
        else:
            findings.append(
                MachineFinding(needed.name, installed, False, f"pip install '{needed}'")
            )
    return [MachineFinding("packages", ", ".join(good), True), *findings]


def _layouts() -> list[MachineFinding]:
    """Layouts of other packages that cannot be used."""
    return [
        MachineFinding(
            f"layout {name}", fault, False, "update or uninstall the package that provides it"
        )
        for name, fault in layout_faults().items()
    ]


def _torch() -> MachineFinding:
    try:
        import torch
        import torchvision

        from bench.devices import available_devices, has_bf16
    except Exception as error:  # noqa: BLE001 - a broken install can fail in any way; that is the finding
        return MachineFinding(
            "torch",
            f"{type(error).__name__}: {error}",
            False,
            "torch and torchvision must be built for each other; install again with"
            " pip install -c constraints.txt torch torchvision",
        )
    devices = ", ".join(f"{d} (bf16)" if has_bf16(d) else d for d in available_devices())
    versions = (
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, devices {devices},"
    )
    return MachineFinding("torch", f"{versions} {torch.get_num_threads()} threads", True)


def _memory() -> MachineFinding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return MachineFinding("memory", "unknown", True)
    return MachineFinding(
        "memory",
        f"{total:.0f} GB, {os.cpu_count()} cores",
        total >= _WANTED_MEMORY_GB,
        "use the quick preset and fewer sections",
    )


def _folder(what: str, path: Path) -> MachineFinding:
    try:
        check_writable(path)
    except BenchError as error:
        return MachineFinding(
            what, str(error), False, "name another folder, or mend its permissions"
        )
    free = shutil.disk_usage(path).free / 1e9
    return MachineFinding(
        what, f"{path}, {free:.0f} GB free", free >= _WANTED_DISK_GB, "free some disk space"
    )
