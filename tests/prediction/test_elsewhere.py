"""Predictions on clusters: the same result, and one line where there is none."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from types import SimpleNamespace

import anndata
import numpy as np
import pytest

from bench.errors import BenchError, DetachedError
from bench.execute.executors import ray_object_store, task_pool
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.profile import Profile
from bench.execute.executors.ray import RayExecutor
from bench.execute.executors.ray_object_store import ObjectStore, SentFile
from bench.execute.executors.slurm import SlurmExecutor
from bench.execute.executors.submission import read_submission
from bench.prediction import elsewhere, on_ray, on_slurm
from bench.prediction.finished_stripes import FinishedStripes
from bench.prediction.predicting import PredictionRequest, predict_image
from bench.prediction.watching import PredictionWatcher
from tests.cli.tiny_dataset import assert_refused, call, call_process
from tests.execute.fake_slurm import FakeSlurm
from tests.execute.slurm_cluster import PARTITION, UnavailableError, slurm_cluster

SECTION = "A1"
PATIENCE = 300


@pytest.fixture
def request_of(ridge, tmp_path):
    """Makes a request for a section."""
    ridge.spots(SECTION, tmp_path / "spots.csv")

    def make(**changes):
        given = {
            "image": ridge.image(SECTION), "dataset": str(ridge.dataset.card), "method": "ridge",
            "spots": tmp_path / "spots.csv", "um_per_px": ridge.scale(SECTION),
            "results": ridge.results, "data_root": ridge.dataset.root, "device": "cpu", **changes,
        }  # fmt: skip
        return PredictionRequest(**given)

    return make


class Said(PredictionWatcher):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def assert_equal(found, wanted):
    np.testing.assert_array_equal(found.X, wanted.X)
    np.testing.assert_array_equal(found.layers["fold_sd"], wanted.layers["fold_sd"])
    assert found.obs.equals(wanted.obs)
    assert list(found.var.columns) == list(wanted.var.columns)
    np.testing.assert_array_equal(found.var["pcc"], wanted.var["pcc"])
    assert found.uns["spotbench"]["notes"] == wanted.uns["spotbench"]["notes"]
    assert found.uns["spatial"][SECTION]["metadata"] == wanted.uns["spatial"][SECTION]["metadata"]


# ------------------------------------------------------------------------------------ Slurm


def run_task(folder, number):
    """Run a task as ``bench execute`` does, but in this process."""
    submission = read_submission(folder)
    ((kind, content),) = submission.request().items()
    assert kind == on_slurm.KIND
    on_slurm.run_prediction_task(submission, number, content, JobWatcher())


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster that runs one task between two looks at its queue."""
    cluster = FakeSlurm.install(tmp_path / "slurm", run_task)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(on_slurm, "forbid_downloads", lambda: None)
    monkeypatch.setattr(task_pool, "RETRY_SECONDS", 0.0)
    cluster.steps = []
    steps = cluster.steps

    def sleep(seconds):
        (steps.pop(0) if steps else cluster.run_next)()

    monkeypatch.setattr(on_slurm, "time", SimpleNamespace(sleep=sleep))
    return cluster


def on_cluster(request, *, submit_only=False, **changes):
    profile = Profile(**{"poll_seconds": 0.01, "settle_seconds": 0.0, **changes})
    executor, finished, said = (
        SlurmExecutor(profile, submit_only=submit_only),
        FinishedStripes(),
        Said(),
    )
    adata = on_slurm.predict_on_slurm(request, executor, said, finished)
    finished.forget()
    return adata, said.lines


def left(ridge):
    return [path for path in ridge.results.glob("slurm/predictions/*") if path.is_file()]


def test_slurm_predicts_what_this_machine_does(ridge, slurm, request_of):
    found, said = on_cluster(request_of())
    assert_equal(found, predict_image(request_of()))
    assert "the prediction: 1 tasks are queued or running in Slurm" in said[0]
    assert len(slurm.submissions) == 1
    assert not left(ridge)


def test_a_submitted_prediction_is_followed_by_the_same_call(ridge, slurm, request_of):
    with pytest.raises(DetachedError, match="the prediction: 1 tasks are queued"):
        on_cluster(request_of(genes=("GENE3",)), submit_only=True)
    on_cluster(request_of(genes=("GENE3",)))
    assert len(slurm.submissions) == 1
    on_cluster(request_of(genes=("GENE4",)))
    assert len(slurm.submissions) == 2


def test_a_lost_prediction_is_submitted_again_a_few_times(slurm, request_of):
    def lose():
        slurm.set_state(slurm.pending()[0], "NODE_FAIL")

    slurm.steps += [lose]
    _, said = on_cluster(request_of(genes=("GENE5",)))
    assert "ended without a prediction" in said[1]
    slurm.steps += [lose] * 20
    with pytest.raises(BenchError, match="too often"):
        on_cluster(request_of(genes=("GENE6",)), retries=1)


def test_a_fault_on_the_node_is_told(ridge, slurm, request_of, monkeypatch):
    with pytest.raises(BenchError, match=r"beyond 4 times.*log: "):
        on_cluster(request_of(um_per_px=100.0))
    monkeypatch.setattr(
        on_slurm, "check_versions", lambda of: elsewhere.check_versions({**of, "torch": "0.1"})
    )
    with pytest.raises(BenchError, match=r"the caller has 0\.1"):
        on_cluster(request_of(genes=("GENE7",)))
    assert not left(ridge)


def test_what_is_no_model_is_refused_before_a_submission(slurm, request_of, tmp_path):
    for changes, words in (
        ({"method": "rigde"}, "method with runs"),
        ({"image": tmp_path / "absent.png"}, "image is missing"),
        ({"dataset": "", "method": "", "bundle": tmp_path / "no.spotbench"}, "no such bundle"),
    ):
        with pytest.raises(BenchError, match=words):
            on_cluster(request_of(**changes))
    assert not slurm.submissions


# -------------------------------------------------------------------------------------- Ray


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Runs what is sent to a Ray node in this process; the node has no data and no results."""

    def put(path):
        return SentFile((np.frombuffer(path.read_bytes(), dtype=np.uint8),))

    monkeypatch.setattr(ray_object_store, "_put", put)
    monkeypatch.setattr(ray_object_store, "_get", lambda reference: reference)
    monkeypatch.setattr(on_ray, "forbid_downloads", lambda: None)

    def run(request, *, shared, expected=None):
        executor, folder = RayExecutor(shared_disk=shared), tmp_path / "made"
        folder.mkdir()
        placed = elsewhere.absolute_request(request)
        there, places = on_ray._placed(placed, folder, executor.shared_disk, PredictionWatcher())
        store = ObjectStore()
        files = {name: store.file(path) for name, path in places.items()}
        if not shared:
            there = on_ray.replace(there, results=tmp_path / "none", data_root=tmp_path / "none")
        report = on_ray.predict_on_node(
            on_ray.SentPrediction(there, files), expected or elsewhere.versions()
        )
        if report.reason:
            raise BenchError(report.reason)
        result = folder / "result.h5ad"
        result.write_bytes(report.files["result"].data)
        return elsewhere.read_result(result, request)

    return run


@pytest.mark.parametrize("shared", [True, False])
def test_a_node_of_ray_predicts_what_this_machine_does(node, request_of, shared):
    found = node(request_of(), shared=shared)
    assert_equal(found, predict_image(request_of()))


def test_a_fault_on_a_node_of_ray_names_the_callers_file(node, request_of, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(BenchError) as caught:
        node(request_of(image=tmp_path / "text.png"), shared=False)
    assert f"{tmp_path / 'text.png'}: image cannot be read" in str(caught.value)


def test_a_node_of_other_versions_refuses(node, request_of):
    with pytest.raises(BenchError, match=r"the caller has 0\.1"):
        node(request_of(), shared=True, expected={**elsewhere.versions(), "torch": "0.1"})


@pytest.fixture
def fetched(ridge, tmp_path):
    """A bundle in a folder, as a model of MLflow is fetched into one."""
    bundle, folder = tmp_path / "ridge.spotbench", tmp_path / "fetched"
    done = call("export", *ridge.model, "--method", "ridge", "--out", bundle)
    assert done.status == 0, done.stderr
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return {"bundle": folder, "dataset": "", "method": ""}


def test_a_model_that_was_fetched_travels_to_the_nodes(ridge, slurm, node, request_of, fetched):
    wanted = predict_image(request_of(**fetched))
    with pytest.raises(DetachedError):
        on_cluster(request_of(**fetched), submit_only=True)
    again = fetched["bundle"].rename(fetched["bundle"].with_name("again"))
    found, _ = on_cluster(request_of(**{**fetched, "bundle": again}))
    assert len(slurm.submissions) == 1, "known by its content, wherever it was fetched to"
    assert not left(ridge)
    assert_equal(found, wanted)
    assert_equal(node(request_of(**{**fetched, "bundle": again}), shared=True), wanted)


def test_options_of_executors_are_checked(ridge, tmp_path):
    ridge.spots(SECTION, tmp_path / "spots.csv")
    base = (
        *("predict", ridge.image(SECTION), *ridge.model, "--method", "ridge", "--spots"),
        *(tmp_path / "spots.csv", "--out", tmp_path / "out.csv"),
    )
    assert_refused(call(*base, "--executor", "cloud"), "executor 'cloud'")
    assert_refused(call(*base, "--submit-only"), "--submit-only belongs to --executor slurm")
    assert_refused(call(*base, "--executor", "slurm", "--ray-cpus", "2"), "--executor ray")
    assert not list(tmp_path.glob("out*"))


# ---------------------------------------------------------------------------- real clusters


def process(ridge, tmp_path, name, *more, env=None):
    """``bench predict`` in a process of its own; gives the file that it wrote."""
    ridge.spots(SECTION, tmp_path / "spots.csv")
    out = tmp_path / f"{name}.h5ad"
    done = call_process(
        *("predict", ridge.image(SECTION), *ridge.model, "--method", "ridge"),
        *("--spots", tmp_path / "spots.csv", "--um-per-px", ridge.scale(SECTION), "--out", out),
        *more,
        timeout=PATIENCE,
        env=env,
    )
    assert done.status == 0, done.stderr
    return anndata.read_h5ad(out)


@pytest.mark.slow
def test_a_real_slurm_gives_the_same(ridge, tmp_path):
    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"partition: {PARTITION}\npoll_seconds: 0.3\nsettle_seconds: 1\n")
    here = process(ridge, tmp_path, "here")
    try:
        manager = slurm_cluster()
        cluster = manager.__enter__()
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        where = ("--executor", "slurm", "--profile", profile)
        there = process(ridge, tmp_path, "there", *where, env=cluster.environment)
    finally:
        manager.__exit__(None, None, None)
    assert_equal(there, here)
    (request,) = ridge.results.glob("slurm/*/request.json")
    assert list(json.loads(request.read_text())) == ["predict"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.parametrize("disk", [(), ("--no-shared-disk",)])
def test_a_real_ray_gives_the_same(ridge, tmp_path, disk):
    here = process(ridge, tmp_path, "here")
    where = ("--executor", "ray", "--ray-address", "local", *disk)
    env = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    assert_equal(process(ridge, tmp_path, "there", *where, env=env), here)
