"""What a user can choose of tuning; light, for the command line."""

from __future__ import annotations

from enum import StrEnum


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


class Score(StrEnum):
    """What is optimised on the inner folds."""

    pcc_acg = "pcc_acg"
    pcc_heg = "pcc_heg"
    mse = "mse"


class Budget(StrEnum):
    """What is the same for every method: trials and time, or the time alone."""

    equal = "equal"
    time = "time"
