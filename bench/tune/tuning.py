"""Nested tuning: studies on the inner folds, then one refit and one score on each test fold."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from filelock import FileLock

from bench.errors import BenchError, ConfigError
from bench.execute.executors.base import Executor, JobWatcher
from bench.execute.method_specs import MethodSpec, is_twin
from bench.execute.plan import Job, make_plan
from bench.execute.request import FoldSettings
from bench.execute.run import RunResult, Uploads, run_request
from bench.execute.variants import without_variants
from bench.files import canonical_hash
from bench.method import Method
from bench.method_references import is_own
from bench.own_methods import pickled_classes, take_over
from bench.records import read_record
from bench.registry import load_method
from bench.sources import code_hash
from bench.store import folder_name
from bench.tune.figures import study_figures
from bench.tune.inner import inner_folds
from bench.tune.request import TuneRequest
from bench.tune.results import STUDY, Tuned, write_results
from bench.tune.slots import common_reasons, counts
from bench.tune.study import StudySpec, is_over, open_study, search_space, work

if TYPE_CHECKING:
    from optuna import Study

_POLL_SECONDS = 0.5

_DECIDING = ("bench.tune.study",)
"""Modules that determine, with their imports, the value of a trial."""


class StudyRunner(Protocol):
    """Runner of the workers of studies.

    Attributes
    ----------
    elsewhere
        Whether workers run on other machines.
    """

    elsewhere: ClassVar[bool]

    def begin(self, specs: Sequence[StudySpec]) -> None:
        """Prepare for all studies, before the first is run."""

    def run(self, spec: StudySpec, told: Callable[[Study], None]) -> None:
        """Run one study to its end; see :func:`run_study`."""


class LocalStudies:
    """Runner of studies one after another on this machine."""

    elsewhere: ClassVar[bool] = False

    def begin(self, specs: Sequence[StudySpec]) -> None:
        """Do nothing: studies need no preparation here."""

    def run(self, spec: StudySpec, told: Callable[[Study], None]) -> None:
        """Run one study to its end; see :func:`run_study`."""
        run_study(spec, told)


class TuningWatcher(JobWatcher):
    """Receiver of events of studies; the base class ignores them."""

    def study_started(self, spec: StudySpec, inner: int) -> None:
        """Report that a study begins or continues on `inner` inner folds."""

    def study_progress(self, spec: StudySpec, study: Study) -> None:
        """Report that trials may have finished."""

    def study_done(self, spec: StudySpec, tuned: Tuned | None, said: str) -> None:
        """Report that the study is over; `tuned` is None if no trial gave a value."""


@dataclass(frozen=True)
class AllFailed:
    """A study in which no trial gave a value."""

    method: str
    fold: int
    reasons: tuple[str, ...]


def tune(
    request: TuneRequest,
    watcher: TuningWatcher | None = None,
    runner: StudyRunner | None = None,
) -> tuple[dict[str, dict[int, Tuned]], list[AllFailed]]:
    """Find the best settings of every method for every outer fold.

    An interrupted study is continued; a complete one is only read.

    Parameters
    ----------
    request
        Methods, data, budget.
    watcher
        Told what happens.
    runner
        Runner of the workers; None: on this machine.

    Returns
    -------
    tuple
        Best settings by method and outer fold, and the studies in which every trial failed.

    Raises
    ------
    BenchError
        The request cannot be met, or the storage cannot be used.
    """
    watcher, runner = watcher or TuningWatcher(), runner or LocalStudies()
    results: dict[str, dict[int, Tuned]] = {}
    failed: list[AllFailed] = []
    specs = plan_studies(request, elsewhere=runner.elsewhere)
    for spec in specs:  # the whole request is checked before the first trial
        _inner_of(spec)
    runner.begin(specs)
    for spec in specs:
        watcher.study_started(spec, len(_inner_of(spec).folds))
        runner.run(spec, lambda study, spec=spec: watcher.study_progress(spec, study))  # type: ignore[misc]
        study = open_study(spec, runs=False)
        trials = study.get_trials(deepcopy=False)
        method, fold = str(spec.job.method_spec.method), spec.job.fold
        done = counts(trials)
        said = ", ".join(f"{number} {name}" for name, number in done.items() if number)
        if not done["complete"]:
            label = spec.job.method_spec.label
            failed.append(AllFailed(label, fold, tuple(common_reasons(trials))))
            watcher.study_done(spec, None, said)
            continue
        known = read_record(spec.folder / STUDY).get("trials")
        tuned = write_results(spec, study)
        if known != tuned.trials:
            study_figures(study, spec.folder, request.objective.value)
        results.setdefault(method, {})[fold] = tuned
        watcher.study_done(spec, tuned, said)
    return results, failed


def refit(
    request: TuneRequest,
    results: Mapping[str, Mapping[int, Tuned]],
    *,
    uploads: Uploads | None = None,
    watcher: JobWatcher | None = None,
    executor: Executor | None = None,
) -> list[RunResult]:
    """Fit the methods on all training sections of each fold and score them on its test sections.

    Returns
    -------
    list of RunResult
        Runs with the default settings on the tuned folds, then with the best settings.
    """
    folds = tuple(sorted({fold for of in results.values() for fold in of}))
    run = replace(request.run, methods=tuple(results), folds=folds, oracles=False)
    best = {
        method: {fold: FoldSettings(tuned.config, tuned.study) for fold, tuned in of.items()}
        for method, of in results.items()
    }
    # Processes that shared a study arrive together: one does the work, the others skip it.
    lock = request.run.results / "tuning" / ".refit.lock"
    with FileLock(lock):
        return [
            run_request(one, uploads=uploads, watcher=watcher, executor=executor)
            for one in (run, replace(run, tuned=best))
        ]


def plan_studies(request: TuneRequest, *, elsewhere: bool = False) -> list[StudySpec]:
    """One study per method and outer fold, checked before anything is run.

    Parameters
    ----------
    request
        Methods, data, budget.
    elsewhere
        Whether the trials run on other machines; see :func:`bench.execute.plan.make_plan`.

    Raises
    ------
    BenchError
        A control, an oracle, a method with nothing to search; or an invalid request for a run.
    """
    if request.jobs < 1 or request.trials < 1 or request.inner_folds < 2:
        raise ConfigError("tuning needs at least one job, one trial and two inner folds")
    methods = request.run.methods
    for name in methods:
        if not is_own(name):
            _tunable(name)
    without_variants(request.run, "tuning")
    plan = make_plan(replace(request.run, oracles=False), elsewhere=elsewhere)
    for name in filter(is_own, methods):  # a worker process has imported it without error
        _tunable(name)
    specs = []
    for run in plan.runs:
        fixed = _fixed(request.run.settings, run.method_spec)
        for job in run.jobs:
            name = _study_name(request, run.folder.key, job, fixed)
            folder = (
                request.run.results
                / "tuning"
                / plan.dataset.card.name
                / plan.protocol.name
                / f"{folder_name(run.method_spec.label)}-{name[:12]}"
                / f"fold-{job.fold}"
            )
            specs.append(StudySpec(job, request, fixed, f"{name}-fold-{job.fold}", folder))
    for spec in specs:
        if not search_space(spec) and not set(spec.kind.predict_space) - set(spec.fixed):
            raise ConfigError(f"{spec.kind.name}: --set fixes all that could be searched")
    return specs


def _tunable(name: str) -> type[Method]:
    if is_twin(name):
        raise BenchError(f"{name}: a twin has the settings of its method; tune the method")
    kind = load_method(name)
    if kind.control:
        raise BenchError(f"{kind.name} is a control and is not tuned")
    searched = kind.search_space.__func__ is not Method.search_space.__func__  # type: ignore[attr-defined]
    if not searched and not kind.predict_space:
        raise BenchError(f"{kind.name} offers no settings to search")
    return kind


def _fixed(settings: Mapping[str, Any], method_spec: MethodSpec) -> dict[str, Any]:
    """Settings fixed by the user for a method, validated."""
    config, facts = method_spec.config, method_spec.facts
    owners = {method_spec.label, method_spec.method, facts.name if facts else None}
    return {
        name: config[name]
        for name in config
        if name in settings or any(f"{owner}.{name}" in settings for owner in owners)
    }


def _study_name(request: TuneRequest, run_key: str, job: Job, fixed: Mapping[str, Any]) -> str:
    """Name that differs with anything that changes the trials; a larger budget keeps the name."""
    return canonical_hash(
        {
            "run": run_key,
            "tuning": code_hash(_DECIDING),
            "sampler": request.sampler.value,
            "pruner": request.pruner.value,
            "objective": request.objective.value,
            "inner_folds": request.inner_folds,
            "fixed": {name: str(value) for name, value in fixed.items()},
        }
    )


def _inner_of(spec: StudySpec) -> Any:
    source = spec.job.source
    _, folds = inner_folds(source.fold, source.dataset, source.protocol, spec.request.inner_folds)
    return folds


def run_study(spec: StudySpec, told: Callable[[Study], None]) -> None:
    """Run a study to its end, in this process or in several.

    Raises
    ------
    BenchError
        An error not caused by the settings, or every worker died.
    """
    if spec.request.jobs == 1:
        work(spec, told)
        return
    study = open_study(spec, runs=False)
    searched = search_space(spec)
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // spec.request.jobs)
    workers = []
    for _ in range(spec.request.jobs):
        classes = pickled_classes(str(spec.job.method_spec.method))
        worker = context.Process(target=_work_quietly, args=(spec, threads, classes))
        worker.start()
        workers.append(worker)
    try:
        while any(worker.is_alive() for worker in workers):
            told(study)
            time.sleep(_POLL_SECONDS)
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for worker in workers:
            worker.join()
    told(study)
    if not is_over(spec, study.get_trials(deepcopy=False), searched):
        codes = sorted({worker.exitcode for worker in workers if worker.exitcode})
        raise BenchError(
            f"study of {spec.kind.name}, fold {spec.job.fold}: every worker ended (exit status"
            f" {', '.join(map(str, codes))}) with trials left; call again to continue"
        )


def _work_quietly(spec: StudySpec, threads: int, classes: Mapping[str, bytes]) -> None:
    """Work on a study in a worker process; an error not due to the settings prints one line."""
    from bench.worker.child import limit_threads

    take_over(classes)
    try:
        if "OMP_NUM_THREADS" not in os.environ:
            limit_threads(threads)
        work(spec)
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
