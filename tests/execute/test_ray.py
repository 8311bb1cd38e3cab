"""Jobs on a real Ray cluster: a head without CPUs and two nodes with one CPU each."""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from contextlib import contextmanager

import pandas as pd
import pytest

from bench.comparison import carry_out
from bench.execute.executors.base import Watcher
from bench.execute.executors.ray import RayExecutor
from bench.execute.request import Request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed; see 'make ray-test'"
    ),
]

METHODS = ("mean", "coordinates", "ridge", "knn", "mlp")
JOBS = 3 * len(METHODS)
MEASURED = ["fit_seconds"]
"""Columns of the table that differ from call to call."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@contextmanager
def cluster_of(environments, log):
    """A cluster with one node for each of the environments; its own output goes to a file."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 << 20, "include_dashboard": False}
    quick_to_bury = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    head = {"num_cpus": 0, "_system_config": quick_to_bury, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=1, env_vars=env, **small) for env in environments]
        cluster.wait_for_nodes()
        yield cluster, nodes
    finally:
        cluster.shutdown()


@pytest.fixture
def cluster(tmp_path):
    """A cluster whose nodes share the disk with the caller."""
    with cluster_of([{}, {}], tmp_path) as (cluster, nodes):
        yield cluster, nodes


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The table of the same jobs, one after another on this machine."""
    folder = tmp_path_factory.mktemp("serial")
    return carry_out(request(folder), tracking="none").table


def request(folder, **changes):
    fields = {"methods": METHODS, "dataset": "demo", "preset": "quick", "device": "cpu"}
    return Request(**fields, results=folder / "results", oracles=False, **changes)


class Killer(Watcher):
    """Counts what happens; kills a node while both of them are at work."""

    def __init__(self, cluster=None, node=None, after=4):
        self.started, self.done, self.warnings = Counter(), [], []
        self.failed, self.skipped = [], []
        self._cluster, self._node, self._after = cluster, node, after

    def job_started(self, job):
        self.started[job.entrant.label, job.fold] += 1
        both = self.started.total() - len(self.done) == 2
        if self._node is not None and both and len(self.done) >= self._after:
            self._cluster.remove_node(self._node, allow_graceful=False)
            self._node = None

    def job_done(self, job):
        self.done.append((job.entrant.label, job.fold))

    def job_skipped(self, job):
        self.skipped.append((job.entrant.label, job.fold))

    def job_failed(self, job, reason):
        self.failed.append((job.entrant.label, job.fold, reason))

    def warn(self, message):
        self.warnings.append(message)


def assert_same_numbers(table, serial):
    pd.testing.assert_frame_equal(
        table.drop(columns=MEASURED), serial.drop(columns=MEASURED), check_exact=True
    )


def assert_one_fold_was_lost(watcher):
    """The job that ran on the killed node was begun again, and nothing else."""
    assert [re.sub(r"^\S+ fold \d", "JOB", text) for text in watcher.warnings] == [
        "JOB: begun again, its node was lost"
    ]
    assert set(watcher.started.values()) == {1}
    assert len(watcher.started) == len(watcher.done) == len(set(watcher.done)) == JOBS
    assert watcher.failed == watcher.skipped == []


def test_a_lost_node_costs_its_fold_alone(cluster, tmp_path, serial, capfd):
    on, nodes = cluster
    watcher = Killer(on, nodes[1])
    capfd.readouterr()
    executor = RayExecutor(address=on.address)
    outcome = carry_out(request(tmp_path), tracking="none", watcher=watcher, executor=executor)
    printed = capfd.readouterr()
    assert_one_fold_was_lost(watcher)
    assert all(job.folder.is_done() for job in outcome.plan.jobs())
    assert_same_numbers(outcome.table, serial)
    assert printed == ("", "")
    results = tmp_path / "results"
    left = [path.name for path in results.rglob("*") if path.name.startswith(".")]
    assert left == []
    # A second call finds everything done and needs no cluster.
    again = Killer()
    nowhere = RayExecutor(address="127.0.0.1:1")
    carry_out(request(tmp_path), tracking="none", watcher=again, executor=nowhere)
    assert len(again.skipped) == JOBS


def test_without_a_shared_disk_data_and_results_travel(tmp_path, serial, monkeypatch):
    places = [tmp_path / "node-0", tmp_path / "node-1"]
    environments = []
    for place in places:
        (place / "home").mkdir(parents=True)
        environments.append({"SPOTBENCH_CACHE": str(place / "cache"), "HOME": str(place / "home")})
    # Relative to the caller's working directory alone.
    (tmp_path / "caller").mkdir()
    monkeypatch.chdir(tmp_path)
    with cluster_of(environments, tmp_path) as (on, nodes):
        monkeypatch.chdir(tmp_path / "caller")
        watcher = Killer(on, nodes[1])
        executor = RayExecutor(address=on.address, shared_disk=False)
        here = os.path.relpath(tmp_path / "caller")
        outcome = carry_out(
            request(type(tmp_path)(here)), tracking="none", watcher=watcher, executor=executor
        )
    assert_one_fold_was_lost(watcher)
    assert_same_numbers(outcome.table, serial)
    assert all(job.folder.is_done() for job in outcome.plan.jobs())
    assert [path.name for path in tmp_path.glob("results*")] == []
    assert len(list((tmp_path / "caller" / "results" / "images").rglob("*.jpg"))) == 6
    assert list((places[0] / "cache" / "ray" / "work").iterdir()) == []
    for place in places:
        (data,) = (place / "cache" / "ray" / "data").glob("demo-*")
        assert len(list(data.rglob("*.jpg"))) == 6
