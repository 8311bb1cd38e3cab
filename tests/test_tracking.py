"""MLflow: what is uploaded, that it is uploaded once, and that a dead server costs a warning."""

from __future__ import annotations

import json
import re
import shutil
import time

import pandas as pd
import pytest

from tests.cli.tiny_dataset import (
    TINY_NETWORK,
    call,
    call_process,
    fold_folders,
    write_tiny_dataset,
)

NOWHERE = "http://127.0.0.1:9"

BLOCK_MLFLOW = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mlflow":
            raise ImportError("mlflow is blocked")


sys.meta_path.insert(0, Blocker())
from bench.cli import main

main()
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny dataset."""
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """A database with MLflow's tables, which take seconds to make, and nothing in them."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def results(tmp_path, empty_database):
    """Results folder with an empty database."""
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


def run(tiny, results, *more, methods="mean"):
    return call("run", "--method", methods, *tiny.options, "--results", results, *more)


def client_of(results):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")


def runs_of(client):
    """MLflow runs, parents by label and children by label and fold."""
    experiments = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    found = client.search_runs(experiments)
    parents = {r.data.tags["method"]: r for r in found if "mlflow.parentRunId" not in r.data.tags}
    children = {
        (r.data.tags["method"], int(r.data.params["fold"])): r
        for r in found
        if "mlflow.parentRunId" in r.data.tags
    }
    assert len(parents) + len(children) == len(found)
    return parents, children


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, tiny):
    """Results folder of a call with the default tracking, and what the call printed."""
    results = tmp_path_factory.mktemp("tracked") / "results"
    printed = run(tiny, results, "--json", methods="coordinates,depth")
    return results, printed


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tiny, empty_database):
    """Results folder of two epochs of mclstexp on one fold."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = tmp_path_factory.mktemp("learned")
    shutil.copy(empty_database, results / "mlflow.db")
    settings = (*TINY_NETWORK, "--set", "epochs=2", "--folds", "1")
    assert run(tiny, results, *settings, methods="mclstexp").status == 0
    torch.set_num_threads(threads)
    return results


def test_no_tracking_needs_no_mlflow(tiny, tmp_path):
    program = tmp_path / "blocked.py"
    program.write_text(BLOCK_MLFLOW)
    arguments = ("run", "--method", "mean", *tiny.options, "--results", tmp_path / "results")
    answer = call_process(*arguments, "--tracking", "none", program=(str(program),))
    assert answer.status == 0
    assert "warning" not in answer.stderr
    assert "3/3" in answer.stdout
    assert not list((tmp_path / "results").glob("mlflow*"))
    with_tracking = call_process(*arguments, program=(str(program),))
    assert with_tracking.status == 0
    assert with_tracking.stderr.count("warning: tracking at") == 1
    assert "mlflow is blocked" in with_tracking.stderr


def test_tracking_prints_nothing_of_its_own(tracked):
    _, printed = tracked
    assert printed.status == 0
    for line in printed.stderr.splitlines():
        assert re.match(r"tiny: |(coordinates|depth) fold \d: done in", line), line


def test_run_is_the_parent_of_its_folds(tracked):
    results, _ = tracked
    parents, children = runs_of(client_of(results))
    assert set(parents) == {"coordinates", "depth"}
    assert set(children) == {(name, fold) for name in parents for fold in range(3)}
    for (name, _), child in children.items():
        assert child.data.tags["mlflow.parentRunId"] == parents[name].info.run_id
    assert {run.info.status for run in (*parents.values(), *children.values())} == {"FINISHED"}
    experiment = client_of(results).get_experiment_by_name("tiny-strict")
    assert experiment.artifact_location.startswith((results / "mlartifacts").as_uri())


def test_parent_has_settings_scores_and_identity(tracked):
    results, printed = tracked
    rows = {row["method"]: row for row in json.loads(printed.stdout)["rows"]}
    parents, _ = runs_of(client_of(results))
    for path in results.glob("runs/*/*/*/run.json"):
        facts = json.loads(path.read_text())
        data = parents[facts["label"]].data
        for name in ("label", "kind", "preset", "seed", "dataset", "protocol"):
            assert data.params[name] == str(facts[name])
        for name, value in facts["config"].items():
            assert data.params[f"config.{name}"] == str(value)
        for name in ("protocol_hash", "folds_hash", "dataset_hash", "protocol", "dataset"):
            assert data.tags[name] == facts[name]
        assert data.tags["git_commit"] == (facts["git_commit"] or "none")
        for name, version in facts["packages"].items():
            assert data.tags[f"version.{name}"] == version
        assert data.tags["folds_done"] == "3/3"
        row = rows[facts["label"]]
        for name in ("pcc_acg", "pcc_acg_sd", "pcc_heg", "mse", "mae", "pooled_pcc_acg"):
            if row[name] is None:
                assert name not in data.metrics
            else:
                assert data.metrics[name] == pytest.approx(row[name], rel=1e-12)
        assert data.metrics["folds"] == 3
        assert data.metrics["sections"] == 6


def test_child_has_scores_timings_and_memory(tracked):
    results, _ = tracked
    _, children = runs_of(client_of(results))
    for folder in fold_folders(results):
        label, fold = folder.parent.name.rsplit("-", 1)[0], int(folder.name[-1])
        metrics = children[label, fold].data.metrics
        scores = pd.read_parquet(folder / "scores.parquet")
        of_sections = scores[(scores["section"] != "") & (scores["score"] == "pcc_acg")]
        assert metrics["pcc_acg"] == pytest.approx(of_sections["value"].mean(), rel=1e-12)
        for row in of_sections.itertuples():
            assert metrics[f"section.{row.section}.pcc_acg"] == pytest.approx(row.value)
        facts = json.loads((folder / "fold.json").read_text())
        for name, seconds in facts["timings"].items():
            assert metrics[name] == pytest.approx(seconds)
        assert metrics["peak_memory_mb"] > 50
        assert children[label, fold].data.params["test"] == ",".join(facts["test"])


def test_artifacts_are_tables_and_maps(tracked):
    results, _ = tracked
    client = client_of(results)
    parents, children = runs_of(client)
    for run_ in parents.values():
        names = {item.path for item in client.list_artifacts(run_.info.run_id)}
        assert {"table.csv", "table.md"} <= names
    for run_ in children.values():
        names = {item.path for item in client.list_artifacts(run_.info.run_id)}
        assert "prediction_maps.png" in names
    for path in results.rglob("prediction_maps.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    tables = [pd.read_csv(path) for path in results.rglob("table.csv")]
    assert sorted(table["method"].item() for table in tables) == ["coordinates", "depth"]


def test_curves_have_one_value_an_epoch(learned):
    client = client_of(learned)
    _, children = runs_of(client)
    child = children["mclstexp", 1]
    (folder,) = fold_folders(learned)
    curves = pd.read_parquet(folder / "curves.parquet")
    assert len(curves) == 2
    for name in ("train_loss", "chance_level"):
        history = sorted(client.get_metric_history(child.info.run_id, name), key=lambda m: m.step)
        assert [metric.step for metric in history] == [0, 1]
        values = [metric.value for metric in history]
        assert values == pytest.approx(curves[name].tolist())


def test_unfinished_run_says_so_until_it_is_finished(tiny, results):
    run(tiny, results, "--folds", "0,1")
    parent = runs_of(client_of(results))[0]["mean"]
    assert parent.info.status == "FAILED"
    assert parent.data.tags["folds_done"] == "2/3"
    run(tiny, results)
    parents, children = runs_of(client_of(results))
    assert parents["mean"].info.run_id == parent.info.run_id
    assert parents["mean"].info.status == "FINISHED"
    assert parents["mean"].data.tags["folds_done"] == "3/3"
    assert set(children) == {("mean", fold) for fold in range(3)}


def test_same_call_again_uploads_nothing(tracked, tiny):
    results, _ = tracked

    def everything():
        parents, children = runs_of(client_of(results))
        runs = [*parents.values(), *children.values()]
        return sorted((r.info.run_id, r.info.end_time, len(r.data.metrics)) for r in runs)

    before = everything()
    assert run(tiny, results, methods="coordinates,depth").status == 0
    assert everything() == before


def test_forced_fold_replaces_its_numbers_in_the_same_run(tiny, results):
    run(tiny, results, "--folds", "0")
    before = runs_of(client_of(results))
    assert run(tiny, results, "--folds", "0", "--force").status == 0
    after = runs_of(client_of(results))
    assert after[0]["mean"].info.run_id == before[0]["mean"].info.run_id
    assert after[1]["mean", 0].info.run_id == before[1]["mean", 0].info.run_id
    assert after[1]["mean", 0].data.metrics["mse"] == before[1]["mean", 0].data.metrics["mse"]


def test_lost_record_does_not_double_the_runs(tiny, results):
    run(tiny, results, "--folds", "0")
    (record,) = results.rglob("tracking.json")
    for text in (None, "{", "[]", '{"sqlite": 3}'):
        record.unlink() if text is None else record.write_text(text)
        assert run(tiny, results, "--folds", "0").status == 0
        parents, children = runs_of(client_of(results))
        assert (len(parents), len(children)) == (1, 1)


def test_dead_server_costs_one_warning_and_later_everything_is_uploaded(tiny, results):
    begin = time.monotonic()
    answer = run(tiny, results, "--tracking", NOWHERE, methods="mean,depth")
    assert time.monotonic() - begin < 60
    assert answer.status == 0
    assert answer.stdout.count("3/3") == 2
    (warning,) = (line for line in answer.stderr.splitlines() if "tracking" in line)
    assert warning.startswith("warning: ")
    assert NOWHERE in warning
    assert "the results on disk are complete" in warning
    assert "Traceback" not in answer.stderr
    assert len(fold_folders(results)) == 6

    later = run(tiny, results, methods="mean,depth")
    assert later.status == 0
    assert later.stderr.count("kept, it is done") == 6
    assert "warning" not in later.stderr
    parents, children = runs_of(client_of(results))
    assert set(parents) == {"mean", "depth"}
    assert set(children) == {(name, fold) for name in parents for fold in range(3)}


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/nowhere/mlflow.db"])
def test_uri_that_cannot_work_costs_one_warning(tiny, tmp_path, uri):
    answer = run(tiny, tmp_path / "results", "--folds", "0", "--tracking", uri)
    assert answer.status == 0
    (warning,) = (line for line in answer.stderr.splitlines() if line.startswith("warning: "))
    assert f"tracking at {uri} failed" in warning
    assert answer.stderr.splitlines()[-1] == warning or "fold 0: done" in answer.stderr


def test_every_store_gets_what_it_has_not_seen(
    tiny, results, tmp_path, monkeypatch, empty_database
):
    from mlflow import MlflowClient

    stores = [f"sqlite:///{tmp_path / name}.db" for name in ("option", "environment")]
    for uri in stores:
        shutil.copy(empty_database, uri.removeprefix("sqlite:///"))
    run(tiny, results, "--folds", "0")
    run(tiny, results, "--folds", "0", "--tracking", stores[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stores[1])
    run(tiny, results, "--folds", "0")
    for client in (client_of(results), *(MlflowClient(tracking_uri=uri) for uri in stores)):
        parents, children = runs_of(client)
        assert (set(parents), set(children)) == ({"mean"}, {("mean", 0)})
