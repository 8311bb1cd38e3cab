"""Studies on a cluster, with a queue that the test moves on."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from bench.errors import BenchError, DataError, DetachedError
from bench.execute.executors import node_task, task_pool
from bench.execute.executors.profile import Profile
from bench.execute.executors.slurm import SlurmExecutor
from bench.execute.executors.submission import read_submission
from bench.tune import slurm
from bench.tune.choices import ObjectiveScore, Pruner, Sampler
from bench.tune.slots import SLOT
from bench.tune.slurm import (
    SlurmStudies,
    run_worker,
    tune_request_from_json,
    tune_request_to_json,
)
from bench.tune.study import open_study
from bench.tune.tuning import TuningWatcher, plan_studies, tune
from tests.execute.fake_slurm import FakeSlurm


class Warned(TuningWatcher):
    """Keeps what it is warned of."""

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def finish(spec):
    """Give a study the trials that it owes, without fitting anything."""
    study = open_study(spec, runs=False)
    for slot in range(spec.request.trials):
        study.enqueue_trial({"shift": slot / 10}, user_attrs={SLOT: slot})
        trial = study.ask()
        trial.suggest_float("shift", -1.0, 1.0)
        trial.set_user_attr("config", {"shift": slot / 10})
        study.tell(trial, float(slot), state=TrialState.COMPLETE)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster whose workers finish their study at once."""

    def run_task(folder, number):
        submission = read_submission(folder)
        ((kind, content),) = submission.request().items()
        assert kind == "tune"
        run_worker(submission, number, content, TuningWatcher())

    cluster = FakeSlurm.install(tmp_path / "slurm", run_task)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(node_task, "forbid_downloads", lambda: None)
    monkeypatch.setattr(task_pool, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "work", finish)
    monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=lambda seconds: cluster.run_next()))
    return cluster


def studies(watcher=None, *, submit_only=False, **changes):
    """A runner of studies on the cluster."""
    asked = Profile(**{"poll_seconds": 0.01, "settle_seconds": 0.0, **changes})
    return SlurmStudies(SlurmExecutor(asked, submit_only=submit_only), watcher or Warned())


def test_a_request_to_tune_comes_back_as_it_was(request_for):
    request = request_for(
        *("wait=0.5", "shift=-1"), trials=7, timeout=9.5, jobs=3, storage="sqlite:///x",
        sampler=Sampler.grid, pruner=Pruner.median, objective=ObjectiveScore.pcc_heg, inner_folds=4,
    )  # fmt: skip
    text = json.dumps(tune_request_to_json(request), allow_nan=False)
    back = tune_request_from_json(json.loads(text))
    assert back == request
    assert type(back.sampler) is Sampler


@pytest.mark.parametrize(
    "content", [{}, {"run": {}}, {"run": {"methods": [], "dataset": "x"}, "y": 1}]
)
def test_an_object_of_another_version_is_refused(content):
    with pytest.raises(DataError, match="not a request of this version"):
        tune_request_from_json(content)


def test_all_studies_are_submitted_at_once(cluster, request_for):
    found, failed = tune(request_for(trials=3, folds=(0, 1), jobs=2), Warned(), studies())
    assert failed == []
    assert {fold: of.value for fold, of in found["searcher"].items()} == {0: 0.0, 1: 0.0}
    (line,) = cluster.submissions
    assert "--array=0-3 " in line


def test_a_study_that_is_over_submits_nothing(cluster, request_for):
    request = request_for(trials=3)
    tune(request, Warned(), studies())
    tune(request, Warned(), studies())
    assert len(cluster.submissions) == 1
    more = replace(request, trials=4)
    with pytest.raises(DetachedError, match=r"1 studies: 1 tasks"):
        tune(more, Warned(), studies(submit_only=True))
    assert len(cluster.submissions) == 2


def test_the_same_call_follows_the_workers(cluster, request_for):
    request = request_for(trials=3, jobs=2)
    with pytest.raises(DetachedError, match=r"1 studies: 2 tasks .* \(job 1\)"):
        tune(request, Warned(), studies(submit_only=True))
    tune(replace(request, jobs=3), Warned(), studies())
    assert ["--array=0-1 " in cluster.submissions[0], "--array=0-0 " in cluster.submissions[1]] == [
        True,
        True,
    ]


def test_a_lost_worker_is_replaced(cluster, request_for, monkeypatch):
    steps = [lambda: cluster.set_state(cluster.pending()[0], "NODE_FAIL")]
    step = lambda seconds: (steps.pop() if steps else cluster.run_next)()  # noqa: E731
    monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=step))
    watcher = Warned()
    found, _ = tune(request_for(trials=2), watcher, studies(watcher))
    assert found
    (warning,) = watcher.warnings
    assert "a worker ended with trials left (NODE_FAIL); it is submitted again" in warning
    assert len(cluster.submissions) == 2


def test_workers_are_not_replaced_for_ever(cluster, request_for, monkeypatch):
    def lose(seconds):
        for address in cluster.pending():
            cluster.set_state(address, "TIMEOUT")

    monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=lose))
    with pytest.raises(BenchError, match=r"every worker ended with trials left, .* TIMEOUT; log: "):
        tune(request_for(trials=2), Warned(), studies(retries=1))
    assert len(cluster.submissions) == 2


def test_a_node_that_would_make_another_study_refuses(cluster, request_for, monkeypatch):
    made = []
    monkeypatch.setattr(slurm, "plan_studies", lambda request: made.append(request) or [])
    with pytest.raises(BenchError, match="code, packages or data have changed") as error:
        tune(request_for(trials=2), Warned(), studies())
    assert "searcher, fold 0" in str(error.value)
    assert len(cluster.submissions) == 1
    assert made[0].run.results.is_absolute()


def test_studies_have_the_same_names_on_the_nodes(request_for):
    request = request_for(trials=2)
    specs = plan_studies(request)
    run = slurm.node_request(request.run, [spec.job for spec in specs])
    assert [spec.name for spec in plan_studies(replace(request, run=run))] == [
        spec.name for spec in specs
    ]
