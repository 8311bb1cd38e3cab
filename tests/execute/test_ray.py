"""Jobs on a real Ray cluster: a head without CPUs and two nodes with one CPU each."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from bench.errors import BenchError
from bench.execute.executors import ray as ray_executor
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.ray import RayExecutor
from bench.execute.executors.ray_node import installation
from bench.execute.request import Request
from bench.execute.run import run_request
from bench.report.tables import score_table
from bench.tune.request import TuneRequest
from bench.tune.runners import make_study_runner
from bench.tune.tuning import tune
from tests.cli.tiny_dataset import call_process, start, write_plugin

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
def cluster_of(environments):
    """A cluster with one node for each of the environments."""
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
    with cluster_of([{}, {}]) as (cluster, nodes):
        yield cluster, nodes


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The table of the same jobs, one after another on this machine."""
    folder = tmp_path_factory.mktemp("serial")
    return score_table(run_request(request(folder)).runs)


def request(folder, **changes):
    fields = {"methods": METHODS, "dataset": "demo", "preset": "quick", "device": "cpu"}
    return Request(**fields, results=folder / "results", oracles=False, **changes)


class Killer(JobWatcher):
    """Remembers what happens; kills the node on which one of the jobs has just begun."""

    def __init__(self, cluster=None, nodes=(), victim=("mlp", 1)):
        self.started, self.done, self.warnings = Counter(), [], []
        self.failed, self.skipped, self.killed = [], [], []
        self._cluster, self._nodes, self._victim = cluster, nodes, victim

    def job_started(self, job):
        self.started[job.method_spec.label, job.fold] += 1
        if self._nodes and (job.method_spec.label, job.fold) == self._victim:
            (node,) = [node for node in self._nodes if runs_on(node, "mlp fold 1")]
            self._cluster.remove_node(node, allow_graceful=False)
            self.killed.append(node)

    def job_done(self, job):
        self.done.append((job.method_spec.label, job.fold))

    def job_skipped(self, job):
        self.skipped.append((job.method_spec.label, job.fold))

    def job_failed(self, job, reason):
        self.failed.append((job.method_spec.label, job.fold, reason))

    def warn(self, message):
        self.warnings.append(message)


def runs_on(node, task):
    """Whether a node has a process that runs a task, which Ray names after it."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    titles = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in children]
    return any(title.startswith(f"ray::{task}") for title in titles)


def assert_same_numbers(table, serial):
    pd.testing.assert_frame_equal(
        table.drop(columns=MEASURED), serial.drop(columns=MEASURED), check_exact=True
    )


def assert_one_fold_was_lost(watcher):
    """The job that ran on the killed node was begun again, and nothing else."""
    assert len(watcher.killed) == 1
    assert watcher.warnings == ["mlp fold 1: begun again, its node was lost"]
    assert set(watcher.started.values()) == {1}
    assert len(watcher.started) == len(watcher.done) == len(set(watcher.done)) == JOBS
    assert watcher.failed == watcher.skipped == []


def test_a_lost_node_costs_its_fold_alone(cluster, tmp_path, serial, capfd):
    on, nodes = cluster
    watcher = Killer(on, nodes)
    capfd.readouterr()
    executor = RayExecutor(address=on.address)
    outcome = run_request(request(tmp_path), watcher=watcher, executor=executor)
    printed = capfd.readouterr()
    assert_one_fold_was_lost(watcher)
    assert all(job.folder.is_done() for job in outcome.plan.jobs())
    assert_same_numbers(score_table(outcome.runs), serial)
    assert printed == ("", "")
    results = tmp_path / "results"
    left = [path.name for path in results.rglob("*") if path.name.startswith(".")]
    assert left == []
    # A second call finds everything done and needs no cluster.
    again = Killer()
    nowhere = RayExecutor(address="127.0.0.1:1")
    run_request(request(tmp_path), watcher=again, executor=nowhere)
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
    with cluster_of(environments) as (on, nodes):
        monkeypatch.chdir(tmp_path / "caller")
        watcher = Killer(on, nodes)
        executor = RayExecutor(address=on.address, shared_disk=False)
        here = os.path.relpath(tmp_path / "caller")
        outcome = run_request(request(Path(here)), watcher=watcher, executor=executor)
    assert_one_fold_was_lost(watcher)
    assert_same_numbers(score_table(outcome.runs), serial)
    assert all(job.folder.is_done() for job in outcome.plan.jobs())
    assert [path.name for path in tmp_path.glob("results*")] == []
    assert len(list((tmp_path / "caller" / "results" / "images").rglob("*.jpg"))) == 6
    (survivor,) = {0, 1} - {nodes.index(node) for node in watcher.killed}
    assert list((places[survivor] / "cache" / "ray" / "work").iterdir()) == []
    for place in places:
        assert (place / "cache" / "ray").is_dir()
        (data,) = (place / "cache" / "ray" / "data").glob("demo-*")
        assert len(list(data.rglob("*.jpg"))) == 6


# ------------------------------------------------------ calls on a cluster that stays as it is


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """Methods that are installed here and on the nodes."""
    folder = tmp_path_factory.mktemp("plugins")
    write_plugin(folder, "breaks", fit="raise ValueError('no luck')")
    write_plugin(
        folder,
        "sleeps",
        before="import os, pathlib, time",
        fit="""
        pathlib.Path(os.environ['SLEEPING'], str(os.getpid())).touch()
        time.sleep(600)
        """,
    )
    return folder


@pytest.fixture(scope="module")
def sleeping(tmp_path_factory):
    """Folder in which fits that sleep leave their process numbers."""
    return tmp_path_factory.mktemp("sleeping")


@pytest.fixture(scope="module")
def standing(plugins, sleeping):
    """A cluster that no test changes."""
    path = os.pathsep.join(filter(None, [str(plugins), os.environ.get("PYTHONPATH")]))
    env = {"PYTHONPATH": path, "SLEEPING": str(sleeping), "PYTHONDONTWRITEBYTECODE": "1"}
    with cluster_of([env, env]) as (cluster, _):
        yield cluster.address


@pytest.fixture
def call(standing, plugins, tiny, results):
    """Calls a command on the cluster."""

    def on_cluster(command, *arguments, run=call_process):
        where = ("--executor", "ray", "--ray-address", standing)
        data = (*tiny.where, "--tracking", "none", "--results", results)
        return run(command, *data, *where, *arguments, path=plugins)

    return on_cluster


def test_a_method_that_fails_costs_its_fold(call, results):
    answer = call("run", "--method", "breaks,mean")
    assert answer.status == 1
    assert "Traceback" not in answer.stderr
    failed = re.findall(
        r"^bench: breaks, fold \d failed: .*no luck.* \(see (.*)\)$", answer.stderr, re.M
    )
    assert len(failed) == 3
    assert "raise ValueError('no luck')" in Path(failed[0]).read_text()
    assert answer.stderr.count(": done in") == 6  # mean and the depth oracle
    assert "(raylet)" not in answer.stdout + answer.stderr


def test_without_a_shared_disk_a_failure_comes_back(call, results):
    answer = call("run", "--method", "breaks", "--no-oracles", "--folds", "0", "--no-shared-disk")
    assert answer.status == 1
    (failure,) = results.glob("runs/*/*/*/fold-0/failure.txt")
    assert failure.read_text().startswith("ValueError: no luck\n")
    assert "Traceback" in failure.read_text()


@pytest.mark.parametrize(
    ("number", "status", "shared"),
    [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, True), (signal.SIGINT, 130, False)],
)
def test_an_interrupt_cancels_the_tasks(call, results, sleeping, number, status, shared):
    more = () if shared else ("--no-shared-disk",)
    before = set(sleeping.iterdir())
    process = call("run", "--method", "sleeps", "--no-oracles", *more, run=start)
    try:
        while len(asleep := set(sleeping.iterdir()) - before) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        pids = [int(path.name) for path in asleep]
        process.send_signal(number)
        begun = time.monotonic()
        _, told = process.communicate(timeout=600)
    finally:
        process.kill()
    assert time.monotonic() - begun < 30
    assert process.returncode == status
    assert told.splitlines()[-1].startswith("bench: ")
    assert "resume with: bench run" in told.splitlines()[-1]
    assert "Traceback" not in told
    assert "(raylet)" not in told
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert list(results.glob("runs/*/*/*/fold-*/manifest.json")) == []
    if not shared:
        assert list(results.rglob("*.claim")) == []


def test_an_interrupted_call_goes_on(call, results):
    assert call("run", "--method", "mean", "--no-oracles", "--folds", "0").status == 0
    answer = call("run", "--method", "mean", "--no-oracles", "--no-shared-disk")
    assert answer.status == 0, answer.stderr
    assert "mean fold 0: kept" in answer.stderr
    assert answer.stderr.count(": done in") == 2


def test_a_node_with_another_installation_is_refused(standing, tiny, results, monkeypatch):
    monkeypatch.setattr(ray_executor, "installation", lambda: {**installation(), "torch": "0.1"})
    fields = {"dataset": str(tiny.card), "data_root": tiny.root, "results": results}
    with pytest.raises(BenchError, match=r"^node \S+ has torch \S+, the caller has 0\.1; install"):
        run_request(
            Request(methods=("mean",), oracles=False, **fields),
            executor=RayExecutor(address=standing),
        )
    assert list(results.glob("runs/*/*/*")) == []


def test_workers_of_a_study_are_tasks(call, results):
    options = ("--preset", "quick", "--set", "input_size=32", "--device", "cpu")
    more = ("--trials", "3", "--jobs", "2", "--folds", "0", "--inner-folds", "2")
    answer = call("tune", "--method", "ridge", *options, *more)
    assert answer.status == 0, answer.stderr
    assert "Tuned against default" in answer.stdout
    (study,) = results.glob("tuning/*/*/ridge-*/fold-0/study.json")
    # Which trials are pruned follows from the study's name, and so from the sources.
    ended = json.loads(study.read_text())["trials"]
    assert ended["complete"] + ended["pruned"] == 3


def test_workers_of_a_study_need_no_shared_disk(standing, tiny, results, tmp_path, monkeypatch):
    # A file, in place of a server that this machine does not have.
    monkeypatch.setattr(RayExecutor, "check_storage", lambda self, storage: None)
    run = Request(
        methods=("ridge",),
        dataset=str(tiny.card),
        data_root=tiny.root,
        results=results,
        preset="quick",
        settings={"input_size": 32},
        device="cpu",
        folds=(0,),
        oracles=False,
    )
    storage = f"sqlite:///{tmp_path}/trials.db"
    request = TuneRequest(run=run, trials=2, jobs=1, inner_folds=2, storage=storage)
    executor = RayExecutor(address=standing, shared_disk=False)
    found, failed = tune(request, runner=make_study_runner(executor, JobWatcher()))
    assert failed == []
    assert found["ridge"][0].trials["complete"] == 2
    assert list(results.glob("tuning/*/*/*/*/workers/*")) == []


def test_ray_can_be_started_for_one_call(tiny, results, plugins):
    data = (*tiny.options, "--tracking", "none", "--results", results, "--folds", "0")
    where = ("--executor", "ray", "--ray-address", "local")
    answer = call_process("run", "--method", "mean", *data, *where)
    assert answer.status == 0, answer.stderr
    assert len(answer.stderr.splitlines()) == 2, answer.stderr
