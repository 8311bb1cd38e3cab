"""One trial: fit on the inner folds with suggested settings, score on their held-out sections."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.exceptions import TrialPruned

from bench.errors import DataError, StoreError, TrainingError
from bench.evaluate.metrics import mean_defined, mean_squared_error, pearson_per_gene
from bench.execute.job import check_predictions
from bench.files import one_line
from bench.method import Context, Method, MethodConfig, Precision
from bench.protocol.fold_data import FoldData, Truth
from bench.store import disk_is_full
from bench.tune.slots import REASON, SLOT, WORKER, holders

if TYPE_CHECKING:
    from optuna import Trial

RUNGS = (1 / 9, 1 / 3)
"""Shares of the epochs after which the first inner fold is looked at, to prune by."""

LOWER_IS_BETTER = frozenset({"mse"})


def _pcc_acg(truth: Truth, prediction: np.ndarray) -> float:
    return mean_defined(pearson_per_gene(truth.expression, prediction))[0]


def _pcc_heg(truth: Truth, prediction: np.ndarray) -> float:
    highest = truth.heg
    return mean_defined(pearson_per_gene(truth.expression[:, highest], prediction[:, highest]))[0]


def _mse(truth: Truth, prediction: np.ndarray) -> float:
    return mean_squared_error(truth.expression, prediction)


SCORES: dict[str, Callable[[Truth, np.ndarray], float]] = {
    "pcc_acg": _pcc_acg,
    "pcc_heg": _pcc_heg,
    "mse": _mse,
}
"""Scores of one section as the table of a run has them, without what else stands there."""


class TrialFailedError(Exception):
    """A trial ended by a fault of its settings; the study goes on."""


class SurplusTrialError(Exception):
    """A trial that another worker is doing already."""


class FixedOrSuggested:
    """A trial that does not search what the user has set."""

    def __init__(self, trial: Trial, fixed: Mapping[str, Any]) -> None:
        self._trial, self._fixed = trial, fixed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._trial, name)
        if not name.startswith("suggest_"):
            return found

        def suggest(setting: str, *arguments: Any, **options: Any) -> Any:
            if setting in self._fixed:
                return self._fixed[setting]
            return found(setting, *arguments, **options)

        return suggest


class Objective:
    """What a study optimises; it holds the inner folds and nothing of the test fold.

    Parameters
    ----------
    kind
        The method's class.
    base
        Dataset's name and preset, which the settings begin with.
    fixed
        Settings that the user chose.
    folds
        Inner folds; scores are taken on their held-out sections.
    score
        ``pcc_acg``, ``pcc_heg`` or ``mse``: mean over sections, then over inner folds.
    seed, device, precision
        As for a run.
    prunes
        Whether to look at the fit before it ends.
    worker
        Name of the process that runs the trials.
    """

    def __init__(
        self,
        kind: type[Method],
        base: tuple[str, str],
        fixed: Mapping[str, Any],
        folds: Sequence[FoldData],
        *,
        score: str,
        seed: int,
        device: str,
        precision: Precision,
        prunes: bool,
        worker: str,
    ) -> None:
        self._kind, self._base, self._fixed, self._folds = kind, base, dict(fixed), list(folds)
        self._score, self._seed = score, seed
        self._device, self._precision = device, precision
        self._prunes, self._worker = prunes, worker

    def __call__(self, trial: Trial) -> float:
        """Value of a trial.

        Raises
        ------
        TrialPruned
            It does too badly to go on.
        TrialFailedError
            Its settings do not work; the reason stands in the trial.
        SurplusTrialError
            Another worker is doing this slot.
        DataError, StoreError
            What no setting can mend.
        """
        trial.set_user_attr(WORKER, self._worker)
        slot = trial.user_attrs.get(SLOT)
        held = holders(trial.study.get_trials(deepcopy=False)).get(-1 if slot is None else slot)
        if held is None or held.number != trial.number:
            raise SurplusTrialError
        began = time.perf_counter()
        try:
            return self._value(trial, began)
        except (TrialPruned, DataError, StoreError):
            raise
        except Exception as error:  # a method may fail in any way; the study must not
            if disk_is_full(error):
                raise
            reason = f"{type(error).__name__}: {one_line(error, 300)}"
            trial.set_user_attr(REASON, reason)
            raise TrialFailedError(reason) from error

    def _value(self, trial: Trial, began: float) -> float:
        changes = self._kind.search_space(FixedOrSuggested(trial, self._fixed))
        config = self._kind.configure(*self._base, {**changes, **self._fixed})
        trial.set_user_attr("config", config.model_dump(mode="json"))
        variants = list(predict_variants(self._kind, config, self._fixed))
        totals = np.zeros(len(variants))
        spent = 0.0
        for number, data in enumerate(self._folds):
            method = self._kind(config)
            context = Context(seed=self._seed, device=self._device, precision=self._precision)
            looked = _Look(self, trial, method, data, context)
            if self._prunes and number == 0:
                context.inspector = looked
            start = time.perf_counter()
            method.fit(data.training, context)
            configs = [variant for _, variant in variants]
            predicted = list(method.predict_each(data.slides, context, configs))
            spent += time.perf_counter() - start - looked.seconds
            totals += [self.score(data, predictions) for predictions in predicted]
            if np.isnan(totals).all():  # some may be: all neighbours alike are no prediction
                raise TrainingError(f"{self._score} is undefined: every prediction is constant")
            value = float(self._best(totals) / (number + 1))
            trial.report(value, len(RUNGS) + 1 + number)
            if self._prunes and number + 1 < len(self._folds) and trial.should_prune():
                raise TrialPruned
        chosen = int(np.flatnonzero(totals == self._best(totals))[0])
        trial.set_user_attr("config", variants[chosen][1].model_dump(mode="json"))
        trial.set_user_attr("predict", variants[chosen][0])
        trial.set_user_attr("seconds_fit_and_predict", spent)
        trial.set_user_attr("seconds", time.perf_counter() - began)
        return value

    def _best(self, totals: np.ndarray) -> float:
        return float(np.nanmin(totals) if self._score in LOWER_IS_BETTER else np.nanmax(totals))

    def score(self, data: FoldData, predictions: Sequence[np.ndarray]) -> float:
        """Mean score over the held-out sections; NaN where it is undefined in one.

        Raises
        ------
        TrainingError
            Not one finite (spots, panel) array a section.
        """
        check_predictions(self._kind.name, data, predictions)
        score = SCORES[self._score]
        pairs = zip(data.truth, predictions, strict=True)
        return float(np.mean([score(truth, prediction) for truth, prediction in pairs]))


class _Look:
    """Scores a half-trained method after some epochs and prunes its trial."""

    def __init__(
        self, objective: Objective, trial: Trial, method: Method, data: FoldData, context: Context
    ) -> None:
        self._objective, self._trial = objective, trial
        self._method, self._data, self._context = method, data, context
        self.seconds = 0.0

    def _rungs(self, total: int) -> list[int]:
        return [max(1, math.ceil(share * total)) for share in RUNGS]

    def wants(self, done: int, total: int) -> bool:
        return done in self._rungs(total)

    def __call__(self, done: int, total: int) -> None:
        start = time.perf_counter()
        predictions = self._method.predict(self._data.slides, self._context)
        value = self._objective.score(self._data, predictions)
        self.seconds += time.perf_counter() - start
        if math.isnan(value):  # constant so far; what comes of it is seen at the end
            return
        self._trial.report(value, self._rungs(total).index(done) + 1)
        if self._trial.should_prune():
            raise TrialPruned


def predict_variants(
    kind: type[Method], config: MethodConfig, fixed: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], MethodConfig]]:
    """Settings for prediction alone, the configured ones first.

    Yields
    ------
    tuple of dict and MethodConfig
        The values of the method's ``predict_space``, without what the user set, and the whole.
    """
    searched = {name: values for name, values in kind.predict_space.items() if name not in fixed}
    own = {name: getattr(config, name) for name in searched}
    yield own, config
    for values in itertools.product(*searched.values()):
        changes = dict(zip(searched, values, strict=True))
        if changes != own:
            yield changes, type(config).model_validate({**config.model_dump(), **changes})
