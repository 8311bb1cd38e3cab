"""Weights of image encoders on their way to the nodes of a cluster; Ray is not needed here."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from bench.blocks.encoders import check_weights
from bench.encoders.weights import add_weights, stored_weights
from bench.execute.executors import ray_node, ray_object_store
from bench.execute.executors.ray_node import installation, run_work
from bench.execute.executors.ray_object_store import ObjectStore, SentFile
from bench.execute.plan import make_plan
from bench.execute.request import Request
from tests.hub_models import write_snapshot

TINY = "hf-hub:me/tiny"


def put(path):
    return SentFile((np.frombuffer(path.read_bytes(), dtype=np.uint8),))


@pytest.fixture
def planned(tiny, tmp_path, monkeypatch):
    """Plans `ridge` on the tiny dataset with an encoder; its data folder has the weights of one."""
    monkeypatch.setattr(ray_object_store, "_put", put)
    monkeypatch.setattr(ray_object_store, "_get", lambda reference: reference)
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "caller"))
    add_weights(TINY, write_snapshot(tmp_path / "snapshot", 0), check_weights)

    def plan(encoder):
        request = Request(
            methods=(f"ridge[{encoder}]",),
            dataset=str(tiny.card),
            data_root=tiny.root,
            protocol=tiny.quick_protocol[1],
            settings={"input_size": 32, "patch_size": 32},
            device="cpu",
            results=tmp_path / "results",
            oracles=False,
            folds=(0,),
        )
        (job,) = (job for job in make_plan(request).jobs() if not job.method_spec.random)
        return job

    return plan


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Makes this process a machine with folders of its own."""
    monkeypatch.setattr(ray_node, "forbid_downloads", lambda: None)  # for good, in this process

    def become():
        monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "node" / "data"))
        monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "node" / "cache"))

    return become


def test_stored_weights_travel_to_a_node_that_has_none(planned, node, tmp_path):
    parcel = ObjectStore().parcel(planned(TINY))
    sent = stored_weights(TINY).manifest
    node()
    shutil.rmtree(tmp_path / "caller")
    seen = []
    for _ in range(2):  # the second time they are there
        report = run_work(parcel, lambda job: seen.append(stored_weights(TINY)), installation())
        assert report.outcome == "done", report.reason
    assert [one.manifest for one in seen] == [sent, sent]
    assert all(one.path.is_relative_to(tmp_path / "node") for one in seen)


def test_a_node_with_other_weights_refuses(planned, node, tmp_path):
    job = planned(TINY)
    parcel = ObjectStore().parcel(job)
    node()
    add_weights(TINY, write_snapshot(tmp_path / "other", 1), check_weights)
    report = run_work(parcel, lambda job: pytest.fail("it has begun"), installation())
    assert report.outcome == "refused"
    assert "has other weights of encoder hf-hub:me/tiny than the caller" in report.reason


def test_a_node_without_the_weights_says_how_to_get_them(planned, node):
    job = planned(TINY)
    parcel = ObjectStore().parcel(job)
    parcel = replace(parcel, settings=replace(parcel.settings, weights={}))
    node()
    report = run_work(parcel, lambda job: pytest.fail("it has begun"), installation())
    assert report.outcome == "refused"
    assert "bench encoders get hf-hub:me/tiny" in report.reason


def test_a_folder_of_an_encoder_travels(planned, node, tmp_path):
    folder = tmp_path / "snapshot"
    parcel = ObjectStore().parcel(planned(f"local-dir:{folder}"))
    content = (folder / "model.safetensors").read_bytes()
    node()
    shutil.rmtree(folder)
    seen = []

    def look(job):
        _, _, path = job.method_spec.config["encoder"].partition("local-dir:")
        assert path.startswith(str(tmp_path / "node"))
        seen.append((tmp_path / path / "model.safetensors").read_bytes())

    assert run_work(parcel, look, installation()).outcome == "done"
    assert seen == [content]


def test_a_key_holds_the_content_of_an_encoders_folder_and_not_its_place(planned, tmp_path):
    elsewhere = shutil.copytree(tmp_path / "snapshot", tmp_path / "elsewhere")
    first = planned(f"local-dir:{tmp_path / 'snapshot'}")
    second = planned(f"local-dir:{elsewhere}")
    assert first.method_spec.label != second.method_spec.label
    assert first.encoder == second.encoder
