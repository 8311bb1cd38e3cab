"""Errors a user can act on. Each message is one line: what is wrong, where, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """A request that cannot be met; the command line prints it as one line and exits with 2."""


class UnknownNameError(BenchError):
    """A name that is not registered; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
        offer = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} '{name}'; {offer}")


class DataError(BenchError):
    """An input file that is missing, damaged or not what it claims to be."""


class ConfigError(BenchError):
    """A setting that does not exist or whose value is not allowed."""


class LeakError(BenchError):
    """A fold that would let a method see what its protocol forbids."""


class StoreError(BenchError):
    """A results folder that cannot be written or is in use by another process."""


class TrainingError(Exception):
    """A method that failed while it ran; other folds still finish."""
