"""One trial: fit on the inner folds with suggested settings, score on their held-out sections."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.exceptions import TrialPruned

from bench.cache import cache_folder
from bench.errors import DataError, StoreError, TrainingError
from bench.evaluate.scores import BY_NAME
from bench.evaluate.section import ScoredSection
from bench.execute.inputs import FoldInputs
from bench.execute.job import read_predictions
from bench.files import one_line
from bench.method import Method, MethodConfig, Precision
from bench.protocol.fold_data import FoldData
from bench.store import disk_is_full
from bench.tune.slots import REASON, SLOT, WORKER, holders
from bench.worker.process import WorkerFailedError, WorkerRefusedError, run_worker
from bench.worker.task import FitTask, task_text

if TYPE_CHECKING:
    from optuna import Trial

RUNGS = (1 / 9, 1 / 3)
"""Shares of the epochs after which the first inner fold is scored for pruning."""


class TrialFailedError(Exception):
    """A trial failed because of its settings; the study continues."""


class SurplusTrialError(Exception):
    """A trial that another worker already runs."""


class FixedOrSuggested:
    """A trial with some settings fixed by the user."""

    def __init__(self, trial: Trial, fixed: Mapping[str, Any]) -> None:
        self._trial, self._fixed = trial, fixed

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._trial, name)
        if not name.startswith("suggest_"):
            return attribute

        def suggest(setting: str, *arguments: Any, **options: Any) -> Any:
            if setting in self._fixed:
                return self._fixed[setting]
            return attribute(setting, *arguments, **options)

        return suggest


class Objective:
    """Objective of a study, with the data of the inner folds and none of the test fold.

    Parameters
    ----------
    method, kind
        Reference of the method for workers, and its class.
    base
        Dataset's name and preset, which the settings begin with.
    fixed
        Settings fixed by the user.
    folds
        Inner folds; scores are taken on their held-out sections.
    score
        Name of a tunable score: mean over sections, then over inner folds.
    seed, device, precision
        As in a run.
    prunes
        Whether to score the fit before it ends.
    worker
        Name of the process that runs the trials.
    """

    def __init__(
        self,
        method: str,
        kind: type[Method],
        base: tuple[str, str],
        fixed: Mapping[str, Any],
        folds: Sequence[FoldInputs],
        *,
        score: str,
        seed: int,
        device: str,
        precision: Precision,
        prunes: bool,
        worker: str,
    ) -> None:
        self._method = method
        self._kind, self._base, self._fixed, self._folds = kind, base, dict(fixed), list(folds)
        self._score, self._seed = BY_NAME[score], seed
        self._device, self._precision = device, precision
        self._prunes, self._worker = prunes, worker

    @property
    def label(self) -> str:
        """The method's name."""
        return self._kind.name

    def __call__(self, trial: Trial) -> float:
        """Value of a trial.

        Raises
        ------
        TrialPruned
            Its score is too poor to continue.
        TrialFailedError
            Its settings fail; the reason is stored in the trial.
        SurplusTrialError
            Another worker runs this slot.
        DataError, StoreError
            An error not caused by the settings.
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
            # The reason from a worker already names the error.
            named = "" if isinstance(error, WorkerFailedError) else f"{type(error).__name__}: "
            reason = f"{named}{one_line(error, 300)}"
            trial.set_user_attr(REASON, reason)
            raise TrialFailedError(reason) from error

    def _value(self, trial: Trial, began: float) -> float:
        changes = self._kind.search_space(FixedOrSuggested(trial, self._fixed))
        config = self._kind.configure(*self._base, {**changes, **self._fixed})
        trial.set_user_attr("config", config.model_dump(mode="json"))
        variants = list(predict_variants(self._kind, config, self._fixed))
        totals = np.zeros(len(variants))
        spent = 0.0
        for number, inputs in enumerate(self._folds):
            looks = RUNGS if self._prunes and number == 0 else ()
            fit = _Fit(self, trial, inputs, [variant for _, variant in variants], looks)
            values, seconds = fit.values()
            spent += seconds
            totals += values
            if np.isnan(totals).all():  # some may be NaN: constant predictions have no score
                raise TrainingError(
                    f"{self._score.name} is undefined: every prediction is constant"
                )
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

    def task(
        self, inputs: FoldInputs, configs: Sequence[MethodConfig], looks: Sequence[float], out: Path
    ) -> FitTask:
        """Task of a worker for one inner fold."""
        return FitTask(
            method=self._method,
            configs=tuple(config.model_dump(mode="json") for config in configs),
            inputs=str(inputs.handed_over.absolute()),
            images=self._kind.needs_image,
            out=str(out),
            seed=self._seed,
            device=self._device,
            precision=self._precision,
            save=False,
            looks=tuple(looks),
        )

    def _best(self, totals: np.ndarray) -> float:
        return float(np.nanmin(totals) if self._score.better == "lower" else np.nanmax(totals))

    def score(self, data: FoldData, predictions: Sequence[np.ndarray]) -> float:
        """Mean score over the held-out sections; NaN where it is undefined in one."""
        values = [
            self._score.compute(
                ScoredSection(truth.expression, prediction, truth.heg, totals=truth.totals)
            )
            for truth, prediction in zip(data.truth, predictions, strict=True)
        ]
        return float(np.mean(values))


class _Fit:
    """Fit of a trial on one inner fold, by a worker without the truth.

    Predictions during training are scored, and their scores decide on pruning.
    """

    def __init__(
        self,
        objective: Objective,
        trial: Trial,
        inputs: FoldInputs,
        configs: Sequence[MethodConfig],
        looks: Sequence[float],
    ) -> None:
        self._objective, self._trial = objective, trial
        self._inputs, self._configs, self._looks = inputs, configs, looks
        self._seconds = 0.0
        self._pruned = False

    def values(self) -> tuple[np.ndarray, float]:
        """Score under each of the settings, and the seconds of fit and prediction.

        Raises
        ------
        TrialPruned
            Its score is too poor to continue.
        DataError, StoreError
            An error not caused by the settings.
        """
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="trial-", dir=cache) as folder:
            out = Path(folder).absolute()
            task = self._objective.task(self._inputs, self._configs, self._looks, out)

            def answer(message: Mapping[str, Any]) -> Mapping[str, Any] | None:
                if message["kind"] == "look":
                    return {"go_on": self._looked(out, int(message["look"]))}
                return self._inputs.answer(message, self._configs[0].model_dump())

            try:
                report = run_worker("fit", task_text(task), answer=answer, log=out / "log.txt")
            except WorkerRefusedError as error:
                raise error.original from error
            if self._pruned:
                raise TrialPruned
            values = [
                self._objective.score(self._inputs.data, self._read(out, config=number))
                for number in range(len(self._configs))
            ]
        spent = float(report["fit_seconds"]) + float(report["predict_seconds"])
        return np.array(values), spent - self._seconds

    def _looked(self, out: Path, look: int) -> bool:
        """Score predictions made during training; True if the trial continues."""
        start = time.perf_counter()
        value = self._objective.score(self._inputs.data, self._read(out, look=look))
        self._seconds += time.perf_counter() - start
        if math.isnan(value):  # constant so far; the final score decides
            return True
        self._trial.report(value, look)
        self._pruned = self._trial.should_prune()
        return not self._pruned

    def _read(self, out: Path, **which: int) -> list[np.ndarray]:
        return read_predictions(self._objective.label, self._inputs.data, out, **which)


def predict_variants(
    kind: type[Method], config: MethodConfig, fixed: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], MethodConfig]]:
    """Variants of the settings used in prediction only, the configured ones first.

    Yields
    ------
    tuple of dict and MethodConfig
        The values of the method's ``predict_space``, without those set by the user, and all
        settings.
    """
    searched = {name: values for name, values in kind.predict_space.items() if name not in fixed}
    own = {name: getattr(config, name) for name in searched}
    yield own, config
    for values in itertools.product(*searched.values()):
        changes = dict(zip(searched, values, strict=True))
        if changes != own:
            yield changes, type(config).model_validate({**config.model_dump(), **changes})
