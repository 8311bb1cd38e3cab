"""A run that is killed at any moment, in any of its processes, ends in the same table."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cli.tiny_dataset import call_process, scores_of, start

MOMENTS = 6
METHODS = "coordinates,mean,knn"


def parents():
    """Parent of every process."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                found[int(path.name)] = int(
                    (path / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except (OSError, IndexError):
                continue
    return found


def victim(process, whom):
    """A process of the run; the caller itself where there is no such one at the moment."""
    of = parents()
    servers = [
        pid
        for pid, parent in of.items()
        if parent == process.pid and b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    workers = [pid for pid, parent in of.items() if parent in servers]
    return {"server": servers, "worker": workers}.get(whom, [])[:1] or [process.pid]


@pytest.fixture
def run(tiny, tmp_path):
    """Options of the run that is killed."""
    return ("run", "--method", METHODS, *tiny.options, "--preset", "tiny", "--tracking", "none")


def rows(out):
    found = json.loads(out)["rows"]
    return [{k: v for k, v in row.items() if k != "fit_seconds"} for row in found]


@pytest.mark.slow
def test_a_kill_at_any_moment_does_not_change_the_table(run, tmp_path):
    straight = call_process(*run, "--results", tmp_path / "straight", "--json")
    begin = time.monotonic()  # caches are filled now
    call_process(*run, "--results", tmp_path / "timed", "--json")
    lasts = time.monotonic() - begin
    expected, scores = rows(straight.stdout), scores_of(tmp_path / "straight")
    rng = np.random.default_rng(0)
    killed = []
    for moment in range(MOMENTS):
        results = tmp_path / f"results-{moment}"
        whom = ("caller", "worker", "server")[moment % 3]
        process = start(*run, "--results", results, "--json")
        time.sleep(float(rng.uniform(0.1, 0.95)) * lasts)
        if process.poll() is None:
            (pid,) = victim(process, whom)
            killed.append("caller" if pid == process.pid else whom)
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=600)
        again = call_process(*run, "--results", results, "--json")
        assert again.status == 0, again.stderr
        assert rows(again.stdout) == expected
        assert scores_of(results) == scores
        assert not list(results.rglob("*.claim"))
    assert len(killed) >= MOMENTS // 3, "nearly all runs had ended before they could be killed"


@pytest.mark.slow
def test_equal_and_different_calls_at_once_share_the_folds(tiny, tmp_path):
    common = (*tiny.where, "--preset", "tiny", "--tracking", "none")
    results = tmp_path / "equal"
    call = ("run", "--method", METHODS, *common, "--results", results)
    processes = [start(*call) for _ in range(4)]
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    assert sum(err.count("done in") for _, err in told) == 3 * 4, "each fold was fitted once"
    results = tmp_path / "different"
    names = ("coordinates", "mean", "knn", "ridge")
    processes = [
        start("run", "--method", name, *common, "--results", results, "--json") for name in names
    ]
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    for out, _ in told:
        assert [row["folds"] for row in json.loads(out)["rows"]] == [3, 3]
    assert len(list(results.glob("runs/*/*/depth-*"))) == 1
    assert sum(err.count("done in") for _, err in told) == 3 * 5
