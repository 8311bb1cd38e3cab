"""Choices of tuning options, without heavy imports, for the command line."""

from __future__ import annotations

from enum import StrEnum

from bench.evaluate.scores import LEADING, TUNABLE


class Sampler(StrEnum):
    """Sampler that suggests settings."""

    tpe = "tpe"
    random = "random"
    grid = "grid"


class Pruner(StrEnum):
    """Pruner that ends trials early."""

    hyperband = "hyperband"
    median = "median"
    none = "none"


class ObjectiveScore(StrEnum):
    """Score optimised on the inner folds; one of the scores declared as tunable."""

    _ignore_ = "choice"
    for choice in TUNABLE:
        vars()[choice] = choice


LEADING_SCORE = ObjectiveScore(LEADING)
"""Score that is optimised by default."""


class Budget(StrEnum):
    """Budget that is equal for all methods: trials and time, or time alone."""

    equal = "equal"
    time = "time"
