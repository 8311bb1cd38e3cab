"""A results folder that is renamed or copied: its artifacts and models go with it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from bench.tracking.model import fetch_model
from bench.tracking.tracking_store import open_database
from bench.tracking.upload import Tracker, newest_page, sync, tracking_uri
from tests.cli.tiny_dataset import call
from tests.tracked import client_of, no_server_from_outside, runs_of  # noqa: F401 - a fixture
from tests.tracking.uploads import assert_uploaded_once, copy_stored, runs_in


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A results folder with one uploaded run and one that was not."""
    results = copy_stored(tmp_path_factory.mktemp("first") / "a first name")
    (ridge,) = (run.folder.path for run in runs_in(results) if run.facts["label"] == "ridge")
    shutil.move(ridge, results.parent / "ridge")
    assert sync(results, tracking_uri(None, results), lambda _: None) is None
    shutil.move(results.parent / "ridge", ridge)
    return results


@pytest.fixture
def folder(first, tmp_path):
    """The folder in a place where it may be renamed, with locations of that place."""
    folder = shutil.copytree(first, tmp_path / "before")
    assert open_database(folder, tracking_uri(None, folder)) is None
    register(folder)
    return folder


def register(folder):
    """Register a model, as one may in MLflow's pages."""
    client = client_of(folder)
    (model, *_) = client.search_logged_models(["1"])
    client.create_registered_model("best")
    client.create_model_version("best", model.artifact_location)


def text_of(folder):
    """All texts in a database."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return "\n".join(connection.iterdump())


def assert_all_opens(folder, labels, tmp_path):
    client = client_of(folder)
    parents, children = runs_of(client)
    assert set(parents) == set(labels)
    for run in (*parents.values(), *children.values()):
        assert run.info.artifact_uri.startswith((folder / "mlartifacts").as_uri() + "/")
        files = [item.path for item in client.list_artifacts(run.info.run_id)]
        assert files
        for name in files:
            got = client.download_artifacts(run.info.run_id, name, str(tmp_path))
            assert got.startswith(str(tmp_path))
    models = client.search_logged_models(["1"])
    assert len(models) == 3 * len(labels)
    for model in models:
        assert client.list_logged_model_artifacts(model.model_id)
        assert fetch_model(f"models:/{model.model_id}", tracking_uri(None, folder)).panel
    (version,) = client.search_model_versions("name = 'best'")
    assert version.source.startswith((folder / "mlartifacts").as_uri() + "/")


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_everything_opens_at_the_new_place(folder, kept, tmp_path):
    new = folder.with_name("after ß 100%")
    content = None
    if kept:
        shutil.copytree(folder, new)
        content = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    else:
        folder.rename(new)
    told = []
    assert sync(new, tracking_uri(None, new), told.append) is None
    assert told == [
        "demo strict-hvg-12 ridge: uploaded, 3/3 folds",
        f"1 runs uploaded to {tracking_uri(None, new)}, 1 were there already",
    ]
    assert_uploaded_once(new)
    (tmp_path / "got").mkdir()
    assert_all_opens(new, ["mean", "ridge"], tmp_path / "got")
    assert folder.as_uri() not in text_of(new)
    assert str(folder) not in text_of(new)
    if kept:
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == content
        assert_all_opens(folder, ["mean"], tmp_path / "got")
        assert new.as_uri() not in text_of(folder)
    else:
        assert not folder.exists()


def test_a_call_that_uploads_nothing_moves_the_locations(folder):
    new = folder.with_name("after")
    folder.rename(new)
    warnings = []
    tracker = Tracker(tracking_uri(None, new), new, warnings.append)
    (mean,) = (run for run in runs_in(new) if run.facts["label"] == "mean")
    tracker.upload(mean)
    assert warnings == []
    assert folder.as_uri() not in text_of(new)
    assert not folder.exists()


def test_the_pages_open_at_the_new_place(folder, monkeypatch):
    new = folder.with_name("after")
    folder.rename(new)
    commands = []
    monkeypatch.setattr("os.execv", lambda _, command: commands.append(command))
    answer = call("ui", "--results", new)
    assert (answer.status, answer.stderr) == (0, "")
    ((_, *command),) = commands
    assert (new / "mlartifacts").as_uri() in command
    assert newest_page(new, tracking_uri(None, new)).startswith("/#/experiments/1/runs?")
    assert folder.as_uri() not in text_of(new)


def test_what_was_deleted_stays_deleted_after_a_move(folder):
    client = client_of(folder)
    parent = runs_of(client)[0]["mean"]
    client.delete_run(parent.info.run_id)
    new = folder.with_name("after")
    folder.rename(new)
    (ridge,) = (run.folder.path for run in runs_in(new) if run.facts["label"] == "ridge")
    shutil.rmtree(ridge)
    told = []
    assert sync(new, tracking_uri(None, new), told.append) is None
    assert told == [f"0 runs uploaded to {tracking_uri(None, new)}, 1 were there already"]
