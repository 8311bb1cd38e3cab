"""Planned trials of a study as numbered slots, so that no trial is run by two workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SLOT, WORKER, REASON = "slot", "worker", "reason"
"""User attributes of a trial: its slot, its worker, its reason of failure."""


def settled(trial: FrozenTrial) -> bool:
    """Whether a trial is finished, pruned, or failed with a reason."""
    if trial.state == TrialState.FAIL:
        return REASON in trial.user_attrs
    return trial.state in {TrialState.COMPLETE, TrialState.PRUNED}


def holders(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Trial that counts for each slot: the first that was not lost with its worker."""
    by_slot: dict[int, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        slot = trial.user_attrs.get(SLOT)
        lost = trial.state == TrialState.FAIL and not settled(trial)
        if slot is not None and not lost:
            by_slot.setdefault(int(slot), trial)
    return by_slot


def fill(study: Study, slots: int, defaults: Mapping[str, Any] | None) -> None:
    """Queue a trial for every slot without one; the first trial uses the default settings.

    Parameters
    ----------
    study
        The study.
    slots
        Number of planned trials.
    defaults
        Default value of every searched setting; None where one lies outside its range.
    """
    have = holders(study.get_trials(deepcopy=False))
    for slot in range(slots):
        if slot not in have:
            first = dict(defaults) if slot == 0 and defaults else {}
            study.enqueue_trial(first, user_attrs={SLOT: slot})


def counts(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Number of settled trials by state."""
    by_state = Counter(
        trial.state.name.lower() for trial in holders(trials).values() if settled(trial)
    )
    return {name: by_state.get(name, 0) for name in ("complete", "pruned", "fail")}


def seconds(trials: Sequence[FrozenTrial]) -> float:
    """Duration of the settled trials in seconds, without interruptions."""
    lengths = [trial.duration for trial in holders(trials).values() if settled(trial)]
    return sum(length.total_seconds() for length in lengths if length is not None)


def common_reasons(trials: Sequence[FrozenTrial], most: int = 3) -> list[str]:
    """The most common reasons of failure, each with its number of trials."""
    reasons = Counter(
        str(trial.user_attrs[REASON]) for trial in trials if REASON in trial.user_attrs
    )
    return [f"{reason} ({number} trials)" for reason, number in reasons.most_common(most)]
