from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr

from bench.api import Context, DataError
from bench.blocks.feature_space import FeatureSpace
from bench.blocks.features import FrozenEncoder
from bench.blocks.weights import NETWORK
from bench.contract.small_fold import GENES, SPOTS
from bench.methods.mlp import MLP
from bench.methods.mlp.network import MLPNetwork, feature_loader
from bench.training.module import ReadoutModule

FEATURES = 96


def fitted(data, **changes):
    method = MLP(MLP.configure("any", "tiny", changes))
    context = Context(seed=1)
    method.fit(data, context)
    return method, context


def predict(method, slide):
    return method.predict([slide], Context(seed=1))[0]


@pytest.fixture(scope="module")
def usual(data):
    return fitted(data)


def test_the_network_is_linear_gelu_linear():
    torch.manual_seed(0)
    network = MLPNetwork(5, 3, hidden=7, dropout=0.5).eval()
    features = torch.randn(4, 5, dtype=torch.float64)
    network = network.double()
    w1, b1, w2, b2 = (p.detach().numpy() for p in network.parameters())
    hidden = features.numpy() @ w1.T + b1
    erf = torch.erf(torch.from_numpy(hidden) / 2**0.5).numpy()
    wanted = (hidden * (1 + erf) / 2) @ w2.T + b2
    np.testing.assert_allclose(network(features).detach().numpy(), wanted)
    assert sum(p.numel() for p in network.parameters()) == 5 * 7 + 7 + 7 * 3 + 3


def test_training_starts_at_the_mean_target():
    network = MLPNetwork(5, 3, hidden=7).eval()
    network.start_from(np.array([1.0, 2.0, 3.0]))
    found = network(torch.randn(2, 5)).detach()
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0, 3.0]] * 2))


def test_the_loss_is_the_mean_squared_error():
    torch.manual_seed(0)
    network = MLPNetwork(5, 3, hidden=7).eval()
    module = ReadoutModule(network, MLP.configure("any", "tiny"))
    logged = {}
    module.log = lambda name, value, **options: logged.update({name: float(value.detach())})
    batch = {"features": torch.randn(4, 5), "target": torch.randn(4, 3)}
    loss = module.training_step(batch)
    module.validation_step(batch)
    error = network(batch["features"]).detach().numpy() - batch["target"].numpy()
    wanted = float(np.mean(error.astype(np.float64) ** 2))
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert logged == pytest.approx({"train_loss": wanted, "val_loss": wanted}, rel=1e-5)


def test_the_first_loss_is_the_variance_and_it_falls(data):
    _, context = fitted(data, epochs=30, learning_rate=1e-3, dropout=0.0, batch_size=60)
    target = np.concatenate([section.target for section in data.sections])
    losses = [row["train_loss"] for row in context.curves]
    assert losses[0] == pytest.approx(float(target.var(axis=0).mean()), rel=1e-4)
    assert losses[-1] < 0.8 * losses[0]


def test_every_parameter_is_trained(usual):
    assert usual[1].idle_parameters == []


def test_each_epoch_sees_every_spot_once_in_an_order_that_follows_from_the_seed():
    parts = [np.arange(n, dtype=np.float32)[:, None] + 100 * i for i, n in enumerate((7, 2, 4))]

    def epoch(number, seed=1):
        loader = feature_loader(parts, [10 * part for part in parts], 6, seed)
        loader.sampler.set_epoch(number)
        return list(loader)

    batches = epoch(0)
    assert [len(batch["features"]) for batch in batches] == [6, 6, 1]
    seen = torch.cat([batch["features"] for batch in batches])
    assert sorted(seen.ravel().tolist()) == sorted(np.concatenate(parts).ravel().tolist())
    for batch in batches:
        torch.testing.assert_close(batch["target"], 10 * batch["features"])
    again = torch.cat([batch["features"] for batch in epoch(0)])
    assert torch.equal(again, seen)
    for other in (epoch(1), epoch(0, seed=2)):
        assert not torch.equal(torch.cat([batch["features"] for batch in other]), seen)


def centre_of(method, sections):
    encoder = FrozenEncoder(method.config, 1, "cpu")
    return FeatureSpace.fit(encoder, encoder.encode(sections)).centre


def test_a_fixed_number_of_epochs_learns_from_validation_too_and_patience_does_not(data, usual):
    fixed, context = usual
    assert "val_loss" not in context.curves[0]
    np.testing.assert_array_equal(fixed.space.centre, centre_of(fixed, data.sections))
    early, context = fitted(data, epochs=3, patience=1)
    assert "val_loss" in context.curves[0]
    np.testing.assert_array_equal(early.space.centre, centre_of(early, data.train))


def test_early_stopping_keeps_the_network_of_the_least_validation_loss(data):
    method, context = fitted(data, epochs=60, patience=3, learning_rate=3e-2, dropout=0.0)
    losses = [row["val_loss"] for row in context.curves]
    assert len(losses) < 60
    section = data.validation[0]
    encoder = FrozenEncoder(method.config, 1, "cpu")
    values = torch.from_numpy(method.space.standardise(encoder.encode([section])[0]))
    error = method.network.eval()(values).detach().numpy() - section.target
    assert float(np.mean(error**2)) == pytest.approx(min(losses), rel=1e-4)


def test_a_fold_of_a_single_spot_is_learned(data, slide):
    section = data.train[0]
    lone = replace(
        section,
        array_xy=section.array_xy[:1],
        spatial=section.spatial[:1],
        target=section.target[:1],
        patch_source=replace(section.patch_source, centres=section.patch_source.centres[:1]),
    )
    method, context = fitted(replace(data, train=(lone,), validation=()))
    assert context.curves[0]["train_loss"] == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose(predict(method, slide), np.tile(lone.target, (SPOTS, 1)), atol=0.01)


def test_what_the_image_shows_is_found(data, slide):
    method, _ = fitted(replace(data, validation=()), epochs=20, learning_rate=3e-3, hidden=64)
    brightness = data.validation[0].target[:, 0]
    assert pearsonr(brightness, predict(method, slide)[:, 0])[0] > 0.9
    shuffled = predict(method, slide.with_images_shuffled(3))[:, 0]
    assert abs(pearsonr(brightness, shuffled)[0]) < 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "test_byobnet"},
        {"pixels": "rgb01"},
        {"patch_size": 36},
        {"input_size": 24},
        {"clip": 0.5},
        {"hidden": 8},
        {"dropout": 0.0},
        {"learning_rate": 1e-2},
        {"weight_decay": 1.0},
        {"batch_size": 16},
        {"epochs": 3},
        {"patience": 1},
    ],
    ids=str,
)
def test_every_switch_changes_the_prediction(usual, data, slide, change):
    method, _ = fitted(data, **change)
    assert not np.array_equal(predict(method, slide), predict(usual[0], slide))


def test_a_saved_network_tells_its_sizes(usual, data, slide, tmp_path):
    method, _ = fitted(data, hidden=24)
    method.save(tmp_path)
    loaded = MLP.load(tmp_path, usual[0].config)  # says 16
    assert loaded.network.hidden.out_features == 24
    np.testing.assert_array_equal(predict(loaded, slide), predict(method, slide))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("head.bias"), "head.bias"),
        (lambda state: state.pop("hidden.weight"), "hidden.weight"),
        (lambda state: state.update(other=torch.zeros(1)), "other"),
        (lambda state: state.update({"hidden.bias": torch.zeros(3)}), "hidden.bias"),
    ],
    ids=["missing", "missing first", "unexpected", "of another shape"],
)
def test_a_tensor_that_does_not_fit_is_named(usual, tmp_path, change, named):
    usual[0].save(tmp_path)
    state = load_file(tmp_path / NETWORK)
    change(state)
    save_file(state, tmp_path / NETWORK)
    with pytest.raises(DataError, match=named):
        MLP.load(tmp_path, usual[0].config)


def test_shapes_of_the_usual_fit(usual):
    network = usual[0].network
    assert network.hidden.weight.shape == (16, FEATURES)
    assert network.head.weight.shape == (GENES, 16)
