"""Several workers on one study: none does another's trial, none that dies takes one along."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from bench.tune.slots import holders, settled
from bench.tune.storage import WORKERS, living_worker, others_work
from bench.tune.study import open_study
from bench.tune.tuning import plan_studies, tune

PATIENCE = 600


def trials_of(request):
    (spec,) = plan_studies(request)
    return open_study(spec, runs=False).get_trials(deepcopy=False)


@pytest.fixture
def worker(searcher, tiny, results, plugins):
    """Starts ``bench tune`` in a process of its own."""
    started = []

    def start(*options):
        call = [sys.executable, "-m", "bench", "tune", "-m", searcher, *tiny.where]
        call += [*tiny.quick_protocol, "--folds", "0", "--objective", "mse", "--pruner", "none"]
        call += ["--tracking", "none", "--results", str(results), *map(str, options)]
        environment = {**os.environ, "PYTHONPATH": str(plugins), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition, process):
    """Wait until something is so, as long as the process lives."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(process):
    """Status of a process that ends by itself, and what it said."""
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def check_whole(request, trials):
    """Every slot is settled by one trial; no two trials that count have the same settings."""
    held = holders(trials_of(request))
    assert sorted(held) == list(range(trials))
    assert all(settled(trial) for trial in held.values())
    counted = [t for t in trials_of(request) if t.state == TrialState.COMPLETE]
    assert len(counted) == trials
    assert len({trial.params["shift"] for trial in counted}) == trials


def test_a_worker_knows_of_others_that_live(tmp_path):
    with living_worker(tmp_path) as one:
        assert not others_work(tmp_path, one)
        (tmp_path / WORKERS / "dead.lock").touch()
        assert not others_work(tmp_path, one)
        with living_worker(tmp_path) as other:
            assert others_work(tmp_path, one)
            assert others_work(tmp_path, other)
        assert not others_work(tmp_path, one)


@pytest.mark.slow
def test_jobs_share_the_trials(request_for):
    request = request_for("wait=0.2", trials=8, jobs=2)
    tune(request)
    check_whole(request, 8)
    assert len({trial.user_attrs["worker"] for trial in trials_of(request)}) == 2


@pytest.mark.slow
def test_two_calls_share_a_study(request_for, worker):
    request = request_for("wait=0.1", trials=8)
    options = ("--trials", 8, "--set", "wait=0.1")
    first, second = worker(*options), worker(*options)
    assert [ended(first)[0], ended(second)[0]] == [0, 0]
    check_whole(request, 8)


@pytest.mark.slow
def test_a_killed_call_goes_on_where_it_was(request_for, worker, tmp_path):
    hold = tmp_path / "hold"
    hold.mkdir()
    request = request_for(f"hold=in {hold}", trials=4)
    options = ("--trials", 4, "--set", f"hold=in {hold}")
    process = worker(*options)
    wait_for(Path(f"{hold}.started").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (running,) = (t for t in trials_of(request) if t.state == TrialState.RUNNING)
    hold.rmdir()
    status, said = ended(worker(*options))
    assert status == 0, said
    check_whole(request, 4)
    (again,) = (t for t in trials_of(request) if "retry_history" in t.system_attrs)
    assert again.system_attrs["retry_history"] == [running.number]
    assert again.params == running.params


@pytest.mark.slow
def test_a_killed_worker_costs_one_trial_begun_again(request_for, worker, tmp_path):
    hold = tmp_path / "hold"
    hold.mkdir()
    request = request_for(f"hold=in {hold}", trials=5)
    options = ("--trials", 5, "--set", f"hold=in {hold}")
    victim = worker(*options)
    wait_for(Path(f"{hold}.started").exists, victim)
    helper = worker(*options)
    two_run = lambda: sum(t.state == TrialState.RUNNING for t in trials_of(request)) == 2  # noqa: E731
    wait_for(two_run, helper)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    hold.rmdir()
    status, said = ended(helper)
    assert status == 0, said
    check_whole(request, 5)
    lost = [t for t in trials_of(request) if t.state == TrialState.FAIL]
    assert len(lost) == 1


@pytest.mark.slow
def test_a_trial_that_kills_every_worker_is_not_retried_for_ever(request_for, worker, tmp_path):
    hold = tmp_path / "hold"
    request = request_for(f"hold=in {hold}", trials=2)
    options = ("--trials", 2, "--set", f"hold=in {hold}")
    for _ in range(2):
        hold.mkdir(exist_ok=True)
        Path(f"{hold}.started").unlink(missing_ok=True)
        process = worker(*options)
        wait_for(Path(f"{hold}.started").exists, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    hold.rmdir()
    assert ended(worker(*options))[0] == 0
    lost = [t for t in trials_of(request) if t.state == TrialState.FAIL]
    assert len(lost) == 2
    assert sorted(holders(trials_of(request))) == [0, 1]


# ------------------------------------------------------------------------------ PostgreSQL


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    """URL of a PostgreSQL server that was started for this module."""
    programs = _programs()
    folder = Path("/tmp") / f"spotbench-pg-{os.getpid()}"
    folder.mkdir(mode=0o700)
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    before: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, user)
        before = ["runuser", "-u", user, "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    run = lambda *call: subprocess.run([*before, *map(str, call)], check=True, capture_output=True)  # noqa: E731
    run(programs / "initdb", "-D", data, "-U", "bench", "-A", "trust")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(programs / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
    yield f"postgresql+psycopg://bench@127.0.0.1:{port}/postgres"
    run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def _programs() -> Path:
    """Folder of the server's programs; the Debian package is installed where that can be done."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        call = ["apt-get", "install", "--yes", "--quiet", "postgresql"]
        subprocess.run(call, capture_output=True, timeout=300, check=False)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed and cannot be installed here")
    return found[-1].parent


@pytest.mark.slow
def test_many_workers_on_a_database(request_for, worker, postgresql, results):
    request = request_for("wait=0.5", trials=12, storage=postgresql)
    options = ("--trials", 12, "--set", "wait=0.5", "--storage", postgresql)
    workers = [worker(*options) for _ in range(3)]
    answers = [ended(one) for one in workers]
    assert [status for status, _ in answers] == [0, 0, 0], answers
    check_whole(request, 12)
    assert len({trial.user_attrs["worker"] for trial in trials_of(request)}) >= 2
    (study,) = results.glob("tuning/*/*/*/*/study.json")
    assert json.loads(study.read_text())["trials"]["complete"] == 12
    assert not list(results.rglob("journal.log"))


@pytest.mark.slow
def test_the_heartbeat_of_a_far_worker_that_died(
    request_for, worker, postgresql, tmp_path, monkeypatch
):
    monkeypatch.setattr("bench.tune.storage.HEARTBEAT_SECONDS", 1)
    hold = tmp_path / "hold"
    hold.mkdir()
    request = request_for(f"hold=in {hold}", trials=3, storage=postgresql)
    victim = worker("--trials", 3, "--set", f"hold=in {hold}", "--storage", postgresql)
    wait_for(Path(f"{hold}.started").exists, victim)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    hold.rmdir()
    (spec,) = plan_studies(request)
    shutil.rmtree(spec.folder / "workers")  # as if it had been another machine
    time.sleep(4)
    tune(request)
    check_whole(request, 3)
