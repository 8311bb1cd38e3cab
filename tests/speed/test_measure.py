import numpy as np
import pytest
import torch
from torch import nn

from bench.registry import method_class
from bench.speed import machine
from bench.speed.calls import NetworkCalls
from bench.speed.measure import SpeedRequest, measure_method
from bench.speed.retrieval import RetrievalSize, measure_retrieval, spot_by_spot

EDGE = 32
SMALL = {"encoder": "test_resnet", "weights": "none", "patch_size": EDGE, "batch_size": 6}


def measured(fold, name, changes, **request):
    kind = method_class(name)
    said = []
    config = kind.configure("", "authors", changes)
    found = measure_method(kind, config, fold, SpeedRequest(**request), said.append)
    return found, said


def test_training_and_prediction_are_measured_beside_the_ceiling_and_the_plain_loop(fold):
    found, said = measured(fold, "stnet", SMALL, repeats=3, steps=2, trajectory=2)
    assert found["notes"] == []
    assert found["trajectory"]["largest_difference"] <= 1e-4
    assert said == [
        f"stnet: {what}" for what in ("training", "losses of the first steps", "prediction")
    ]
    for phase, others in (("training", ("ceiling", "reference")), ("prediction", ("ceiling",))):
        part = found[phase]
        own = part["end_to_end"]["images_per_second"]["all"]
        assert len(own) == 3
        assert min(own) > 0
        for other in others:
            against = part[other]["images_per_second"]["all"]
            ratio = part[f"ratio_to_{other}"]
            np.testing.assert_allclose(ratio["all"], np.divide(own, against))
            assert ratio["lowest"] <= ratio["median"] <= ratio["highest"]
        assert part["peak_memory_mb"] > 50
        assert part["peak_device_memory_mb"] is None
    assert "epochs" not in found["settings"]


def test_no_round_begins_when_the_time_is_up(fold):
    found, _ = measured(fold, "stnet", SMALL, repeats=50, steps=1, seconds=0.0, reference=False)
    assert len(found["training"]["end_to_end"]["images_per_second"]["all"]) == 1
    assert len(found["prediction"]["end_to_end"]["images_per_second"]["all"]) == 1
    assert "reference" not in found["training"]


def test_reduced_precision_trains(fold):
    found, _ = measured(fold, "stnet", SMALL, repeats=1, steps=1, precision="bf16", reference=False)
    assert found["training"]["ceiling"]["images_per_second"]["median"] > 0


def test_a_method_of_whole_sections_is_measured_beside_the_plain_loop(fold):
    changes = {"dim": 16, "layers": 1, "heads": 2, "head_dim": 4, "hidden": 8, "patch_size": EDGE}
    kind = method_class("histogene")
    changes = {k: v for k, v in changes.items() if k in kind.Config.model_fields}
    found, _ = measured(fold, "histogene", changes, repeats=2, steps=1, trajectory=6)
    assert found["notes"] == []
    assert found["training"]["reference"]["images_per_second"]["median"] > 0
    assert found["trajectory"]["largest_difference"] <= 1e-6


def test_a_method_without_a_network_has_no_training_and_no_ceiling(fold):
    found, _ = measured(fold, "mean", {}, repeats=1)
    assert found["training"] is None
    assert found["notes"][0].startswith("no training:")
    assert "ceiling" not in found["prediction"]
    assert found["prediction"]["end_to_end"]["images_per_second"]["median"] > 0


def test_a_frozen_encoder_works_in_every_prediction(fold, monkeypatch):
    encoded = []

    def counted(self, patches):
        encoded.append(len(patches))
        return compute(self, patches)

    from bench.blocks.features import FrozenEncoder

    compute = FrozenEncoder._compute
    monkeypatch.setattr(FrozenEncoder, "_compute", counted)
    changes = {"encoder": "test_resnet", "weights": "none", "input_size": EDGE}
    found, _ = measured(fold, "ridge", changes, repeats=2)
    assert "ceiling" in found["prediction"]
    # The slide: when calls are noted, when memory is, and in each of the two measurements.
    assert encoded.count(len(fold.slide)) == 4


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.seen = []

    def forward(self, values, index, *, scale):
        self.seen.append((values, index, scale))
        return self.inner(values)[index] * scale


def test_outermost_calls_are_made_again_on_random_inputs_of_the_same_layout():
    module, calls = Doubling(), NetworkCalls()
    values, index = torch.zeros(3, 4).T, torch.tensor([1, 1])
    with calls.recorded():
        module(values, index, scale=2.0)
        module(values, index, scale=3.0)
    assert len(calls) == 2  # the linear layer inside is part of them
    calls.replay()
    assert len(module.seen) == 4
    again, same, scale = module.seen[2]
    assert (again.shape, again.stride(), scale) == (values.shape, values.stride(), 2.0)
    assert again.abs().sum() > 0
    assert same is index
    module(values, index, scale=1.0)
    assert len(calls) == 2


def test_the_loop_and_the_harness_retrieve_the_same():
    rng = np.random.default_rng(0)
    queries, keys = rng.standard_normal((2, 40, 6), dtype=np.float32)
    values = rng.random((40, 3), dtype=np.float32)
    for row, query in zip(spot_by_spot(queries, keys, values, 4), queries, strict=True):
        cosine = keys @ query / np.linalg.norm(keys, axis=1)
        nearest = np.argsort(-cosine)[:4]
        weights = 1 / np.abs(keys[nearest] - query).sum(axis=1) ** 2
        np.testing.assert_allclose(row, weights @ values[nearest] / weights.sum(), rtol=1e-5)
    size = RetrievalSize(queries=60, keys=200, top_k=20, width=16, genes=9, sample=10)
    found = measure_retrieval(size, "cpu", 2, lambda what: None)
    assert found["largest_difference"] <= 1e-5
    assert found["size"]["keys"] == 200
    assert found["measured_on"] == 10
    for name, ratio in (("loop", "ratio"), ("after_one_product", "ratio_to_after_one_product")):
        np.testing.assert_allclose(
            found[ratio]["all"],
            np.divide(
                found["harness"]["queries_per_second"]["all"],
                found[name]["queries_per_second"]["all"],
            ),
        )
        assert len(found[ratio]["all"]) == 2


@pytest.mark.parametrize(
    ("load", "cores", "busy"), [(0.9, 2, False), (1.1, 2, True), (None, 2, False), (5, 16, False)]
)
def test_a_busy_machine_is_warned_of(monkeypatch, load, cores, busy):
    monkeypatch.setattr(machine, "_usable_cores", lambda: cores)
    warning = machine.busy_warning(load)
    assert (warning is not None) == busy
    assert not busy or f"load {load:.1f} on {cores} cores" in warning


def test_what_is_said_of_the_machine():
    found = machine.machine("cpu")
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    assert found["gpu"] is None
    assert machine.spread([3.0, 1.0, 2.0]) == {
        "median": 2.0,
        "lowest": 1.0,
        "highest": 3.0,
        "all": [3.0, 1.0, 2.0],
    }
    assert machine.ratios([2.0, 9.0], [4.0, 3.0])["all"] == [0.5, 3.0]
