"""Trials stand in MLflow below the run that was tuned."""

import pytest

from tests.cli.tiny_dataset import call


@pytest.mark.slow
def test_trials_are_runs_below_the_tuned_one(searcher, tiny, results, figures):
    from mlflow import MlflowClient

    where = (*tiny.where, *tiny.quick_protocol, "--folds", "0", "--results", results)
    options = ("--trials", "6", "--objective", "mse", "--set", "fails=positive")
    answer = call("tune", "-m", searcher, *options, *where)
    assert answer.status == 1, "the default settings fail"
    assert "warning" not in answer.stderr
    client = MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "tiny-patients")

    def below(run_id):
        query = f"tags.`mlflow.parentRunId` = '{run_id}'"
        return client.search_runs([experiment.experiment_id], query)

    (tuned,) = (
        run
        for run in client.search_runs([experiment.experiment_id], "tags.level = 'run'")
        if run.data.tags["method"] == "tuned:searcher"
    )
    (study,) = (run for run in below(tuned.info.run_id) if run.data.tags["level"] == "study")
    assert study.info.status == "FINISHED"
    assert study.data.params["trials"] == "6"
    files = {item.path for item in client.list_artifacts(study.info.run_id)}
    assert {"best.yaml", "trials.csv", "history.png"} <= files
    trials = {run.info.run_name: run for run in below(study.info.run_id)}
    assert set(trials) == {f"trial {slot}" for slot in range(6)}
    assert trials["trial 0"].data.tags["reason"] == "MemoryError: too large"
    assert trials["trial 0"].info.status == "FAILED"
    done = [run for run in trials.values() if run.info.status == "FINISHED"]
    best = min(run.data.metrics["inner_mse"] for run in done)
    assert study.data.metrics["inner_mse"] == best
    assert "shift" in done[0].data.params
    assert "mse" not in done[0].data.metrics, "scores of inner folds have a name of their own"


def test_a_study_elsewhere_is_not_read(results, tmp_path):
    from bench.store import RunFolder
    from bench.stored_runs import StoredRun
    from bench.tracking.studies import study_folders

    outside = tmp_path / "outside"
    outside.mkdir()
    inside = results / "tuning" / "a" / "fold-0"
    inside.mkdir(parents=True)
    folder = RunFolder(results / "runs" / "d" / "p" / "m-key", "key")
    facts = {"studies": {"0": "tuning/a/fold-0", "1": "../outside", "2": str(outside), "x": "."}}
    assert set(study_folders(StoredRun(folder, facts, ()))) == {0}
