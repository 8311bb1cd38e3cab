import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.api import Context, DataError, TrainingData
from bench.blocks.images import to_network_scale
from bench.contract.small_fold import GENES, SPOTS, as_slide
from bench.methods.bleep import Bleep, BleepConfig
from bench.methods.bleep.network import BleepModule, BleepNetwork
from tests.methods.fits import fitted_by, predict

fitted = fitted_by("bleep")


def settings(**changes):
    return Bleep.configure("small", "tiny", changes)


@pytest.fixture(scope="module")
def usual(data):
    return fitted(data)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(5)
    return BleepNetwork(GENES, encoder="test_resnet").state_dict()


def test_curves_hold_the_loss_beside_its_chance_level(data):
    curves = fitted(data, batch_size=8)[1].curves
    assert [row["epoch"] for row in curves] == [0, 1]
    # 60 spots in batches of 8: seven of 8 and one of 4, which is kept.
    chance = (56 * np.log(8) + 4 * np.log(4)) / 60
    assert curves[0]["chance_level"] == pytest.approx(chance, rel=1e-5)
    assert all(np.isfinite(row["train_loss"]) for row in curves)


def test_expression_that_tells_no_pair_from_another_is_noted_and_other_is_not(data):
    flat = TrainingData(
        data.panel,
        tuple(
            replace(section, expression=np.ones_like(section.expression))
            for section in data.sections
        ),
    )
    chance = [
        any("training ended at chance" in note for note in context.notes)
        for _, context in (
            fitted(sections, epochs=4, temperature=16.0) for sections in (data, flat)
        )
    ]
    assert chance == [False, True]


def test_early_stopping_keeps_validation_sections_out_of_training_but_in_the_bank(data, usual):
    method, context = fitted(data, epochs=3, patience=1, batch_size=16)
    assert "val_loss" in context.curves[0]
    # 40 spots in batches of 16: two of 16 and one of 8; the validation section would add 20.
    chance = (32 * np.log(16) + 8 * np.log(8)) / 40
    assert context.curves[0]["chance_level"] == pytest.approx(chance, rel=1e-5)
    assert "val_loss" not in usual[1].curves[0]
    assert len(method.keys) == len(usual[0].keys) == 3 * SPOTS


def test_a_prediction_is_the_mean_target_of_the_spots_nearest_by_cosine(usual, data, slide):
    method = usual[0]
    network = method.network.eval()

    def embedded(section):
        patches = torch.from_numpy(section.patches(None, 32).copy()).permute(0, 3, 1, 2)
        return network.embed_images(to_network_scale(patches, "imagenet")).numpy()

    with torch.inference_mode():
        expression = np.concatenate([section.expression for section in data.sections])
        keys = network.embed_spots(torch.from_numpy(expression)).numpy().astype(np.float64)
        queries = embedded(slide).astype(np.float64)
    targets = np.concatenate([section.target for section in data.sections])
    for query, found in zip(queries, predict(method, slide), strict=True):
        cosine = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:5]
        np.testing.assert_allclose(found, targets[nearest].mean(axis=0), rtol=1e-5)


def test_released_patches_are_bgr_and_changed_at_random_when_predicting(data, slide):
    method, _ = fitted(data, as_released=True)
    assert (method.config.pixels, method.config.augment_at_test) == ("bgr255", True)
    spelled, _ = fitted(data, pixels="bgr255", augment_at_test=True)
    np.testing.assert_array_equal(predict(method, slide), predict(spelled, slide))
    other = method.predict([slide], Context(seed=2))[0]
    assert not np.array_equal(predict(method, slide), other)


def test_a_slide_augmented_at_test_is_predicted_the_same_alone_and_in_company(data, slide):
    method, _ = fitted(data, augment_at_test=True)
    company = [as_slide(data.train[0]), slide]
    np.testing.assert_array_equal(
        method.predict(company, Context(seed=1))[1], predict(method, slide)
    )


@pytest.mark.parametrize("word", [True, "true", 1])
def test_what_is_set_itself_wins_over_as_released(word):
    config = BleepConfig(as_released=word, pixels="rgb01")
    assert (config.pixels, config.augment_at_test) == ("rgb01", True)
    assert BleepConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_released_checkpoint_predicts_with_a_bank_of_the_fold(state, data, slide, tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "best.pt")
    context = Context(seed=1)
    method = Bleep.from_released(tmp_path / "best.pt", settings(), data, context)
    given = Bleep.from_released(state, settings(), data, context)
    assert method.keys.shape == (3 * SPOTS, 256)
    found = predict(method, slide)
    assert found.shape == (SPOTS, GENES)
    np.testing.assert_array_equal(found, predict(given, slide))
    method.save(tmp_path)
    np.testing.assert_array_equal(found, predict(Bleep.load(tmp_path, settings()), slide))


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda state: without(state, "image_projection.fc.bias"),
            "missing, first 'image_projection.fc.bias'",
        ),
        (
            lambda state: without(state, "spot_projection.projection.weight"),
            "'spot_projection.projection.weight' is missing",
        ),
        (
            lambda state: {**state, "x_embed.weight": torch.zeros(9, GENES)},
            "unexpected tensors, first 'x_embed.weight'",
        ),
        (
            lambda state: {**state, "well_projection.fc.bias": torch.zeros(256)},
            "unexpected tensors, first 'well_projection.fc.bias'",
        ),
        (
            lambda state: {**state, "image_projection.fc.weight": torch.zeros(9, 256)},
            r"'image_projection.fc.weight' is \(9, 256\), not \(256, 256\)",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_the_tensor(state, damage, message):
    with pytest.raises(DataError, match=message):
        BleepNetwork.from_released(damage(state), encoder="test_resnet")


def test_a_checkpoint_of_another_encoder_or_panel_is_refused(state, data, tmp_path):
    with pytest.raises(DataError, match=r"tensors missing, first 'image_encoder\.model\."):
        BleepNetwork.from_released(state)
    path = tmp_path / "best.pt"
    torch.save(BleepNetwork(7, encoder="test_resnet").state_dict(), path)
    for source, name in ((path, str(path)), (torch.load(path), "the given tensors")):
        with pytest.raises(DataError, match=f"^{re.escape(name)}: the checkpoint is of 7 genes"):
            Bleep.from_released(source, settings(), data, Context())


def test_a_training_step_is_adamw_on_the_loss_of_augmented_pairs(state):
    config = settings(weight_decay=0.5)
    network = BleepNetwork(GENES, encoder="test_resnet")
    network.load_state_dict(state)
    optimiser = BleepModule(network, config).configure_optimizers()
    (group,) = optimiser.param_groups
    assert type(optimiser) is torch.optim.AdamW
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.5)
    assert len(group["params"]) == len(list(network.parameters()))


def test_authors_settings_are_the_released_ones():
    config = Bleep.configure("her2st", "authors")
    assert (config.encoder, config.weights, config.patch_size) == ("resnet50", "imagenet", 224)
    assert (config.learning_rate, config.weight_decay) == (1e-3, 1e-3)
    assert (config.batch_size, config.epochs, config.temperature) == (128, 4, 1.0)
    assert (config.projection_dim, config.dropout) == (256, 0.1)
    assert (config.top_k, config.weighting) == (50, "mean")
    assert (config.pixels, config.augment_at_test) == ("imagenet", False)


def test_settings_are_all_described():
    text = "".join(
        kind.__doc__ for kind in BleepConfig.__mro__ if kind.__module__.startswith("bench")
    )
    assert all(name in text for name in BleepConfig.model_fields)
