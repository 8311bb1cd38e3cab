from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api import ConfigError, Context, TrainingData, TrainingSection
from bench.data.patches import PatchSource
from bench.data.views import Slide
from bench.methods.mclstexp import MclSTExp
from bench.methods.mclstexp.network import MclSTExpNetwork
from bench.methods.mclstexp.recipe import MclSTExpRecipe

GENES, SPOTS = 6, 20
SMALL = {"input_size": 32, "epochs": 2, "batch_size": 8, "top_k": 5, "heads": 2, "head_dim": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three sections; the first gene is the brightness of the patch."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    sections = []
    for number, name in enumerate(("A1", "A2", "B1")):
        level = rng.integers(0, 256, SPOTS)
        pixels = np.zeros((40, 40 * SPOTS, 3), dtype=np.uint8)
        for spot, value in enumerate(level):
            pixels[:, 40 * spot : 40 * spot + 40] = value
        pixels[:10] //= 2  # a patch is not its own mirror image
        path = folder / f"{name}.png"
        Image.fromarray(pixels).save(path)
        spatial = np.stack([20.0 + 40 * np.arange(SPOTS), np.full(SPOTS, 20.0)], axis=1)
        target = rng.random((SPOTS, GENES), dtype=np.float32)
        target[:, 0] = level / 64
        sections.append(
            TrainingSection(
                name=name,
                array_xy=np.stack([np.arange(SPOTS), np.full(SPOTS, number)], axis=1),
                spatial=spatial,
                patch_pixels=40,
                patch_source=PatchSource(path, f"test:{path}", 10**6, spatial),
                patient=name[0],
                expression=target,
                target=target,
                counts=target,
            )
        )
    panel = tuple(f"G{i}" for i in range(GENES))
    return TrainingData(panel, tuple(sections[:2]), tuple(sections[2:]))


@pytest.fixture(scope="module")
def slide(data):
    section = data.validation[0]
    return Slide("test", section.array_xy, section.spatial, 40, section.patch_source)


def fitted(data, **changes):
    method = MclSTExp(MclSTExp.configure("tiny", "quick", {**SMALL, **changes}))
    context = Context(seed=1)
    method.fit(data, context)
    return method, context


def predict(method, slide):
    return method.predict([slide], Context(seed=1))[0]


@pytest.fixture(scope="module")
def usual(data):
    return fitted(data)


def test_prediction_is_finite_float32_within_the_range_of_the_targets(usual, slide, data):
    prediction = predict(usual[0], slide)
    assert prediction.shape == (SPOTS, GENES)
    assert prediction.dtype == np.float32
    targets = np.concatenate([section.target for section in data.sections])
    assert (prediction >= targets.min(axis=0) - 1e-6).all()
    assert (prediction <= targets.max(axis=0) + 1e-6).all()


def test_the_same_seed_gives_the_same_bits(usual, data, slide):
    again, context = fitted(data)
    np.testing.assert_array_equal(predict(again, slide), predict(usual[0], slide))
    assert context.curves == usual[1].curves


def test_save_and_load_give_the_same_bits(usual, slide, tmp_path):
    method = usual[0]
    method.save(tmp_path)
    loaded = MclSTExp.load(tmp_path, method.config)
    np.testing.assert_array_equal(predict(loaded, slide), predict(method, slide))
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".pt", ".pkl", ".ckpt"}]


def test_curves_hold_the_loss_beside_its_chance_level(usual):
    curves = usual[1].curves
    assert [row["epoch"] for row in curves] == [0, 1]
    # 60 spots in batches of 8: seven of 8 and one of 4.
    chance = (56 * np.log(8) + 4 * np.log(4)) / 60
    assert curves[0]["chance_level"] == pytest.approx(chance, rel=1e-5)
    assert all(np.isfinite(row["train_loss"]) for row in curves)


def test_input_is_left_as_it_was(data):
    before = [section.expression.copy() for section in data.sections]
    fitted(data, epochs=1)
    for section, expression in zip(data.sections, before, strict=True):
        np.testing.assert_array_equal(section.expression, expression)


def test_a_fixed_number_of_epochs_trains_on_validation_too_and_patience_does_not(data):
    fixed, _ = fitted(data, epochs=1)
    early, context = fitted(data, epochs=3, patience=1)
    # 24 and 16 batches of steps cannot be told apart from outside; the loss curve can.
    assert "val_loss" in context.curves[0]
    assert len(fixed._keys) == len(early._keys) == 3 * SPOTS


def test_patience_without_validation_sections_is_refused(data):
    with pytest.raises(ConfigError, match="validation"):
        fitted(replace(data, validation=()), patience=1)


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": "bgr255"},
        {"pixels": "imagenet"},
        {"augment": "none"},
        {"augment": "jitter_flip_rotate"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"temperature": 4.0},
        {"distance": "l1"},
        {"weighting": "mean"},
        {"top_k": 2},
        {"key_context": "section"},
        {"key_context": 7},
        {"freeze_encoder": True},
        {"encoder": "test_convnext"},
        {"layers": 1},
        {"dropout": 0.3},
        {"projection_dim": 32},
        {"learning_rate": 1e-2},
    ],
    ids=lambda change: next(iter(change)) + "=" + str(next(iter(change.values()))),
)
def test_every_switch_changes_the_prediction(usual, data, slide, change):
    method, _ = fitted(data, **change)
    assert not np.array_equal(predict(method, slide), predict(usual[0], slide))


def test_augmenting_at_test_follows_from_the_seed(data, slide):
    method, _ = fitted(data, augment="jitter_flip_rotate", augment_at_test=True)
    first, second = predict(method, slide), predict(method, slide)
    np.testing.assert_array_equal(first, second)
    other = method.predict([slide], Context(seed=2))[0]
    assert not np.array_equal(first, other)


def test_positions_in_pixels_are_row_and_column(data):
    method = MclSTExp(MclSTExp.configure("tiny", "quick", {**SMALL, "position": "pixel"}))
    with pytest.raises(ConfigError, match="position_rows is 128"):
        method._position(data.train[0])
    method = MclSTExp(
        MclSTExp.configure("tiny", "quick", {"position": "pixel", "position_rows": 1000})
    )
    position = method._position(data.train[0])
    np.testing.assert_array_equal(position[3], [20, 140])


def test_keys_do_not_mix_sections_when_the_context_is_the_section(usual):
    method = MclSTExp(MclSTExp.configure("tiny", "quick", {"key_context": "section"}))
    assert list(method._contexts([3, 5])) == [(0, 3), (3, 8)]
    method = MclSTExp(MclSTExp.configure("tiny", "quick", {"key_context": 3}))
    assert list(method._contexts([3, 5])) == [(0, 3), (3, 6), (6, 8)]
    assert list(method._contexts([3])) == [(0, 3)]


def test_every_parameter_gets_a_gradient_unless_frozen():
    config = MclSTExp.configure("tiny", "quick", {**SMALL, "position_rows": 4})
    network = MclSTExpNetwork(
        GENES, encoder="test_resnet", position_rows=4, heads=2, head_dim=8, projection_dim=16
    )
    recipe = MclSTExpRecipe(network, config)
    recipe.log = lambda *arguments, **options: None
    torch.manual_seed(0)
    batch = {
        "patches": torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8),
        "expression": torch.rand(8, GENES),
        "position": torch.randint(0, 4, (8, 2)),
    }
    recipe.training_step(batch).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None]
    assert not silent


def test_authors_settings_by_dataset():
    assert MclSTExp.configure("her2st", "authors").top_k == 200
    assert MclSTExp.configure("her2st", "authors").distance == "l1"
    assert MclSTExp.configure("cscc", "authors").top_k == 600
    visium = MclSTExp.configure("alex10x", "authors")
    assert (visium.pixels, visium.augment_at_test, visium.position) == ("bgr255", True, "pixel")
    default = MclSTExp.configure("another", "authors")
    assert (default.encoder, default.weights, default.position_rows) == (
        "densenet121",
        "imagenet",
        65536,
    )
    assert (default.learning_rate, default.weight_decay, default.batch_size) == (1e-4, 1e-3, 128)


def test_search_space_gives_valid_settings():
    class Trial:
        def suggest_float(self, name, low, high, log=False):
            return high

        def suggest_categorical(self, name, choices):
            return choices[-1]

    changes = MclSTExp.search_space(Trial())
    assert MclSTExp.configure("tiny", "quick", changes).projection_dim == 1024


def test_an_empty_fold_is_refused(data):
    with pytest.raises(ConfigError, match="no training spot"):
        fitted(TrainingData(data.panel, (), ()))
