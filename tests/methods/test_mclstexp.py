import numpy as np
import pytest
import torch

from bench.api import ConfigError, Context
from bench.blocks.attention import symmetric_contrastive_loss
from bench.contract.small_fold import GENES, SPOTS, as_slide
from bench.methods.mclstexp import MclSTExp, key_contexts
from bench.methods.mclstexp.network import MclSTExpModule, MclSTExpNetwork
from tests.methods.fits import CONFIGURED, fitted_by, predict

SMALL = CONFIGURED["mclstexp"][2]
fitted = fitted_by("mclstexp")


@pytest.fixture(scope="module")
def usual(data):
    return fitted(data)


def test_curves_hold_the_loss_beside_its_chance_level(data):
    curves = fitted(data, batch_size=8)[1].curves
    assert [row["epoch"] for row in curves] == [0, 1]
    # 60 spots in batches of 8: seven of 8 and one of 4.
    chance = (56 * np.log(8) + 4 * np.log(4)) / 60
    assert curves[0]["chance_level"] == pytest.approx(chance, rel=1e-5)
    assert all(np.isfinite(row["train_loss"]) for row in curves)


def test_a_fixed_number_of_epochs_trains_on_validation_too_and_patience_does_not(data):
    fixed, _ = fitted(data, epochs=1)
    early, context = fitted(data, epochs=3, patience=1)
    # 24 and 16 batches of steps cannot be told apart from outside; the loss curve can.
    assert "val_loss" in context.curves[0]
    assert len(fixed.keys) == len(early.keys) == 3 * SPOTS


def test_augmenting_at_test_follows_from_the_seed(data, slide):
    method, _ = fitted(data, augment="jitter_flip_rotate", augment_at_test=True)
    first, second = predict(method, slide), predict(method, slide)
    np.testing.assert_array_equal(first, second)
    in_company = method.predict([as_slide(data.train[0]), slide], Context(seed=1))[1]
    np.testing.assert_array_equal(first, in_company)
    other = method.predict([slide], Context(seed=2))[0]
    assert not np.array_equal(first, other)


def test_positions_in_pixels_are_row_and_column(data):
    with pytest.raises(ConfigError, match="tables have 128 rows"):
        fitted(data, position="pixel")
    method, _ = fitted(data, position="pixel", position_rows=1000)
    position = method.training_arrays(data.train[0])["position"]
    np.testing.assert_array_equal(position[3], [20, 140])


@pytest.mark.parametrize(("position", "rows"), [("none", 1), ("sinusoid", 20)])
def test_fixed_positions_stay_as_they_were(data, slide, position, rows, tmp_path):
    method, _ = fitted(data, position=position, position_rows=None)
    tables = [method.network.x_embed.weight, method.network.y_embed.weight]
    angles = np.arange(rows)[:, None] / 10_000.0 ** (2 * (np.arange(GENES) // 2) / GENES)
    waves = np.where(np.arange(GENES) % 2 == 0, np.sin(angles), np.cos(angles))
    expected = np.zeros((1, GENES)) if position == "none" else waves
    for table in tables:
        np.testing.assert_allclose(table.detach(), expected, atol=1e-6)
    method.save(tmp_path)
    again = MclSTExp.load(tmp_path, method.config)
    np.testing.assert_array_equal(predict(again, slide), predict(method, slide))


def test_the_share_of_images_weighs_the_two_halves_of_the_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 6, generator=generator)
    chances = [torch.log_softmax(logits, dim=dim).diagonal().neg().mean() for dim in (1, 0)]
    for share in (0.0, 0.3, 0.5, 1.0):
        expected = (1 - share) * chances[0] + share * chances[1]
        torch.testing.assert_close(symmetric_contrastive_loss(logits, share), expected)


@pytest.mark.parametrize("setting", [{"image_share": 0.0}, {"distance": "cosine"}])
def test_an_ablation_changes_the_predictions(data, slide, usual, setting):
    method, _ = fitted(data, **setting)
    assert not np.array_equal(predict(method, slide), predict(usual[0], slide))


@pytest.mark.parametrize(("asked", "rows"), [(None, 20), (65536, 65536)])
def test_position_tables_have_the_rows_that_the_training_spots_need(data, asked, rows):
    assert max(section.array_xy.max() for section in data.sections) == 19
    method, _ = fitted(data, position_rows=asked)
    assert method.network.x_embed.num_embeddings == rows
    assert method.network.y_embed.num_embeddings == rows


def test_keys_do_not_mix_sections_when_the_context_is_the_section():
    assert list(key_contexts([3, 5], "section")) == [(0, 3), (3, 8)]
    assert list(key_contexts([3, 5], 3)) == [(0, 3), (3, 6), (6, 8)]
    assert list(key_contexts([3], 3)) == [(0, 3)]


def test_every_parameter_gets_a_gradient_unless_frozen():
    config = MclSTExp.configure("tiny", "quick", {**SMALL, "position_rows": 4})
    network = MclSTExpNetwork(
        GENES, encoder="test_resnet", position_rows=4, heads=2, head_dim=8, projection_dim=16
    )
    module = MclSTExpModule(network, config)
    module.log = lambda *arguments, **options: None
    torch.manual_seed(0)
    batch = {
        "patches": torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8),
        "expression": torch.rand(8, GENES),
        "position": torch.randint(0, 4, (8, 2)),
    }
    module.training_step(batch).backward()
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
        None,
    )
    assert (default.learning_rate, default.weight_decay, default.batch_size) == (1e-4, 1e-3, 128)
