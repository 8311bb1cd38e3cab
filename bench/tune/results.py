"""Results of a study: its best settings, the table of its trials, and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from optuna.trial import TrialState

from bench.evaluate.scores import BY_NAME
from bench.execute.request import Request
from bench.files import atomic_write
from bench.protocol.rules import PROTOCOLS
from bench.records import write_record
from bench.registry import find_datasets
from bench.tune.slots import REASON, SLOT, counts, holders, seconds, settled
from bench.tune.study import StudySpec

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

BEST = "best.yaml"
TRIALS = "trials.csv"
STUDY = "study.json"

_HEAD = """\
# Best settings of a study, found on the training sections of this fold alone.
# 'bench run --config FILE' runs them on the fold; a path is relative to the working directory.
"""


@dataclass(frozen=True)
class Tuned:
    """The best settings of a study.

    Attributes
    ----------
    config
        All settings of the method.
    params
        Searched settings.
    value
        Score of the best settings on the inner folds.
    default_value
        Score of the default settings, None if they were not tried.
    trials
        Number of settled trials by state.
    seconds
        Duration of the trials.
    study
        The study's folder, under the results folder.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    value: float
    default_value: float | None
    trials: dict[str, int]
    seconds: float
    study: str


def write_results(spec: StudySpec, study: Study) -> Tuned:
    """Write ``best.yaml``, ``trials.csv`` and ``study.json`` of a study with a finished trial."""
    trials = study.get_trials(deepcopy=False)
    best = best_trial(spec, trials)
    first = holders(trials)[0]
    defaults = first.value if first.state == TrialState.COMPLETE and _is_default(first) else None
    tuned = Tuned(
        config=best.user_attrs["config"],
        params={**best.params, **best.user_attrs.get("predict", {})},
        value=float(best.value or 0.0),
        default_value=defaults,
        trials=counts(trials),
        seconds=round(seconds(trials), 1),
        study=spec.folder.relative_to(spec.request.run.results).as_posix(),
    )
    job, request = spec.job, spec.request
    facts = {
        "objective": request.objective.value,
        "value": tuned.value,
        "trial": best.number,
    }
    with atomic_write(spec.folder / BEST) as temporary:
        content = {**_run_fields(spec), **facts, "config": tuned.config}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        temporary.write_text(f"{_HEAD}{text}", encoding="utf-8")
    with atomic_write(spec.folder / TRIALS) as temporary:
        trial_table(trials).to_csv(temporary, index=False)
    write_record(
        spec.folder / STUDY,
        {
            "study": spec.name,
            "run_key": job.run.key,
            "method": job.method_spec.name,
            "dataset": job.source.dataset.card.name,
            "protocol": job.source.protocol.name,
            "fold": job.fold,
            "preset": request.run.preset,
            **facts,
            "default_value": tuned.default_value,
            "budget": {
                "trials": request.trials,
                "timeout_seconds": request.timeout,
                "jobs": request.jobs,
            },
            "sampler": request.sampler.value,
            "pruner": request.pruner.value,
            "inner_folds": request.inner_folds,
            "seed": job.seed,
            "trials": tuned.trials,
            "seconds": tuned.seconds,
        },
    )
    return tuned


def _run_fields(spec: StudySpec) -> dict[str, Any]:
    """Fields of ``best.yaml`` with which ``bench run --config`` runs the tuned settings.

    Paths of files are absolute, because the file may be used in another working directory.
    """
    job, run = spec.job, spec.request.run
    fields: dict[str, Any] = {
        "method": job.method_spec.method,
        "dataset": run.dataset if run.dataset in find_datasets() else _absolute(run.dataset),
        "protocol": run.protocol if run.protocol in PROTOCOLS else _absolute(run.protocol),
        "fold": job.fold,
        "preset": run.preset,
        "seed": run.seed,
    }
    if run.panel is not None:
        is_file = job.source.protocol.panel == "listed"
        fields["panel"] = _absolute(run.panel) if is_file else run.panel
    for name in ("aliases", "data_root"):
        if (path := getattr(run, name)) is not None:
            fields[name] = _absolute(path)
    for name in ("precision", "compile"):
        if getattr(run, name) != getattr(Request, name):
            fields[name] = getattr(run, name)
    return fields


def _absolute(path: str | Path) -> str:
    return str(Path(path).absolute())


def best_trial(spec: StudySpec, trials: list[FrozenTrial]) -> FrozenTrial:
    """Finished trial with the best value; the earliest if several are equal.

    Raises
    ------
    ValueError
        No trial was finished.
    """
    done = [trial for trial in holders(trials).values() if trial.state == TrialState.COMPLETE]
    sign = 1 if BY_NAME[spec.request.objective].better == "lower" else -1
    return min(done, key=lambda trial: (sign * float(trial.value or 0.0), trial.number))


def trial_table(trials: list[FrozenTrial]) -> pd.DataFrame:
    """One row per settled trial: slot, state, value, seconds, settings, reason of a failure."""
    rows = []
    for slot, trial in sorted(holders(trials).items()):
        if not settled(trial):
            continue
        attributes = trial.user_attrs
        rows.append(
            {
                SLOT: slot,
                "number": trial.number,
                "state": trial.state.name.lower(),
                "value": trial.value if trial.state == TrialState.COMPLETE else None,
                "steps": len(trial.intermediate_values),
                "seconds": attributes.get("seconds"),
                "seconds_fit_and_predict": attributes.get("seconds_fit_and_predict"),
                **{f"param.{name}": value for name, value in trial.params.items()},
                **{f"param.{n}": value for n, value in attributes.get("predict", {}).items()},
                REASON: attributes.get(REASON, ""),
            }
        )
    return pd.DataFrame(rows)


def _is_default(trial: FrozenTrial) -> bool:
    fixed = trial.system_attrs.get("fixed_params")
    return bool(fixed) or not trial.params
