"""Stored runs to upload, and what a database has of them, read without MLflow."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from bench.stored_runs import stored_names, stored_runs
from tests.cli.tiny_dataset import start

STORED = Path(__file__).parents[1] / "fixtures" / "results-layout-1"
"""Results folder with two runs of three folds."""

UPLOAD = """
import sys
from pathlib import Path
from bench.stored_runs import stored_names, stored_runs
from bench.tracking.upload import Tracker, tracking_uri

results, labels = Path(sys.argv[1]), sys.argv[2].split(",")
tracker = Tracker(tracking_uri(None, results), results, lambda said: print("warning:", said))
for dataset, (protocol,) in stored_names(results).items():
    for run in stored_runs(results, dataset, protocol):
        if run.facts["label"] in labels:
            tracker.upload(run)
tracker.finish()
"""


def copy_stored(folder: Path) -> Path:
    """A results folder with stored runs that no store has seen."""
    return shutil.copytree(STORED, folder)


@pytest.fixture
def results(tmp_path):
    """A results folder with stored runs that no store has seen, and no database."""
    return copy_stored(tmp_path / "results")


def runs_in(results):
    """Stored runs of a results folder."""
    return [
        run
        for dataset, protocols in stored_names(results).items()
        for protocol in protocols
        for run in stored_runs(results, dataset, protocol)
    ]


def start_upload(results, labels="mean,ridge"):
    """A process that uploads runs as ``bench run`` does."""
    return start(results, labels, program=("-c", UPLOAD))


def ask(results, query):
    """Rows that a database gives for a query."""
    with closing(sqlite3.connect(results / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


def assert_uploaded_once(results, labels=("mean", "ridge"), experiment="demo-strict-hvg-12"):
    """The database has each run and each of its folds once, finished, with one model a fold."""
    rows = ask(
        results,
        "SELECT t.value, l.value, r.run_uuid FROM runs r"
        " JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'level'"
        " JOIN tags l ON l.run_uuid = r.run_uuid AND l.key = 'method'"
        " WHERE r.lifecycle_stage = 'active' AND r.status = 'FINISHED'",
    )
    wanted = {("run", label): 1 for label in labels} | {("fold", label): 3 for label in labels}
    assert Counter((level, label) for level, label, _ in rows) == wanted
    assert ask(results, "SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'") == [
        (4 * len(labels),)
    ]
    folds = {run_id for level, _, run_id in rows if level == "fold"}
    models = ask(
        results, "SELECT source_run_id FROM logged_models WHERE lifecycle_stage = 'active'"
    )
    assert Counter(run_id for (run_id,) in models) == dict.fromkeys(folds, 1)
    assert ask(results, "SELECT name FROM experiments ORDER BY experiment_id") == [
        ("Default",),
        (experiment,),
    ]


def hidden_files(results):
    """Files in a results folder that are there only while something is written."""
    return sorted(path.name for path in results.rglob(".*") if path.is_file())
