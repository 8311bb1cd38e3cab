"""The trials a study owes: numbered slots, so that no worker does another's again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SLOT, WORKER, REASON = "slot", "worker", "reason"
"""User attributes of a trial: its slot, who runs it, why it failed."""


def settled(trial: FrozenTrial) -> bool:
    """Whether a trial has come to an end of its own: done, pruned, or failed with a reason."""
    if trial.state == TrialState.FAIL:
        return REASON in trial.user_attrs
    return trial.state in {TrialState.COMPLETE, TrialState.PRUNED}


def holders(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The trial that counts for each slot: the first that was not lost with its worker."""
    by_slot: dict[int, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        slot = trial.user_attrs.get(SLOT)
        lost = trial.state == TrialState.FAIL and not settled(trial)
        if slot is not None and not lost:
            by_slot.setdefault(int(slot), trial)
    return by_slot


def fill(study: Study, slots: int, defaults: Mapping[str, Any] | None) -> None:
    """Queue a trial for every slot that has none; the first one tries the default settings.

    Parameters
    ----------
    study
        The study.
    slots
        Trials that are owed.
    defaults
        Default value of every searched setting; None where one lies outside its range.
    """
    have = holders(study.get_trials(deepcopy=False))
    for slot in range(slots):
        if slot not in have:
            first = dict(defaults) if slot == 0 and defaults else {}
            study.enqueue_trial(first, user_attrs={SLOT: slot})


def counts(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Settled trials by what became of them."""
    by_state = Counter(
        trial.state.name.lower() for trial in holders(trials).values() if settled(trial)
    )
    return {name: by_state.get(name, 0) for name in ("complete", "pruned", "fail")}


def seconds(trials: Sequence[FrozenTrial]) -> float:
    """Time that the settled trials took, in seconds; interruptions do not count."""
    lengths = [trial.duration for trial in holders(trials).values() if settled(trial)]
    return sum(length.total_seconds() for length in lengths if length is not None)


def common_reasons(trials: Sequence[FrozenTrial], most: int = 3) -> list[str]:
    """The most common reasons of failure, each with its number of trials."""
    reasons = Counter(
        str(trial.user_attrs[REASON]) for trial in trials if REASON in trial.user_attrs
    )
    return [f"{reason} ({number} trials)" for reason, number in reasons.most_common(most)]
