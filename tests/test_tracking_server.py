"""Tracking over HTTP: a server that is well, slow, dying or new again, and ``bench sync``."""
# ruff: noqa: F811 - fixtures of tests.tracked

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from bench.claims import claim
from bench.store import read_run
from bench.stored_runs import stored_runs
from bench.tracking.model import fetch_model
from bench.tracking.pages import public
from tests.cli.tiny_dataset import assert_refused, call, fold_folders
from tests.mlflow_server import Line, Server
from tests.tracked import (  # noqa: F401 - fixtures
    client_of,
    empty_database,
    no_server_from_outside,
    run,
    runs_of,
    tiny,
)

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_database):
    """A server with an empty store; tests tell their runs apart by dataset or seed."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    with Server(folder) as server:
        yield server


@pytest.fixture
def line(server):
    with Line(server) as line:
        yield line


@pytest.fixture
def results(tmp_path):
    """Results folder that no store has seen."""
    return tmp_path / "results"


@pytest.fixture
def impatient(monkeypatch):
    """Waits and retries as short as a test needs them."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def sync(results, uri):
    return call("sync", "--results", results, "--tracking", uri)


def of_seed(client, seed):
    """Parent and children of the mean with a seed."""
    (parent,) = client.search_runs(["1"], f"tags.level = 'run' and params.seed = '{seed}'")
    family = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    return parent, client.search_runs(["1"], family)


def assert_complete(results, client, seed, folds=3):
    """The store has of a run what lies on disk, once."""
    parent, children = of_seed(client, seed)
    assert sorted(int(child.data.params["fold"]) for child in children) == list(range(folds))
    assert {child.info.status for child in children} == {"FINISHED"}
    for child in children:
        assert "section" in " ".join(child.data.metrics)
        names = {item.path for item in client.list_artifacts(child.info.run_id)}
        assert names == {"prediction_maps.png"}
        model = client.get_logged_model(child.data.tags["model"].removeprefix("models:/"))
        assert str(model.status) == "READY"
    assert parent.data.tags["folds_done"] == f"{folds}/3"
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
        *("images", "run.json", "table.csv", "table.md")
    }
    images = client.list_artifacts(parent.info.run_id, "images")
    assert len(images) == 2 * folds, "each with its small copy"


def only_warning(answer):
    assert answer.status == 0
    assert "Traceback" not in answer.stderr
    (warning,) = (text for text in answer.stderr.splitlines() if text.startswith("warning: "))
    assert "the results on disk are complete, upload them later with 'bench sync'" in warning
    return warning


# ------------------------------------------------------------------------- a server that is well


@pytest.mark.slow
def test_everything_arrives_and_comes_back_over_http(tiny, server, results, tmp_path):
    uri = server.uri
    answer = run(tiny, results, "--seed", "1", "--tracking", uri)
    assert answer.status == 0
    assert "warning" not in answer.stderr
    assert not list(results.glob("ml*")), "nothing is kept on this side"
    client = client_of(uri)
    assert_complete(results, client, 1)
    parent, children = of_seed(client, 1)
    assert parent.info.artifact_uri.startswith("mlflow-artifacts:/")
    (row,) = json.loads(run(tiny, results, "--seed", "1", "--tracking", uri, "--json").stdout)[
        "rows"
    ]
    assert parent.data.metrics["mse"] == pytest.approx(row["mse"], rel=1e-12)
    got = client.download_artifacts(parent.info.run_id, "run.json", str(tmp_path))
    (path,) = results.glob("runs/*/*/*/run.json")
    assert json.loads(Path(got).read_text()) == read_run(path.parent)
    model = fetch_model(children[0].data.tags["model"], uri)
    assert len(model.panel) == 40


@pytest.mark.slow
def test_sync_uploads_what_was_not_tracked_once(tiny, server, results):
    run(tiny, results, "--seed", "2", "--tracking", "none")
    run(tiny, results, "--seed", "3", "--folds", "0", "--tracking", "none")
    first = sync(results, server.uri)
    assert (first.status, first.stderr) == (0, "")
    assert first.stdout.splitlines() == [
        "tiny strict mean: uploaded, 3/3 folds",
        "tiny strict mean: uploaded, 1/3 folds",
        f"2 runs uploaded to {server.uri}, 0 were there already",
    ]
    client = client_of(server.uri)
    assert_complete(results, client, 2)
    assert_complete(results, client, 3, folds=1)

    def everything():
        found = [*of_seed(client, 2)[1], *of_seed(client, 3)[1]]
        return sorted((child.info.run_id, child.info.end_time) for child in found)

    before = everything()
    again = f"0 runs uploaded to {server.uri}, 2 were there already\n"
    assert sync(results, server.uri).stdout == again
    for path in results.rglob("tracking.json"):
        path.unlink()
    assert sync(results, server.uri).status == 0
    assert everything() == before, "what the store has is found again without a record"
    run(tiny, results, "--seed", "3", "--folds", "1", "--tracking", "none")
    assert sync(results, server.uri).stdout.splitlines() == [
        "tiny strict mean: uploaded, 2/3 folds",
        f"1 runs uploaded to {server.uri}, 1 were there already",
    ]
    assert_complete(results, client, 3, folds=2)


@pytest.mark.slow
def test_what_was_deleted_there_stays_deleted_until_it_is_done_again(tiny, server, results):
    options = ("--seed", "4", "--folds", "0", "--tracking", server.uri)
    run(tiny, results, *options)
    client = client_of(server.uri)
    parent, _ = of_seed(client, 4)
    client.delete_run(parent.info.run_id)
    assert sync(results, server.uri).stdout.startswith("0 runs uploaded")
    run(tiny, results, *options, "--force")
    assert_complete(results, client, 4, folds=1)
    assert of_seed(client, 4)[0].info.run_id != parent.info.run_id


# ---------------------------------------------------------------- a server that is not so well


@pytest.mark.slow
def test_a_server_that_hangs_costs_seconds_and_one_warning(tiny, line, results, impatient):
    line.delay = 20
    begin = time.monotonic()
    answer = run(tiny, results, "--seed", "5", "--tracking", line.uri)
    assert time.monotonic() - begin < 15
    assert f"tracking at {line.uri} failed" in only_warning(answer)
    assert "3/3" in answer.stdout
    assert line.served == 1, "one request found out"
    line.delay = 0
    assert sync(results, line.uri).status == 0
    assert_complete(results, client_of(line.uri), 5)


@pytest.mark.slow
def test_a_server_slow_at_every_request_is_not_waited_for(tiny, line, results, monkeypatch):
    line.delay = 0.2
    monkeypatch.setattr("bench.tracking.upload.FOLD_SECONDS", 1.0)
    begin = time.monotonic()
    answer = run(tiny, results, "--seed", "6", "--folds", "0", "--tracking", line.uri)
    assert time.monotonic() - begin < 15
    assert "TimeoutError: a fold was not uploaded within 1 s" in only_warning(answer)
    assert len(fold_folders(results)) == 1
    assert sync(results, line.uri).status == 0, "nobody waits for a sync"
    assert_complete(results, client_of(line.uri), 6, folds=1)


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_gets_the_rest_later(tiny, line, results, impatient):
    options = ("--folds", "0", "--tracking", line.uri)
    assert run(tiny, results, "--seed", "7", *options).status == 0
    whole = line.served
    assert whole > 20
    client = client_of(line.uri)
    for number, left in enumerate((2, whole // 3, 2 * whole // 3, whole - 1)):
        seed = str(70 + number)
        line.left = left
        answer = run(tiny, results, "--seed", seed, *options)
        only_warning(answer)
        assert "1/3" in answer.stdout
        assert sync(results, line.uri).status == 1
        line.left = None
        assert "1 runs uploaded" in sync(results, line.uri).stdout
        assert_complete(results, client, seed, folds=1)
    assert sync(results, line.uri).stdout.startswith("0 runs uploaded")


@pytest.mark.slow
def test_a_server_that_lost_its_data_gets_everything_again(
    tiny, line, results, tmp_path, empty_database
):
    for seed in ("80", "81"):
        run(tiny, results, "--seed", seed, "--folds", "0", "--tracking", line.uri)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with Server(tmp_path) as line.target:
        client = client_of(line.uri)
        assert client.get_experiment_by_name("tiny-strict") is None
        # A new fold of a run that the store is believed to have.
        run(tiny, results, "--seed", "80", "--folds", "1", "--tracking", line.uri)
        assert_complete(results, client, 80, folds=2)
        said = sync(results, line.uri).stdout.splitlines()
        assert said[-1] == f"1 runs uploaded to {line.uri}, 1 were there already"
        assert_complete(results, client, 81, folds=1)


# ------------------------------------------------------------------------- no server at all


def test_sync_says_in_a_line_why_it_cannot(tiny, results, impatient):
    run(tiny, results, "--folds", "0", "--tracking", "none")
    answer = sync(results, NOWHERE)
    assert answer.status == 1
    (said,) = answer.stderr.splitlines()
    assert said.startswith(f"bench: tracking at {NOWHERE} failed (")
    assert answer.stdout == ""
    assert not list(results.rglob("tracking.json"))


def test_sync_of_nothing_or_to_nowhere_is_refused(tiny, results, tmp_path):
    assert_refused(sync(tmp_path / "empty", NOWHERE), "no finished folds here")
    run(tiny, results, "--folds", "0", "--tracking", "none")
    assert_refused(sync(results, "none"), "nothing to upload to")


@pytest.mark.slow
def test_a_run_that_another_process_uploads_is_left_to_it(tiny, server, results, monkeypatch):
    monkeypatch.setattr("bench.tracking.upload.WAIT", 0.5)
    run(tiny, results, "--seed", "8", "--folds", "0", "--tracking", "none")
    run(tiny, results, "--seed", "9", "--folds", "0", "--tracking", "none")
    (busy, _) = stored_runs(results, "tiny", "strict")
    with claim(busy.folder.path / ".upload"):
        answer = sync(results, server.uri)
    assert answer.status == 0
    uploaded, left, together = answer.stdout.splitlines()
    assert left.startswith("tiny strict mean: left out, ")
    assert f"in use by process {os.getpid()} on " in left
    assert uploaded == "tiny strict mean: uploaded, 1/3 folds"
    assert together.startswith("1 runs uploaded")


def test_passwords_are_neither_told_nor_kept(tiny, results, impatient):
    uri = "http://me:secret@127.0.0.1:9"
    answer = run(tiny, results, "--folds", "0", "--tracking", uri)
    assert f"tracking at {NOWHERE} failed" in only_warning(answer)
    assert "secret" not in answer.stderr + sync(results, uri).stderr
    assert public("postgresql://me:secret@host/db") == "postgresql://host/db"
    for path in results.rglob("tracking.json"):
        assert "secret" not in path.read_text()


@pytest.mark.slow
def test_ui_of_a_server_elsewhere_names_its_page(tiny, server, results, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run(tiny, results, "--seed", "10", "--folds", "0")
    answer = call("ui", "--results", results)
    assert (answer.status, answer.stderr) == (0, "")
    wanted = rf"MLflow runs at {server.uri}/#/experiments/1/runs\?\S+\n"
    assert re.fullmatch(wanted, answer.stdout)
