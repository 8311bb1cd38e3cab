"""Processes that make a database and upload at once, or are ended while they do."""
# ruff: noqa: F811 - fixtures of tests.tracked and tests.tracking.uploads

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.tracking.database import database_path, is_ready
from bench.tracking.tracking_store import open_database
from bench.tracking.upload import tracking_uri
from tests.cli.tiny_dataset import call_process, environment, start
from tests.mlflow_server import QUIET, free_port, stop, wait_for
from tests.tracking.uploads import (  # noqa: F401 - a fixture
    ask,
    assert_uploaded_once,
    copy_stored,
    hidden_files,
    results,
    start_upload,
)

MOMENTS = 5


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Seconds that a first ``bench sync`` takes."""
    results = copy_stored(tmp_path_factory.mktemp("whole") / "results")
    begin = time.monotonic()
    assert call_process("sync", "--results", results).status == 0
    return time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_a_first_sync_may_be_ended_at_any_moment(tmp_path, whole, number):
    states = set()
    # On a machine that has become busy meanwhile a first sync takes longer.
    later = (1.5, 2, 3, 5)
    for share in (*((moment + 0.5) / MOMENTS for moment in range(MOMENTS)), *later):
        if share in later and len(states) > 1:
            break
        results = copy_stored(tmp_path / f"results-{share}")
        process = start("sync", "--results", results)
        time.sleep(whole * share)
        process.send_signal(getattr(signal, number))
        process.communicate(timeout=600)
        states.add((database_path(results).exists(), process.returncode == 0))
        # Its pages open, whether or not it had a database.
        if database_path(results).exists():
            assert is_ready(database_path(results))
            assert open_database(results, tracking_uri(None, results)) is None
        again = call_process("sync", "--results", results)
        assert (again.status, again.stderr) == (0, "")
        assert_uploaded_once(results)
        assert hidden_files(results) == []
        assert sorted(path.name for path in results.glob("mlflow*")) == ["mlflow.db"]
    assert len(states) > 1, "some were ended before there was a database, some later"


@pytest.mark.slow
def test_the_pages_start_after_a_first_sync_was_killed(results, whole):
    process = start("sync", "--results", results)
    while not list(results.glob(".mlflow-*.db*")):
        time.sleep(0.01)
        assert process.poll() is None
    time.sleep(0.2)
    process.kill()
    process.communicate()
    assert not (results / "mlflow.db").exists()
    refused = call_process("ui", "--results", results)
    assert "nothing has been tracked here" in refused.stderr
    assert call_process("sync", "--results", results).status == 0
    port = free_port()
    command = [sys.executable, "-m", "bench", "ui", "--results", results, "--port", str(port)]
    with open(results.parent / "ui.log", "w") as log:
        pages = subprocess.Popen(command, stdout=log, stderr=log, env=environment(changes=QUIET))
    try:
        wait_for(f"http://127.0.0.1:{port}", pages)
    finally:
        stop(pages)
    assert hidden_files(results) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "labels",
    [("mean", "ridge", "mean"), ("mean,ridge", "ridge,mean", "mean,ridge", "ridge,mean")],
)
def test_first_uploads_at_once_give_every_run_once(results, labels):
    processes = [start_upload(results, of) for of in labels]
    for process in processes:
        assert ended(process) == (0, "", "")
    assert_uploaded_once(results)
    assert hidden_files(results) == []
    note = ask(results, "SELECT value FROM experiment_tags WHERE key = 'mlflow.note.content'")
    assert all(label in note[0][0] for label in ("mean (control)", "ridge"))


@pytest.mark.slow
def test_first_runs_at_once_are_all_uploaded_once(tmp_path):
    results = tmp_path / "results"
    options = ("--dataset", "demo", "--preset", "quick", "--results", results, "--no-oracles")
    methods = ("mean", "coordinates", "mean")
    processes = [start("run", "--method", method, *options) for method in methods]
    for process in processes:
        status, _, err = ended(process)
        assert status == 0, err
        assert "tracking" not in err
    assert_uploaded_once(results, ("coordinates", "mean"), "demo-strict")


@pytest.mark.slow
def test_syncs_at_once_give_every_run_once(results):
    processes = [start("sync", "--results", results) for _ in range(4)]
    uploaded = 0
    for process in processes:
        status, out, err = ended(process)
        assert (status, err) == (0, "")
        # One that waits too long for the others leaves runs to them.
        uploaded += int(out.splitlines()[-1].split()[0])
    assert uploaded == 2
    assert_uploaded_once(results)


@pytest.mark.slow
def test_an_uploader_that_is_killed_is_followed_by_one_that_waits(results):
    first = start_upload(results)
    while not hidden_files(results) or ".upload" not in hidden_files(results):
        time.sleep(0.01)
        assert first.poll() is None
    second = start_upload(results)
    time.sleep(3)
    first.kill()
    first.communicate()
    assert ended(second) == (0, "", "")
    assert_uploaded_once(results)
    assert hidden_files(results) == []


def test_workers_know_nothing_of_tracking():
    program = (
        "import sys, bench.worker.fitting\n"
        "assert not [name for name in sys.modules if name.startswith('bench.tracking')]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tracking_knows_nothing_of_executing():
    sources = (Path(__file__).parents[2] / "bench" / "tracking").glob("*.py")
    assert [path.name for path in sources if "bench.execute" in path.read_text()] == []


def test_an_unwritable_place_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot be"):
        open_database(tmp_path / "file", tracking_uri(None, tmp_path / "file"))
