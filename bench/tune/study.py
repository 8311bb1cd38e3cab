"""One study: tuning of a method on one outer fold, by one or several workers."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna
from filelock import FileLock
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from bench.evaluate.scores import BY_NAME
from bench.execute.inputs import InputsOfFolds
from bench.execute.plan import Job
from bench.method import Method
from bench.registry import load_method
from bench.tune.choices import Pruner, Sampler
from bench.tune.inner import inner_folds, inner_inputs
from bench.tune.objective import (
    RUNGS,
    FixedOrSuggested,
    Objective,
    SurplusTrialError,
    TrialFailedError,
)
from bench.tune.request import TuneRequest
from bench.tune.slots import fill, holders, seconds, settled
from bench.tune.storage import living_worker, open_storage, others_work, requeue_stale_trials
from bench.worker.process import start_server

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

_CAUGHT = (TrialFailedError, SurplusTrialError)
_POLL_SECONDS = 0.5
_GRID_POINTS = 4

optuna.logging.set_verbosity(optuna.logging.ERROR)  # our watcher reports one line per study


@dataclass(frozen=True)
class StudySpec:
    """A study with all its inputs; picklable.

    Attributes
    ----------
    job
        The outer fold's job: method, dataset, folds, protocol, seed, device.
    request
        Budget, sampler, pruner, objective.
    fixed
        Settings fixed by the user.
    name
        Name in the storage; it differs for anything that changes the trials.
    folder
        Folder for its files.
    """

    job: Job
    request: TuneRequest
    fixed: Mapping[str, Any]
    name: str
    folder: Path

    @property
    def kind(self) -> type[Method]:
        """The method's class."""
        return load_method(str(self.job.method_spec.method))

    @property
    def base(self) -> tuple[str, str]:
        """Dataset's name and preset, which determine the base settings."""
        return self.job.source.dataset.card.name, self.request.run.preset

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Direction of optimisation."""
        return "minimize" if BY_NAME[self.request.objective].better == "lower" else "maximize"


def open_study(spec: StudySpec, *, runs: bool = True) -> Study:
    """Open the study in its storage; create it if it is new.

    Parameters
    ----------
    spec
        The study.
    runs
        Whether trials will be run, which takes a sampler and a pruner.
    """
    spec.folder.mkdir(parents=True, exist_ok=True)
    # Two processes must not create the tables of a database at the same time.
    with FileLock(spec.job.run.results / "tuning" / ".storage.lock"):
        return optuna.create_study(
            study_name=spec.name,
            storage=open_storage(spec.request.storage, spec.folder),
            direction=spec.direction,
            pruner=_pruner(spec) if runs else None,
            load_if_exists=True,
        )


def work(spec: StudySpec, told: Callable[[Study], None] = lambda study: None) -> None:
    """Run trials until all planned trials are settled or the time is up; called by a worker.

    Raises
    ------
    BenchError
        An error not caused by the settings, such as of data or storage.
    """
    study = open_study(spec)
    searched = search_space(spec)
    if is_over(spec, study.get_trials(deepcopy=False), searched):
        return
    seen, folds = inner_folds(
        spec.job.source.fold,
        spec.job.source.dataset,
        spec.job.source.protocol,
        spec.request.inner_folds,
    )
    source = spec.job.source
    inner = inner_inputs(seen, folds, source.protocol, source.listed_panel)
    defaults = default_values(spec, searched)
    start_server(networks=spec.job.method_spec.needs_image)
    with living_worker(spec.folder) as worker, closing(InputsOfFolds()) as pool:
        objective = Objective(
            str(spec.job.method_spec.method),
            spec.kind,
            spec.base,
            spec.fixed,
            [pool.of(source) for source in inner],
            score=spec.request.objective.value,
            seed=spec.job.seed,
            device=spec.job.device,
            precision=spec.job.precision,
            prunes=spec.request.pruner != Pruner.none,
            worker=worker,
        )
        while True:
            requeue_stale_trials(study, spec.folder)
            trials = study.get_trials(deepcopy=False)
            begun = sum(t.state != TrialState.WAITING for t in holders(trials).values())
            fill(study, min(owed(spec, searched), begun + spec.request.jobs), defaults)
            trials = study.get_trials(deepcopy=False)
            told(study)
            if is_over(spec, trials, searched):
                return
            if any(trial.state == TrialState.WAITING for trial in trials):
                shared = spec.request.jobs > 1 or others_work(spec.folder, worker)
                study.sampler = _sampler(spec, searched, trials, shared=shared)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.optimize(objective, n_trials=1, catch=_CAUGHT, gc_after_trial=True)
            else:
                time.sleep(_POLL_SECONDS)  # other workers run the last trials; one of them may die


def search_space(spec: StudySpec) -> dict[str, BaseDistribution]:
    """Searched settings with their ranges; empty if nothing is searched."""
    probe = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    spec.kind.search_space(FixedOrSuggested(probe, spec.fixed))
    return dict(probe.distributions)


def default_values(
    spec: StudySpec, searched: Mapping[str, BaseDistribution]
) -> dict[str, Any] | None:
    """Default of every searched setting; None if one lies outside its range."""
    config = spec.kind.configure(*spec.base, spec.fixed)
    values = {name: getattr(config, name) for name in searched}
    for name, distribution in searched.items():
        try:
            inside = distribution._contains(distribution.to_internal_repr(values[name]))
        except (ValueError, TypeError):
            inside = False
        if not inside:
            return None
    return values


def owed(spec: StudySpec, searched: Mapping[str, BaseDistribution]) -> int:
    """Number of planned trials; for a grid at most its number of points."""
    asked = spec.request.trials
    if spec.request.sampler == Sampler.grid:
        points = int(np.prod([len(values) for values in _grid(searched).values()]))
        return min(asked, max(points, 1))
    return asked


def is_over(
    spec: StudySpec, trials: list[FrozenTrial], searched: Mapping[str, BaseDistribution]
) -> bool:
    """Whether every slot is settled or the time is up."""
    limit = spec.request.timeout
    if limit is not None and seconds(trials) >= limit * spec.request.jobs:
        return True
    return sum(map(settled, holders(trials).values())) >= owed(spec, searched)


def _sampler(
    spec: StudySpec,
    searched: Mapping[str, BaseDistribution],
    trials: list[FrozenTrial],
    *,
    shared: bool,
) -> BaseSampler:
    begun = sum(trial.state != TrialState.WAITING for trial in trials)
    # A single worker is reproducible; parallel workers must not draw the same samples, and may
    # begin a trial at the same moment, when none is running.
    entropy = [spec.job.seed, begun]
    if shared or any(trial.state == TrialState.RUNNING for trial in trials):
        entropy.append(os.getpid())
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    if spec.request.sampler == Sampler.random:
        return optuna.samplers.RandomSampler(seed=seed)
    if spec.request.sampler == Sampler.grid:
        return optuna.samplers.GridSampler(_grid(searched), seed=spec.job.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _grid(searched: Mapping[str, BaseDistribution]) -> dict[str, list[Any]]:
    """Grid of a few values of every range, evenly spaced on its scale."""
    grid: dict[str, list[Any]] = {}
    for name, of in searched.items():
        if isinstance(of, CategoricalDistribution):
            grid[name] = list(of.choices)
        elif isinstance(of, FloatDistribution | IntDistribution):
            spread = np.geomspace if of.log else np.linspace
            values = spread(of.low, of.high, _GRID_POINTS)
            if isinstance(of, IntDistribution):
                steps = np.rint((values - of.low) / of.step)
                values = np.clip(of.low + of.step * steps, of.low, of.high).astype(int)
            elif of.step is not None:
                values = of.low + of.step * np.rint((values - of.low) / of.step)
            grid[name] = np.unique(np.clip(values, of.low, of.high)).tolist()
    return grid


def _pruner(spec: StudySpec) -> BasePruner:
    steps = len(RUNGS) + spec.request.inner_folds
    if spec.request.pruner == Pruner.hyperband:
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=steps)
    if spec.request.pruner == Pruner.median:
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    return optuna.pruners.NopPruner()
