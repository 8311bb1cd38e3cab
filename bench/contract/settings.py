"""Checks of presets, settings by dataset, and search spaces."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.contract.outcome import ContractError, NotApplicableError
from bench.contract.subject import DATASET, Subject
from bench.errors import BenchError
from bench.method import MethodConfig
from bench.registry import find_datasets

_PLACES = 9
"""Number of points of a range that are tried, including both ends."""
_DRAWS = 5


def presets_are_valid(subject: Subject) -> None:
    """Every preset is valid on every dataset, and there is one named quick."""
    kind = subject.kind
    if "quick" not in kind.presets:
        raise ContractError("it has no preset 'quick'")
    for dataset in sorted({*find_datasets(), *kind.dataset_settings, DATASET}):
        for preset in sorted({"authors", *kind.presets}):
            where = f"preset {preset} on dataset {dataset}"
            config = _valid(subject, dataset, preset, {}, where)
            again = type(config).model_validate(config.model_dump(mode="json"))
            if again != config:
                raise ContractError(f"{where}: settings do not come back from JSON as they were")


def search_space_is_valid(subject: Subject) -> None:
    """What its search space and predict_space offer are valid settings, each in one of them."""
    alone = subject.kind.predict_space
    for name, values in alone.items():
        if isinstance(values, str) or not len(values):
            raise ContractError(f"predict_space: {name} has no list of values")
        for value in values:
            _valid_in_all_presets(subject, {name: value}, f"predict_space: {name}={value}")
    places = [place / (_PLACES - 1) for place in range(_PLACES)]
    trials = [RehearsalTrial(partial(float, place)) for place in places]
    trials += [RehearsalTrial(random.Random(seed).random) for seed in range(_DRAWS)]  # noqa: S311
    for trial in trials:
        changes = subject.kind.search_space(trial)
        if not changes and not trial.suggested:
            if alone:
                return
            raise NotApplicableError("it offers no search space")
        _valid_in_all_presets(subject, changes, f"suggestion {changes}")
        if changes != trial.suggested:
            raise ContractError(
                f"it suggests {trial.suggested} and sets {changes}; a suggestion bears the name and"
                " the value of a setting"
            )
        twice = sorted(alone.keys() & changes.keys())
        if twice:
            raise ContractError(f"{twice[0]} is both in its search space and in predict_space")


def _valid_in_all_presets(subject: Subject, changes: dict[str, Any], where: str) -> None:
    for preset in sorted({"authors", *subject.kind.presets}):
        _valid(subject, DATASET, preset, changes, where)


def _valid(
    subject: Subject, dataset: str, preset: str, changes: dict[str, Any], where: str
) -> MethodConfig:
    try:
        config = subject.kind.configure(dataset, preset, {**subject.settings, **changes})
    except BenchError as error:
        raise ContractError(f"{where}: {error}") from error
    if not isinstance(config, subject.kind.Config):
        raise ContractError(f"{where}: gives {type(config).__name__}")
    return config


class RehearsalTrial:
    """Trial without a study: suggests a fixed or random point of each range.

    It has the methods of optuna's trial that search spaces use, with the same rules.

    Parameters
    ----------
    place
        Gives a number from 0, the lower end, to 1, the upper end.
    """

    def __init__(self, place: Callable[[], float]) -> None:
        self._place = place
        self.suggested: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from `low` to `high`."""
        self._check(name, low, high, step is not None and log, log and low <= 0)
        place = self._place()
        if place in {0, 1}:
            value = (low, high)[int(place)]  # a range may be open by one rounding error
        elif log:
            value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
        else:
            value = low + place * (high - low)
        if step is not None:
            value = low + step * math.floor((value - low) / step + 1e-9)
        return self._keep(name, min(max(value, low), high))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number from `low` to `high`."""
        self._check(name, low, high, step != 1 and log, log and low < 1)
        return self._keep(name, low + step * round(self._place() * ((high - low) // step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`."""
        if not choices:
            raise ContractError(f"search space: {name} has no choices")
        return self._keep(name, choices[round(self._place() * (len(choices) - 1))])

    def _keep(self, name: str, value: Any) -> Any:
        self.suggested[name] = value
        return value

    @staticmethod
    def _check(name: str, low: float, high: float, log_steps: bool, log_of_nothing: bool) -> None:
        if low > high:
            raise ContractError(f"search space: {name} ranges from {low} down to {high}")
        if log_steps:
            raise ContractError(f"search space: {name} has both a step and a logarithmic range")
        if log_of_nothing:
            raise ContractError(f"search space: {name} is logarithmic from {low}")
