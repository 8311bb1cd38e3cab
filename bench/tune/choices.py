"""What a user can choose of tuning; light, for the command line."""

from __future__ import annotations

from enum import StrEnum

from bench.evaluate.scores import LEADING, TUNABLE


class Sampler(StrEnum):
    """How settings are suggested."""

    tpe = "tpe"
    random = "random"
    grid = "grid"


class Pruner(StrEnum):
    """How trials are ended early."""

    hyperband = "hyperband"
    median = "median"
    none = "none"


class ObjectiveScore(StrEnum):
    """Score that is optimised on the inner folds: one of those declared as tunable."""

    _ignore_ = "choice"
    for choice in TUNABLE:
        vars()[choice] = choice


LEADING_SCORE = ObjectiveScore(LEADING)
"""Score that is optimised unless another is named."""


class Budget(StrEnum):
    """What is the same for every method: trials and time, or the time alone."""

    equal = "equal"
    time = "time"
