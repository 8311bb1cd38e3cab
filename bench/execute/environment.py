"""Versions of the packages and commit of the installation that runs the benchmark."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.version import installed_version

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
"""Packages whose versions are recorded with a run."""


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can change numbers."""
    return {package: installed_version(package) for package in PACKAGES}


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
