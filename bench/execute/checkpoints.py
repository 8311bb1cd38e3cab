"""Checkpoints of a method's authors: one file for all folds, or one a fold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.errors import DataError

FOLD = "{fold}"
"""Stands for the number of the fold in the name of checkpoints."""

_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".safetensors"})


def is_one_file(checkpoint: Path) -> bool:
    """Whether a request names a single file, and not one a fold."""
    return FOLD not in str(checkpoint) and not checkpoint.is_dir()


def checkpoints_by_fold(checkpoint: Path, folds: Sequence[int]) -> dict[int, Path]:
    """Files by fold.

    Parameters
    ----------
    checkpoint
        Path with ``{fold}`` in it, such as ``best_{fold}.pt``; or a folder whose files are numbered
        as the folds are.
    folds
        Numbers of all folds.

    Returns
    -------
    dict
        Paths of existing files; some folds may have none.

    Raises
    ------
    DataError
        There is no file, or a folder's files cannot be told apart by their numbers.
    """
    if FOLD in str(checkpoint):
        paths = {fold: Path(str(checkpoint).replace(FOLD, str(fold))) for fold in folds}
        there = {fold: path for fold, path in paths.items() if path.is_file()}
        if not there:
            raise DataError(f"{checkpoint}: no such checkpoint file for any fold")
        return there
    files = [path for path in sorted(checkpoint.iterdir()) if path.suffix.lower() in _SUFFIXES]
    if not files:
        raise DataError(f"{checkpoint}: holds no checkpoint ({', '.join(sorted(_SUFFIXES))})")
    numbers = [[int(number) for number in re.findall(r"\d+", path.stem)] for path in files]
    places = range(min(len(of) for of in numbers))
    fitting = [
        place
        for place in places
        if len({of[place] for of in numbers}) == len(files)
        and {of[place] for of in numbers} <= set(folds)
    ]
    if len(fitting) != 1:
        raise DataError(
            f"{checkpoint}: the files' names do not tell their folds, which are"
            f" {min(folds)} to {max(folds)}; name them as in --checkpoint"
            f" '{checkpoint}/best_{FOLD}.pt'"
        )
    return {of[fitting[0]]: path for of, path in zip(numbers, files, strict=True)}
