"""Ensembles: the mean of the stored predictions of several rows, fold by fold, without fitting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import TrainingError
from bench.execute.inputs import FoldInputs
from bench.execute.keys import fit_key
from bench.execute.method_specs import MethodSpec
from bench.store import RunFolder


@dataclass(frozen=True)
class Member:
    """A row that an ensemble averages.

    Attributes
    ----------
    method_spec
        The row.
    run
        Folder of its results.
    """

    method_spec: MethodSpec
    run: RunFolder


def average(
    members: Sequence[Member], fold: int, inputs: FoldInputs
) -> tuple[list[np.ndarray], float]:
    """Mean of the members' predictions of a fold, and the seconds that it took.

    Parameters
    ----------
    members
        Rows whose predictions are stored.
    fold
        Number of the fold.
    inputs
        Its data.

    Returns
    -------
    list of np.ndarray
        One (spots, panel) float32 array per test section.
    float
        Seconds.

    Raises
    ------
    TrainingError
        A member has no predictions of this fold that were made from the same data, code and
        settings; it names those members.
    """
    started = time.perf_counter()
    lacking = [member.method_spec.label for member in members if not _is_done(member, fold, inputs)]
    if lacking:
        raise TrainingError(
            f"no stored predictions of {', '.join(lacking)} for this request; run"
            f" {'it' if len(lacking) == 1 else 'them'} first, or name"
            f" {'it' if len(lacking) == 1 else 'them'} beside the ensemble"
        )
    lengths = [len(truth.spot_names) for truth in inputs.data.truth]
    shape = (sum(lengths), len(inputs.data.training.panel))
    total = np.zeros(shape, dtype=np.float64)
    for member in members:
        total += _predictions(member, fold, shape)
    mean = (total / len(members)).astype(np.float32)
    return np.split(mean, np.cumsum(lengths)[:-1]), time.perf_counter() - started


def _is_done(member: Member, fold: int, inputs: FoldInputs) -> bool:
    state = member.run.fold(fold).state()
    seen = inputs.hashes.seen_by(member.method_spec)
    return state.done and state.fit_key == fit_key(member.run.key, fold, seen)


def _predictions(member: Member, fold: int, shape: tuple[int, int]) -> np.ndarray:
    import anndata

    path = member.run.fold(fold).path / "predictions.h5ad"
    values = np.asarray(anndata.read_h5ad(path).X, dtype=np.float64)
    if values.shape != shape:
        raise TrainingError(f"{path}: stored predictions are not of this fold; use --force")
    return values
