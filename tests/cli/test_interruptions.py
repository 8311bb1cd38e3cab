"""Runs that are interrupted, killed, or work beside one another."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from pathlib import Path

import pytest

from tests.cli.tiny_dataset import (
    TINY_NETWORK,
    manifests_of,
    rows_of,
    scores_of,
    start,
    write_plugin,
)

WAIT_WHEN_TOLD = """
import os, pathlib, time
folder = pathlib.Path(os.environ["TEST_SIGNALS"])
tested = "".join(sorted({"A", "B", "C"} - {section.patient for section in data.sections}))
(folder / f"started-{tested}").write_text(str(os.getpid()))
while (folder / f"hold-{tested}").exists():
    time.sleep(0.02)
"""


def wait_for(condition, process=None, seconds=300):
    """Wait until `condition()` holds; fails when the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended early with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def signals(tmp_path):
    """Folder by which a test and a plugin in another process talk."""
    folder = tmp_path / "signals"
    folder.mkdir()
    return folder


@pytest.fixture
def slow(plugins, signals, options, tiny):
    """Starts a run of a method that waits in a fold while ``hold-<patient>`` exists."""
    write_plugin(plugins, "slow", fit=WAIT_WHEN_TOLD)
    processes = []

    def begin(*more):
        call = ("run", "--method", "slow", *options, *tiny.quick_protocol, *more)
        process = start(*call, path=plugins, env={"TEST_SIGNALS": str(signals)})
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_interrupt_tells_how_to_resume(slow, signals, bench_process, plugins, results):
    (signals / "hold-B").touch()
    process = slow()
    wait_for((signals / "started-B").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("bench: interrupted")
    assert "what is finished is kept" in last
    command = shlex.split(last.partition("resume with: ")[2])
    assert command[:2] == ["bench", "run"]

    (signals / "hold-B").unlink()
    env = {"TEST_SIGNALS": str(signals)}
    again = bench_process(*command[1:], path=plugins, env=env)
    assert again.status == 0
    assert "slow fold 0: kept, it is done" in again.stderr
    assert again.stderr.count("done in") == 2
    assert len(manifests_of(results)) == 3
    assert "2 of 3 folds" not in again.stdout


@pytest.mark.slow
def test_interrupt_while_a_network_trains(options, results, tmp_path):
    program = tmp_path / "checkpoint_every_epoch.py"
    program.write_text(
        "import torch, bench.training.fitting\n"
        "torch.set_num_threads(1)\n"
        "bench.training.fitting.CHECKPOINT_SECONDS = 0.0\n"
        "from bench.cli import main\n"
        "main()\n"
    )
    call = ("run", "--method", "mclstexp", *options, *TINY_NETWORK, "--set", "epochs=100000")
    process = start(*call, "--isolation", "none", program=(str(program),))
    try:
        checkpoint = "runs/*/*/*/fold-0/scratch/training.ckpt"
        wait_for(lambda: list(results.glob(checkpoint)), process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "resume with: bench run --method mclstexp" in err.splitlines()[-1]
    assert list(results.glob(checkpoint)), "the fit goes on from here"
    assert manifests_of(results) == []


@pytest.mark.slow
def test_interrupted_network_ends_as_an_uninterrupted_one(
    bench, tiny, results, monkeypatch, one_thread
):
    settings = ("--set", "epochs=3", "--set", "dropout=0.3", "--folds", "0", "--json")
    call = ("run", "--method", "mclstexp", *tiny.options, *TINY_NETWORK, *settings)
    call += ("--tracking", "none", "--results")
    elsewhere = results.with_name("elsewhere")
    straight = bench(*call, elsewhere)

    def press(watcher, job, done, total, note):
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bench.training.fitting.CHECKPOINT_SECONDS", 0.0)
        patch.setattr("bench.cli.run_display.RunDisplay.job_progress", press)
        assert bench(*call, results, "--isolation", "none").status == 130
    assert list(results.rglob("training.ckpt"))
    resumed = bench(*call, results)
    assert resumed.status == 0
    assert rows_of(resumed) == rows_of(straight)
    assert scores_of(results) == scores_of(elsewhere)
    assert not list(results.rglob("scratch"))


@pytest.mark.slow
def test_killed_process_keeps_finished_folds(slow, signals, bench_process, plugins, tiny, results):
    (signals / "hold-B").touch()
    process = slow()
    wait_for((signals / "started-B").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (manifest,) = manifests_of(results)
    finished = manifest.parent
    assert finished.name == "fold-0"
    files = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert list(results.rglob("*.claim")), "the claim of the killed process is still there"

    (signals / "hold-B").unlink()
    again = slow("--json")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "slow fold 0: kept, it is done" in err
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == files

    elsewhere = results.with_name("elsewhere")
    call = ("run", "--method", "slow", *tiny.options, *tiny.quick_protocol, "--json")
    env = {"TEST_SIGNALS": str(signals)}
    call += ("--tracking", "none", "--results", elsewhere)
    straight = bench_process(*call, path=plugins, env=env)
    rows = {row["method"]: row for row in json.loads(out)["rows"]}
    rows["slow"].pop("fit_seconds")
    assert rows == rows_of(straight)
    assert scores_of(results) == scores_of(elsewhere)


@pytest.mark.slow
def test_equal_calls_share_the_folds(slow, signals, results):
    (signals / "hold-A").touch()
    (signals / "hold-B").touch()
    first = slow()
    wait_for((signals / "started-A").exists, first)
    second = slow()
    wait_for((signals / "started-B").exists, second)
    (signals / "hold-A").unlink()
    (signals / "hold-B").unlink()
    told = []
    for process in (first, second):
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert "2 of 3 folds" not in out
        told.append(err)
    assert sum(err.count("done in") for err in told) == 3, "each fold was fitted once"
    assert len(manifests_of(results)) == 3
    assert not list(results.rglob("*.claim"))


@pytest.mark.slow
def test_sigterm_is_an_interruption_with_a_status_of_its_own(slow, signals, results):
    (signals / "hold-B").touch()
    process = slow()
    wait_for((signals / "started-B").exists, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert out == ""
    assert err.splitlines()[-1].startswith("bench: terminated; what is finished is kept, resume")
    assert not list(results.rglob("*.claim"))


def _has_ended(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["worker", "server"])
def test_a_killed_worker_or_server_costs_the_fold_at_hand(slow, signals, results, whom, bench):
    (signals / "hold-B").touch()
    process = slow()
    wait_for((signals / "started-B").exists, process)
    (worker,) = (signals / "started-B").read_text().split()
    parent = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(worker if whom == "worker" else parent), signal.SIGKILL)
    # A busy machine may take a while to end the server; the worker goes with it and not before.
    wait_for(lambda: _has_ended(worker), process)
    (signals / "hold-B").unlink()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "slow fold 1: failed, its process" in err
    assert err.count("done in") == 2
    again = slow()
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert err.count("kept, it is done") == 2
    assert len(manifests_of(results)) == 3
    assert "2 of 3 folds" not in out


@pytest.mark.slow
def test_another_run_may_go_on_beside(slow, signals, run):
    (signals / "hold-A").touch()
    first = slow()
    wait_for((signals / "started-A").exists, first)
    assert run("mean", "--folds", "0").status == 0
    (signals / "hold-A").unlink()
    assert first.wait(timeout=300) == 0
