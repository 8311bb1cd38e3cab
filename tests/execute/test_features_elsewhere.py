"""Features of frozen encoders that the nodes of a cluster compute."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bench.blocks.encoders import check_weights
from bench.blocks.features import FrozenEncoder
from bench.data.dataset import open_dataset
from bench.encoders.weights import add_weights
from bench.errors import BenchError, DetachedError
from bench.execute.executors import node_task, ray_object_store, slurm_features, task_pool
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.feature_runners import make_feature_runner
from bench.execute.executors.profile import Profile
from bench.execute.executors.ray import RayExecutor
from bench.execute.executors.ray_features import RayFeatures, compute_part
from bench.execute.executors.ray_node import installation
from bench.execute.executors.ray_object_store import ObjectStore, SentFile
from bench.execute.executors.slurm import SlurmExecutor
from bench.execute.executors.submission import read_submission
from bench.execute.features import FeatureRequest, FeatureWork, compute_features
from bench.registry import dataset_card
from tests.execute.fake_slurm import FakeSlurm
from tests.hub_models import write_snapshot

SETTINGS = {"weights": "none", "input_size": 32, "patch_size": 32}
SECTIONS = 6


@pytest.fixture(scope="module")
def work(tiny):
    """Features of the tiny dataset under an encoder."""
    dataset = open_dataset(dataset_card(str(tiny.card)), tiny.root, images=True)

    def asked(encoder="test_resnet", **settings):
        request = FeatureRequest((encoder,), {**SETTINGS, **settings}, "cpu", "float32")
        return FeatureWork(dataset, request)

    return asked


@pytest.fixture(scope="module")
def expected(work, tmp_path_factory):
    """The same features computed by this machine, by section."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPOTBENCH_CACHE", str(tmp_path_factory.mktemp("expected")))
        asked = work()
        compute_features(asked, lambda part: None)
        return {part: asked.stored(part) for part in asked.parts}


def assert_stored(asked, expected):
    for part, values in expected.items():
        np.testing.assert_array_equal(asked.stored(part), values)


# ------------------------------------------------------------------------------------ Slurm


def run_task(folder, number):
    """Run a task as ``bench execute`` does, but in this process."""
    submission = read_submission(folder)
    ((kind, content),) = submission.request().items()
    assert kind == slurm_features.KIND
    slurm_features.run_feature_task(submission, number, content, JobWatcher())


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster that runs one task between two looks at its queue."""
    cluster = FakeSlurm.install(tmp_path / "slurm", run_task)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(node_task, "forbid_downloads", lambda: None)
    monkeypatch.setattr(task_pool, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(
        slurm_features, "time", SimpleNamespace(sleep=lambda seconds: cluster.run_next())
    )
    return cluster


@pytest.fixture
def runner(tiny, tmp_path):
    """Runner on the cluster, and the warnings that it gave."""
    warnings = []

    def make(*, submit_only=False, **changes):
        profile = Profile(**{"poll_seconds": 0.01, "settle_seconds": 0.0, **changes})
        executor = SlurmExecutor(profile, submit_only=submit_only)
        return make_feature_runner(
            executor, str(tiny.card), tiny.root, tmp_path / "results", warnings.append
        )

    make.warnings = warnings
    return make


def test_a_cluster_computes_what_this_machine_does(own_cache, cluster, runner, work, expected):
    asked, told = work(), []
    rows = compute_features(asked, told.append, runner=runner(bundle=4))
    assert_stored(asked, expected)
    assert [row.seconds for row in rows] == [None] * SECTIONS
    assert sorted(row.section for row in told) == sorted(asked.sections)
    (line,) = cluster.submissions
    assert "--array=0-1" in line  # four sections and two
    again = compute_features(asked, told.append, runner=runner())
    assert [row.seconds for row in again] == [0.0] * SECTIONS
    assert len(cluster.submissions) == 1


def test_submitted_sections_are_followed_by_the_same_call(own_cache, cluster, runner, work):
    asked = work()
    with pytest.raises(DetachedError, match="features of 6 sections: 6 tasks are queued"):
        compute_features(asked, lambda part: None, runner=runner(submit_only=True))
    rows = compute_features(asked, lambda part: None, runner=runner())
    assert len(rows) == SECTIONS
    assert len(cluster.submissions) == 1


def test_a_lost_task_is_submitted_again(own_cache, cluster, runner, work, expected, monkeypatch):
    steps = iter([lambda: cluster.set_state(cluster.pending()[0], "NODE_FAIL")])
    sleep = SimpleNamespace(sleep=lambda seconds: next(steps, cluster.run_next)())
    monkeypatch.setattr(slurm_features, "time", sleep)
    asked = work()
    compute_features(asked, lambda part: None, runner=runner())
    assert_stored(asked, expected)
    assert "ended without the features of 1 sections" in runner.warnings[0]


def test_a_node_with_another_cache_is_named(
    own_cache, cluster, runner, work, monkeypatch, tmp_path
):
    def run_elsewhere(seconds):
        with monkeypatch.context() as patch:
            patch.setenv("SPOTBENCH_CACHE", str(tmp_path / "node"))
            cluster.run_next()

    monkeypatch.setattr(slurm_features, "time", SimpleNamespace(sleep=run_elsewhere))
    with pytest.raises(BenchError, match="set SPOTBENCH_CACHE to a folder that this machine and"):
        compute_features(work(), lambda part: None, runner=runner())


def test_a_node_that_would_compute_others_refuses(own_cache, cluster, runner, work, monkeypatch):
    monkeypatch.setattr(
        slurm_features,
        "time",
        SimpleNamespace(
            sleep=lambda seconds: (
                monkeypatch.setattr(FrozenEncoder, "identity", "another"),
                cluster.run_next(),
            )
        ),
    )
    with pytest.raises(BenchError, match="have changed since the submission; submit again"):
        compute_features(work(), lambda part: None, runner=runner())


# -------------------------------------------------------------------------------------- Ray


def put(path):
    return SentFile((np.frombuffer(path.read_bytes(), dtype=np.uint8),))


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Makes this process a node with folders of its own."""
    monkeypatch.setattr(ray_object_store, "_put", put)
    monkeypatch.setattr(ray_object_store, "_get", lambda reference: reference)
    monkeypatch.setattr("bench.execute.executors.ray_features.forbid_downloads", lambda: None)

    def become():
        monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "node" / "data"))
        monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "node" / "cache"))

    return become


@pytest.mark.parametrize("shared", [True, False])
def test_a_part_is_computed_from_what_was_sent(own_cache, node, work, expected, shared):
    asked = work()
    part = asked.parts[1]
    runner = RayFeatures(RayExecutor(shared_disk=shared), lambda message: None)
    sent = runner._sent(asked, part, ObjectStore())
    node()
    report = compute_part(sent, installation())
    assert report.reason == ""
    np.testing.assert_array_equal(report.values, expected[part])


def test_weights_and_folders_of_encoders_travel_with_a_part(
    own_cache, node, work, tmp_path, monkeypatch
):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "data"))
    snapshot = write_snapshot(tmp_path / "snapshot", 3)
    add_weights("hf-hub:me/tiny", snapshot, check_weights)
    runner = RayFeatures(RayExecutor(shared_disk=False), lambda message: None)
    parcels = []
    for encoder in ("hf-hub:me/tiny", f"local-dir:{snapshot}"):
        asked = work(encoder, weights="pretrained")
        parcels.append(runner._sent(asked, asked.parts[0], ObjectStore()))
    node()
    values = []
    for sent in parcels:
        report = compute_part(sent, installation())
        assert report.reason == ""
        values.append(report.values)
    np.testing.assert_array_equal(*values)


def test_a_node_of_other_versions_refuses(own_cache, node, work):
    asked = work()
    runner = RayFeatures(RayExecutor(), lambda message: None)
    sent = runner._sent(asked, asked.parts[0], ObjectStore())
    report = compute_part(sent, {**installation(), "torch": "0.1"})
    assert report.values is None
    assert "the caller has 0.1" in report.reason


@pytest.mark.parametrize("fault", ["spots", "nan", "type"])
def test_what_is_no_features_of_a_section_is_not_kept(own_cache, work, expected, fault):
    asked = work()
    part, values = next(iter(expected.items()))
    wrong = {
        "spots": values[1:],
        "nan": np.where(np.arange(values.shape[1]) == 3, np.nan, values).astype(np.float32),
        "type": values.astype(np.float16),
    }
    with pytest.raises(BenchError, match="received what are no features of it"):
        asked.keep(part, wrong[fault])
    assert asked.stored(part) is None
    asked.keep(part, values)
    np.testing.assert_array_equal(asked.stored(part), values)
