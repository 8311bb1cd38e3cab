"""Versions of this package and of others; imports nothing of ours."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.2.0"


@cache
def installed_version(package: str) -> str:
    """Version of an installed package, ``absent`` where there is none.

    Read once in a process: keys ask for dozens, and what is imported does not change.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
