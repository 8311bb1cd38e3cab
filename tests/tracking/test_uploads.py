"""Uploads: one process at a time, what is missing at the end, and records that are damaged."""
# ruff: noqa: F811 - fixtures of tests.tracked and tests.tracking.uploads

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing, redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest

from bench.claims import claim
from bench.tracking.tracking_store import TrackingStore
from bench.tracking.upload import Tracker, sync, tracking_uri
from tests.tracked import client_of, empty_database, no_server_from_outside  # noqa: F401 - fixtures
from tests.tracking.uploads import (  # noqa: F401 - a fixture
    ask,
    assert_uploaded_once,
    copy_stored,
    hidden_files,
    results,
    runs_in,
)


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory):
    """A results folder whose runs were uploaded."""
    results = copy_stored(tmp_path_factory.mktemp("uploaded") / "results")
    told, printed = [], io.StringIO()
    with redirect_stderr(printed):
        assert sync(results, tracking_uri(None, results), told.append) is None
    assert printed.getvalue() == ""
    assert told[-1].startswith("2 runs uploaded to sqlite:///")
    assert_uploaded_once(results)
    return results


@pytest.fixture
def again(uploaded, tmp_path):
    """A copy of it."""
    return shutil.copytree(uploaded, tmp_path / "again")


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def tracker(results, warnings, empty_database):
    shutil.copy(empty_database, results / "mlflow.db")
    return Tracker(tracking_uri(None, results), results, warnings.append)


def sync_again(results):
    told = []
    assert sync(results, tracking_uri(None, results), told.append) is None
    return told


def run_ids(results):
    query = "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active' ORDER BY 1"
    return ask(results, query)


# ------------------------------------------------------------------------- one at a time


@pytest.mark.slow
def test_a_run_that_is_being_uploaded_is_left_until_the_end(tracker, results, warnings):
    mean, ridge = sorted(runs_in(results), key=lambda run: run.facts["label"])
    with claim(mean.folder.path / ".upload"):
        tracker.upload(mean)
        tracker.upload(ridge)
        assert_uploaded_once(results, ["ridge"])
        finishing = threading.Thread(target=tracker.finish)
        finishing.start()
        time.sleep(1)
        assert finishing.is_alive()
    finishing.join()
    assert warnings == []
    assert_uploaded_once(results)
    assert hidden_files(results) == []


def test_the_end_is_not_waited_for_forever(tracker, results, warnings, monkeypatch):
    monkeypatch.setattr("bench.tracking.upload.WAIT", 0.5)
    for run in runs_in(results):
        with claim(run.folder.path / ".upload"):
            tracker.upload(run)
            tracker.finish()
    assert len(warnings) == 2
    for said in warnings:
        assert f".upload: in use by process {os.getpid()} on " in said
        assert said.endswith("upload it later with 'bench sync'")
        assert "\n" not in said
    assert ask(results, "SELECT count(*) FROM runs") == [(0,)]


@pytest.mark.slow
def test_folds_that_another_process_uploaded_meanwhile_are_kept(tracker, results, warnings):
    (run,) = (run for run in runs_in(results) if run.facts["label"] == "mean")
    early = replace(run, done=(0,), _read={})
    tracker.upload(run)
    before = run_ids(results)
    # A process that has seen one fold alone when it began.
    Tracker(tracking_uri(None, results), results, warnings.append).upload(early)
    (run.folder.path / "tracking.json").unlink()
    Tracker(tracking_uri(None, results), results, warnings.append).upload(early)
    tracker.upload(run)
    assert warnings == []
    assert run_ids(results) == before
    assert_uploaded_once(results, ["mean"])
    assert ask(results, "SELECT value FROM tags WHERE key = 'folds_done'") == [("3/3",)]


def test_a_claim_that_was_lost_ends_the_upload(tracker, results, warnings, monkeypatch):
    run, _ = runs_in(results)
    path = run.folder.path / ".upload"

    def lose(*_):
        path.write_text("of another process")

    monkeypatch.setattr(TrackingStore, "_experiment", lambda *_: (lose(), "0")[1])
    tracker.upload(run)
    (warning,) = warnings
    assert f"{path}: lost to another process while this process was stopped" in warning
    assert ask(results, "SELECT count(*) FROM runs") == [(0,)]


# ------------------------------------------------------------------------- records


def damage(text):
    def write(record):
        record.write_text(text)

    return write


def claims_another_run(record):
    content = json.loads(record.read_text())
    content["mlflow.db"]["run_id"] = "0" * 32
    record.write_text(json.dumps(content))


def make_folder(record):
    record.unlink()
    record.mkdir()


DAMAGES = {
    "missing": lambda record: record.unlink(),
    "empty": damage(""),
    "cut off": lambda record: record.write_text(record.read_text()[:-20]),
    "no object": damage("[]"),
    "binary": lambda record: record.write_bytes(bytes(range(256))),
    "nested": damage("[" * 100_000),
    "numbers": damage('{"mlflow.db": 3}'),
    "no run": damage('{"mlflow.db": {"folds": {}, "run_id": 7, "experiment_id": []}}'),
    "folds": damage('{"mlflow.db": {"folds": {"0": [], "x": "y", "7": "z"}, "run_id": ""}}'),
    "another run": claims_another_run,
    "folder": make_folder,
}


PAIRS = [(name, list(DAMAGES)[number - 1]) for number, name in enumerate(DAMAGES)][::2]
"""Every damage at least once, two at a time: one for each of the two runs."""


@pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
def test_uploads_are_found_again_without_a_sound_record(again, names):
    before = run_ids(again)
    for name, record in zip(names, sorted(again.rglob("tracking.json")), strict=True):
        DAMAGES[name](record)
    assert len(sync_again(again)) > 0
    assert run_ids(again) == before
    assert_uploaded_once(again)
    if "folder" not in names:
        assert sync_again(again)[-1].startswith("0 runs uploaded")


@pytest.mark.slow
def test_a_record_cannot_hide_what_was_not_uploaded(again):
    (record, _) = sorted(again.rglob("tracking.json"))
    content = record.read_text()
    record.unlink()
    folder = record.parent
    shutil.move(folder, again.parent / "away")
    (again / "mlflow.db").unlink()
    assert sync_again(again)[-1].startswith("1 runs uploaded")
    shutil.move(again.parent / "away", folder)
    record.write_text(content)
    warnings = []
    tracker = Tracker(tracking_uri(None, again), again, warnings.append)
    for run in runs_in(again):
        tracker.upload(run)
    assert warnings == []
    assert_uploaded_once(again)


def test_a_record_of_an_older_version_is_understood(again):
    for record in again.rglob("tracking.json"):
        content = json.loads(record.read_text())
        content[tracking_uri(None, again)] = content.pop("mlflow.db")
        content.pop("sha256", None)
        record.write_text(json.dumps(content))
    assert sync_again(again) == [
        f"0 runs uploaded to {tracking_uri(None, again)}, 2 were there already"
    ]


def test_what_was_deleted_stays_deleted_when_mlflow_has_another_version(again):
    for (run_id,) in ask(again, "SELECT run_uuid FROM tags WHERE key = 'folds_done'"):
        client_of(again).delete_run(run_id)
    with closing(sqlite3.connect(again / "mlflow.db")) as connection:
        connection.execute("PRAGMA user_version = 1")
    warnings = []
    tracker = Tracker(tracking_uri(None, again), again, warnings.append)
    for run in runs_in(again):
        tracker.upload(run)
    assert warnings == []
    assert ask(again, "SELECT count(*) FROM tags WHERE key = 'folds_done'") == [(2,)]
    assert sync_again(again)[-1].startswith("0 runs uploaded")


def test_the_database_is_the_same_by_a_relative_name(again, monkeypatch):
    monkeypatch.chdir(again.parent)
    told = []
    assert sync(Path("again"), "sqlite:///again/mlflow.db", told.append) is None
    assert told == ["0 runs uploaded to sqlite:///again/mlflow.db, 2 were there already"]


@pytest.mark.slow
def test_a_second_store_gets_everything_and_the_first_nothing(again, empty_database):
    before = run_ids(again)
    other = again.parent / "other.db"
    shutil.copy(empty_database, other)
    told = []
    assert sync(again, f"sqlite:///{other}", told.append) is None
    assert told[-1] == f"2 runs uploaded to sqlite:///{other}, 0 were there already"
    assert run_ids(again) == before
    assert sync_again(again)[-1].startswith("0 runs uploaded")


@pytest.mark.slow
def test_a_broken_database_is_told_and_everything_uploaded_again(again):
    (again / "mlflow.db").write_bytes(b"nothing that could be read" * 1000)
    told = sync_again(again)
    assert "could not be used (file is not a database); kept as mlflow-broken-" in told[0]
    assert told[-1].startswith("2 runs uploaded")
    assert_uploaded_once(again)
