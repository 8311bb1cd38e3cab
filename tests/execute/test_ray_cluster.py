"""Which cluster is meant, and what is said where it does not answer."""

from __future__ import annotations

import importlib.util
import socket
from contextlib import closing
from dataclasses import replace

import pytest

from bench.errors import BenchError
from bench.execute.executors import ray_cluster
from bench.execute.executors.choose import make_executor
from bench.execute.executors.options import RAY, ExecutorOptions
from bench.execute.executors.ray_cluster import check_cluster, cluster_address
from bench.execute.plan import make_plan
from bench.execute.request import Request

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed; see 'make ray-test'"
)


@pytest.fixture
def closed_port():
    """A port of this machine that nobody listens on."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def silent_port():
    """A port that takes a connection and never says a word."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture(autouse=True)
def _no_address_from_outside(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_without_the_library_the_message_has_the_command(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else found(name)
    )
    with pytest.raises(
        BenchError, match=r"^--executor ray needs .*pip install 'spotbench\[ray\]'$"
    ):
        make_executor(ExecutorOptions(executor=RAY, ray_address="127.0.0.1:1"))


def test_the_address_is_the_one_asked_for_then_that_of_the_environment(monkeypatch):
    assert cluster_address(None) == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster_address(None) == "head:6379"
    assert cluster_address("local") == "local"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        *((bad, "HOST:PORT") for bad in ("head", "head:", ":6379", "head:x", "head:0", "h:99999")),
        ("http://head:8265", "HOST:PORT"),
        ("ray://head:10001", "Ray Client is not supported"),
        ("no-such-host.invalid:6379", "no Ray cluster can be used at no-such-host.invalid:6379"),
    ],
)
def test_an_address_that_is_none_is_refused(address, words):
    with pytest.raises(BenchError, match=words) as caught:
        check_cluster(address)
    assert "\n" not in str(caught.value)


def test_a_port_that_nobody_listens_on_is_refused_at_once(closed_port):
    with pytest.raises(
        BenchError, match=rf"127.0.0.1:{closed_port} \(.*refused\); check --ray-add"
    ):
        check_cluster(f"127.0.0.1:{closed_port}")


@with_ray
def test_a_port_that_never_answers_is_given_up_in_time(silent_port, monkeypatch):
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 4.0)
    with pytest.raises(BenchError, match=r"nothing within 4 s"):
        check_cluster(f"127.0.0.1:{silent_port}")


@with_ray
def test_no_cluster_on_this_machine(monkeypatch, tmp_path):
    # Where Ray keeps the address of the cluster that was started last.
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(
        BenchError, match=r"^no Ray cluster runs on this machine; name .*address local"
    ):
        check_cluster("auto")


@with_ray
@pytest.mark.slow
def test_a_refused_call_starts_and_writes_nothing(bench_process, tiny, results, closed_port):
    call = ("run", "--method", "mean", *tiny.options, "--tracking", "none", "--results", results)
    answer = bench_process(*call, "--executor", "ray", "--ray-address", f"127.0.0.1:{closed_port}")
    assert answer.status == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("bench: no Ray cluster can be used at ")
    assert not results.exists()


def test_more_than_one_gpu_is_whole_ones():
    from bench.execute.executors.ray import RayExecutor

    RayExecutor(gpus=0.25)
    RayExecutor(gpus=2)
    with pytest.raises(BenchError, match=r"--ray-gpus 1\.5"):
        RayExecutor(gpus=1.5)


@pytest.mark.parametrize(
    ("storage", "shared", "words"),
    [
        (None, False, "all nodes must reach the trials"),
        ("sqlite:///trials.db", False, "cannot share an SQLite file"),
        ("sqlite:///trials.db", True, "cannot share an SQLite file"),
        (None, True, None),
        ("postgresql+psycopg://user@host/name", False, None),
    ],
)
def test_a_study_needs_a_storage_that_all_nodes_reach(storage, shared, words):
    from bench.execute.executors.ray import RayExecutor

    executor = RayExecutor(shared_disk=shared)
    if words is None:
        executor.check_storage(storage)
        return
    with pytest.raises(BenchError, match=words):
        executor.check_storage(storage)


@pytest.mark.parametrize(
    ("asked", "here", "gpus", "images", "there"),
    [
        ("auto", "cpu", 0.0, True, "cpu"),
        ("auto", "cuda", 0.0, True, "cpu"),
        ("auto", "cpu", 0.5, True, "cuda"),
        ("auto", "cpu", 0.5, False, "cpu"),
        ("cpu", "cpu", 0.5, True, "cpu"),
        ("cuda", "cuda", 0.5, True, "cuda"),
    ],
)
def test_the_device_is_that_of_the_node(tiny, results, asked, here, gpus, images, there):
    from bench.execute.executors.ray import RayExecutor

    job = job_of(tiny, results, "ridge" if images else "mean")
    assert RayExecutor(gpus=gpus).placed(replace(job, device=here), asked).device == there


def test_a_gpu_without_a_share_of_one_is_refused(tiny, results):
    from bench.execute.executors.ray import RayExecutor

    job = replace(job_of(tiny, results, "ridge"), device="cuda")
    with pytest.raises(BenchError, match="name --ray-gpus"):
        RayExecutor().placed(job, "cuda")


def job_of(tiny, results, method):
    request = Request(
        methods=(method,),
        dataset=str(tiny.card),
        data_root=tiny.root,
        results=results,
        oracles=False,
        folds=(0,),
        device="cpu",
    )
    (job,) = make_plan(request).jobs()
    return job


class FakeRay:
    """A library that raises one error."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            cause = KeyError("what a node lacks")

    def __init__(self, error):
        self._error = error

    def get(self, reference):
        raise self._error


def test_a_lost_task_fails_and_a_broken_node_is_refused():
    from bench.execute.executors.ray import _report

    lost = _report(FakeRay(FakeRay.exceptions.RayError("a page of text")), None)
    assert (lost.outcome, lost.details) == ("lost", "a page of text")
    assert lost.reason == "its node or process was lost too often (RayError)"
    refused = _report(FakeRay(FakeRay.exceptions.RayTaskError()), None)
    assert refused.outcome == "refused"
    assert refused.reason == "a node failed: KeyError: 'what a node lacks'"
