"""Errors a user can act on. Each message is one line: what is wrong, where, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class BenchError(Exception):
    """A request that cannot be met; the command line prints it as one line and exits with 2."""


_LISTED = 12
"""Largest number of known names that a message lists."""

_LISTING = {
    "method": "bench list methods",
    "dataset": "bench list datasets",
    "protocol": "bench list protocols",
}


class UnknownNameError(BenchError):
    """A name that is not registered; the message offers the nearest ones.

    Parameters
    ----------
    kind
        What the name should be: ``method``, ``setting of ridge``.
    name
        The name that was given.
    known
        Names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(set(known))
        shown = name if len(name) <= 80 else f"{name[:77]}..."
        super().__init__(f"unknown {kind} '{shown}'; {_offer(kind, name, names)}")


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Known names that resemble a name, whatever their case; at most five, the nearest first."""
    by_lower: dict[str, str] = {}
    for one in sorted(known):
        by_lower.setdefault(one.lower(), one)
    near = difflib.get_close_matches(name[:80].lower(), by_lower, n=5, cutoff=0.5)
    return [by_lower[lower] for lower in near]


def _offer(kind: str, name: str, names: Sequence[str]) -> str:
    if near := near_names(name, names):
        return f"did you mean {' or '.join(near)}?"
    if not names:
        return "none is known"
    if len(names) <= _LISTED:
        return f"known: {', '.join(names)}"
    listing = _LISTING.get(kind)
    said = f"none of the {len(names):,} known names is similar"
    return f"{said}; '{listing}' lists them" if listing else said


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


class DetachedError(Exception):
    """Jobs continue in a cluster, and this process no longer waits for them.

    Attributes
    ----------
    interrupted
        Whether the user interrupted the process, rather than asked for it beforehand.
    """

    def __init__(self, message: str, *, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted
