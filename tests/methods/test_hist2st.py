from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from bench.api import ConfigError, Context, DataError, TrainingError
from bench.blocks.graph import neighbour_mean
from bench.contract.small_fold import GENES
from bench.methods.hist2st import Hist2ST
from bench.methods.hist2st.losses import (
    count_loss,
    distil,
    plain_count_loss,
    section_losses,
    size_factors,
)
from bench.methods.hist2st.network import Hist2STModule, Hist2STNetwork
from tests.methods.fits import fitted_by, predict

fitted = fitted_by("hist2st")


@pytest.fixture(scope="module")
def usual(data):
    return fitted(data)


@pytest.fixture
def network():
    torch.manual_seed(7)
    return Hist2STNetwork(
        GENES,
        edge=14,
        channels=16,
        attention_layers=1,
        heads=2,
        head_dim=8,
        hidden=16,
        graph_layers=2,
        dropout=0.0,
    )


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (5, GENES)).astype(np.float32)
    return {
        "patches": torch.from_numpy(rng.integers(0, 256, (5, 3, 14, 14), dtype=np.uint8)),
        "target": torch.from_numpy(rng.random((5, GENES), dtype=np.float32)),
        "counts": torch.from_numpy(counts),
        "size_factor": torch.from_numpy(size_factors(counts)),
        "position": torch.from_numpy(rng.integers(0, 20, (5, 2))),
        "edges": torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]),
    }


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"zinb": 0.0}, {"bake": 0}, {"bake": 1}, {"distillation": 0.0}, {"graph_layers": 4}),
        {"count_head": "nb", "pooling": "max", "pruning": "deviation"},
    ],
    ids=str,
)
def test_a_fit_leaves_no_parameter_without_a_gradient(data, changes):
    method, context = fitted(data, **changes)
    assert context.idle_parameters == []
    names = {name.split(".")[0] for name, _ in method.network.named_parameters()}
    views = method.config.bake if method.config.distillation else 0
    assert ("coef" in names) == (views > 1)
    counted = method.config.count_head if method.config.zinb > 0 else None
    assert ({"mean", "disp", "pi"} <= names) == (counted == "zinb")
    assert ({"hr", "hp"} <= names) == (counted == "nb")


def test_curves_hold_the_parts_of_the_loss(usual):
    config, curves = usual[0].config, usual[1].curves
    assert [row["epoch"] for row in curves] == [0, 1]
    for row in curves:
        whole = row["mse"] + config.zinb * row["counts"] + config.distillation * row["distillation"]
        assert row["train_loss"] == pytest.approx(whole, rel=1e-5)


def test_the_count_loss_is_the_likelihood_of_zero_inflated_counts():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (7, 4)).astype(np.float64)
    counts[0] = [0, 1, 900, 0]
    mean, dispersion = rng.gamma(2.0, 2.0, (2, 7, 4))
    mean[0], dispersion[0] = [1e-5, 1e4, 1e-3, 500], [1e-4, 1e4, 1e-4, 1e4]
    dropout = rng.uniform(0.01, 0.99, (7, 4))
    chance = scipy.stats.nbinom.logpmf(counts, dispersion, dispersion / (dispersion + mean))
    seen = np.log1p(-dropout) + chance
    wanted = -np.where(counts == 0, np.logaddexp(np.log(dropout), seen), seen)
    given = (torch.from_numpy(values) for values in (counts, mean, dispersion, dropout))
    assert float(count_loss(*given)) == pytest.approx(wanted.mean(), rel=1e-6)


def test_the_count_loss_and_its_gradient_stay_finite_at_the_ends():
    counts = torch.tensor([[0.0, 0.0, 1e5, 1e5, 0.0]])
    mean = torch.tensor([[1e-5, 1e6, 1e-5, 1e6, 0.0]], requires_grad=True)
    dispersion = torch.tensor([[1e-4, 1e4, 1e4, 1e-4, 1e4]], requires_grad=True)
    dropout = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.5]], requires_grad=True)
    loss = count_loss(counts, mean, dispersion, dropout)
    loss.backward()
    assert all(torch.isfinite(v).all() for v in (loss, mean.grad, dispersion.grad, dropout.grad))


def test_the_plain_count_loss_is_the_likelihood_of_negative_binomial_counts():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (7, 4)).astype(np.float64)
    counts[0] = [0, 1, 900, 0]
    log_dispersion, logit = rng.standard_normal((2, 7, 4))
    # Successes have the chance 1 - sigmoid(logit); the term of counts alone is left out.
    chance = 1 / (1 + np.exp(logit))
    whole = scipy.stats.nbinom.logpmf(counts, np.exp(log_dispersion), chance)
    wanted = -(whole + scipy.special.gammaln(counts + 1)).sum(axis=1).mean()
    given = (torch.from_numpy(values) for values in (counts, log_dispersion, logit))
    assert float(plain_count_loss(*given)) == pytest.approx(wanted, rel=1e-9)


def test_a_spot_without_neighbours_is_an_error_of_the_released_maximum(network, batch):
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])  # none of the last spot
    images = torch.rand(5, 3, 14, 14)
    network.pooling = "max"
    assert torch.isfinite(network(images, batch["position"], edges)).all()
    network.as_released = True
    with pytest.raises(DataError, match="a spot has no neighbour"):
        network(images, batch["position"], edges)


def test_what_a_checkpoint_does_not_tell_is_noted(usual, data):
    method, _ = usual
    context = Context()
    config = method.config.model_copy(update={"pooling": "max"})
    released = Hist2ST.from_released(method.network.state_dict(), config, data, context)
    assert released.network.pooling == "max"
    (note,) = context.notes
    assert note.startswith("the checkpoint does not tell heads=")
    assert note.endswith("pooling=max: taken from the settings")


def test_size_factors_are_totals_over_their_median():
    counts = np.array([[1, 1], [4, 0], [0, 0], [5, 1]], dtype=np.float32)
    np.testing.assert_allclose(size_factors(counts), np.array([2, 4, 0, 6]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(size_factors(np.eye(3) * np.array([7, 0, 0])), [1, 1, 1])
    assert size_factors(counts).dtype == np.float32


def test_views_are_weighed_by_the_softmax_of_their_coefficients():
    rng = np.random.default_rng(0)
    predictions, coefficients = rng.standard_normal((3, 4, 2)), rng.standard_normal((3, 4, 1))
    weights = np.exp(coefficients) / np.exp(coefficients).sum(axis=0)
    wanted = (weights * predictions).sum(axis=0)
    found = distil(torch.from_numpy(predictions), torch.from_numpy(coefficients))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_the_distillation_teaches_both_sides(network, batch):
    images = torch.rand(5, 3, 14, 14, requires_grad=True)
    views = [torch.rand(5, 3, 14, 14, requires_grad=True) for _ in range(2)]
    loss = section_losses(network.eval(), images, views, batch, counts=False)["distillation"]
    gradients = torch.autograd.grad(loss, [images, *views])
    assert all(gradient.any() for gradient in gradients)


def test_a_single_view_is_compared_as_it_is(network, batch):
    images, view = torch.rand(2, 5, 3, 14, 14)
    network.eval()
    with torch.inference_mode():
        parts = section_losses(network, images, [view], batch, counts=False)
        plain, other = (
            network.gene_head(network(part, batch["position"], batch["edges"]))
            for part in (images, view)
        )
    torch.testing.assert_close(parts["distillation"], (plain - other).square().mean())
    assert set(parts) == {"mse", "distillation"}


def module_of(network, **changes):
    config = Hist2ST.configure("small", "tiny", changes)
    module = Hist2STModule(network, config)
    module.logged = {}
    module.log = lambda name, value, **options: module.logged.update({name: value.detach()})
    return module


def test_a_view_is_one_draw_for_the_whole_section(network):
    torch.manual_seed(3)
    patch = torch.rand(1, 3, 14, 14)
    module = module_of(network)
    views = [module.change(patch.expand(4, -1, -1, -1)) for _ in range(60)]
    assert all(torch.equal(view, view[:1].expand_as(view)) for view in views)
    assert len({view[0].numpy().tobytes() for view in views}) > 50
    grey = sum(torch.equal(view[:, 0], view[:, 1]) for view in views)
    assert 0 < grey < 20, "one in ten loses its colours"
    assert not torch.equal(patch[:, 0], patch[:, 1])


def test_the_views_of_a_step_follow_from_the_seed(network, batch):
    module = module_of(network, bake=3)
    torch.manual_seed(0)
    first = module.training_step(batch)
    torch.manual_seed(0)
    network.load_state_dict(network.state_dict())
    second = module.training_step(batch)
    torch.manual_seed(1)
    third = module.training_step(batch)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_step_takes_no_views_where_the_distillation_weighs_nothing(network, batch):
    module = module_of(network, distillation=0.0, zinb=0.0)
    module.change = None
    module.training_step(batch)
    assert set(module.logged) == {"train_loss", "mse"}


def test_validation_is_the_squared_error_of_unchanged_patches(network, batch):
    module = module_of(network.eval())
    module.change = None
    module.validation_step(batch)
    images = batch["patches"].transpose(2, 3).float() / 255
    with torch.inference_mode():
        prediction = network.gene_head(network(images, batch["position"], batch["edges"]))
    wanted = np.square(prediction.numpy() - batch["target"].numpy()).mean()
    assert float(module.logged["val_loss"]) == pytest.approx(wanted, rel=1e-5)


def test_the_rate_falls_every_so_many_epochs(network):
    module = module_of(network, learning_rate=1.0, decay=0.9, decay_epochs=3)
    chosen = module.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [1, 1, 1, 0.9, 0.9, 0.9, 0.81])


def test_the_rate_falls_in_a_fit(data, monkeypatch):
    rates = []
    usual = Hist2STModule.training_step

    def watched(module, batch):
        rates.append(module.optimizers().param_groups[0]["lr"])
        return usual(module, batch)

    monkeypatch.setattr(Hist2STModule, "training_step", watched)
    fitted(data, learning_rate=1e-3, decay=0.5, decay_epochs=1, epochs=3)
    np.testing.assert_allclose(rates, np.repeat([1e-3, 5e-4, 2.5e-4], 3))  # three sections


def test_dropout_comes_before_the_mixer_and_is_off_when_predicting(network):
    network.dropout.p = 0.5
    network.vit.eval()
    images = torch.rand(2, 3, 14, 14)
    network.dropout.train()
    assert not torch.equal(network.embed_patches(images), network.embed_patches(images))
    network.eval()
    assert torch.equal(network.embed_patches(images), network.embed_patches(images))


def test_a_spots_own_patch_reaches_it_through_its_neighbours_alone(network):
    network.eval()
    network.vit["transformer"].layer2 = torch.nn.Sequential()  # or all spots know of all
    images = torch.rand(5, 3, 14, 14)
    other = images.clone()
    other[2] = torch.rand(3, 14, 14)
    one_way = torch.tensor([[0, 1, 2, 3, 4], [2, 2, 0, 4, 3]])
    with torch.inference_mode():
        layers = [
            network.vit["transformer"].graph(network.embed_patches(part), one_way, neighbour_mean)
            for part in (images, other)
        ]
    changed = (layers[0] != layers[1]).any(dim=2)
    assert changed.tolist() == [
        [True, True, False, False, False],
        [False, False, True, False, False],
    ]


def far(section, spots):
    """The section with some spots moved out of reach of all others."""
    array_xy = section.array_xy.copy()
    array_xy[spots] += np.array([0, 10]) * (1 + np.arange(len(spots)))[:, None]
    return replace(section, array_xy=array_xy)


def test_a_spot_without_neighbours_is_predicted_unless_as_released(usual, slide, tmp_path):
    method, moved = usual[0], far(slide, [4])
    method.save(tmp_path)
    config = Hist2ST.configure("small", "tiny", {"as_released": True})
    released = Hist2ST.load(tmp_path, config)
    np.testing.assert_allclose(predict(released, slide), predict(method, slide), atol=1e-5)
    assert np.isfinite(predict(method, moved)).all()
    assert np.isnan(predict(released, moved)).all()


def test_as_released_training_with_a_lone_spot_ends_in_one_line(data):
    lonely = replace(data, train=(far(data.train[0], [4, 9]), data.train[1]))
    with pytest.raises(TrainingError, match=r"^training diverged: loss nan in epoch 0$"):
        fitted(lonely, as_released=True)
    assert fitted(lonely)[1].idle_parameters == []


@pytest.mark.parametrize("shift", [64, -3])
def test_a_position_outside_the_tables_is_refused(usual, data, slide, shift):
    with pytest.raises(ConfigError, match=r"B1 has positions .* 64 rows"):
        predict(usual[0], replace(slide, array_xy=slide.array_xy + shift))
    sections = tuple(replace(s, array_xy=s.array_xy + shift) for s in data.train)
    with pytest.raises(ConfigError, match=r"A1 has positions"):
        fitted(replace(data, train=sections))


def test_patches_need_one_size_of_whole_tiles(data):
    with pytest.raises(ConfigError, match="set input_size, or patch_size in pixels"):
        fitted(data, input_size=None)
    with pytest.raises(ConfigError, match="16 pixels a side are not cut into whole tiles of 7"):
        fitted(data, input_size=16)


def test_a_checkpoint_of_another_panel_or_patch_size_is_refused(usual, data):
    state, config = usual[0].network.state_dict(), usual[0].config
    assert Hist2ST.from_released(state, config, data, Context()).network.genes == GENES
    with pytest.raises(DataError, match=r"6 genes.*has 5"):
        Hist2ST.from_released(state, config, replace(data, panel=data.panel[:5]), Context())
    other = Hist2ST.configure("small", "tiny", {"input_size": 28})
    with pytest.raises(ConfigError, match=r"patches of 14 pixels .* give 28"):
        Hist2ST.from_released(state, other, data, Context())


def test_authors_settings():
    config = Hist2ST.configure("her2st", "authors")
    assert (config.patch_size, config.input_size, config.pixels) == (112, None, "raw255")
    assert (config.mixer_kernel, config.tile_size, config.channels) == (5, 7, 32)
    assert (config.mixer_layers, config.attention_layers, config.graph_layers) == (2, 8, 4)
    assert (config.heads, config.head_dim, config.hidden, config.dropout) == (16, 64, 1024, 0.2)
    assert (config.neighbours, config.graph_radius, config.as_released) == (4, 2.0, False)
    assert (config.zinb, config.bake, config.distillation) == (0.25, 5, 0.5)
    assert (config.learning_rate, config.decay, config.decay_epochs) == (1e-5, 0.9, 50)
    assert config.epochs == 350
    assert Hist2ST.unit == "section"
