"""Arguments of a prediction: from Python as objects, from the command line as text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Real
from pathlib import Path

from bench.errors import BenchError
from bench.files import one_line

UNIT = "um"


def distance(option: str, value: object) -> float | None:
    """Micrometres of a number or of a text such as ``100um``; None for None.

    Raises
    ------
    BenchError
        It is neither.
    """
    if isinstance(value, str):
        try:
            return float(value.strip().removesuffix(UNIT))
        except ValueError:
            raise BenchError(
                f"{option} {one_line(value, 20)}: write a pitch such as 100{UNIT}"
            ) from None
    return number(option, value)


def number(option: str, value: object) -> float | None:
    """A number; None for None.

    Raises
    ------
    BenchError
        It is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BenchError(f"{option} {_shown(value)}: must be a number")
    return float(value)


def whole_number(option: str, value: object) -> int | None:
    """A whole number; None for None.

    Raises
    ------
    BenchError
        It is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise BenchError(f"{option} {_shown(value)}: must be a whole number")
    return int(value.__index__())


def gene_names(genes: object) -> tuple[str, ...]:
    """Names of a comma-separated text or of a sequence of texts; none for None, which means all.

    Raises
    ------
    BenchError
        It names no gene, or is something else.
    """
    if genes is None:
        return ()
    named = genes.split(",") if isinstance(genes, str) else genes
    if isinstance(named, bytes) or not isinstance(named, Iterable):
        raise BenchError(f"--genes {_shown(genes)}: must be names of genes")
    names = list(named)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise BenchError(f"--genes: {_shown(wrong[0])} is no name of a gene")
    if not (kept := tuple(name.strip() for name in names if name.strip())):
        raise BenchError("--genes names no gene; without it all genes are predicted")
    return kept


def file_path(name: str, value: object) -> Path:
    """Path of a text or path.

    Raises
    ------
    BenchError
        It is something else, or empty.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise BenchError(f"{name} {_shown(value)}: must be a path")
    if not value or "\0" in value:
        raise BenchError(f"{name} {_shown(value)}: is no path")
    return Path(value)


def _shown(value: object) -> str:
    return one_line(repr(value), 40)
