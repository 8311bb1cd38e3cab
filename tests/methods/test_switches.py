"""What holds for a fit of every network: each parameter is trained, each setting has an effect."""

import numpy as np
import pytest

from tests.methods.fits import fit, predict

pytestmark = pytest.mark.slow

SWITCHES = {
    "bleep": [
        {"as_released": True},
        {"encoder": "test_convnext"},
        {"input_size": 24},
        {"pixels": "bgr255"},
        {"pixels": "rgb01"},
        {"augment": "none"},
        {"augment": "jitter_flip_rotate"},
        {"augment_at_test": True},
        {"projection_dim": 32},
        {"dropout": 0.4},
        {"temperature": 30.0},
        {"learning_rate": 1e-2},
        {"weight_decay": 0.5},
        {"batch_size": 16},
        {"epochs": 1},
        {"top_k": 2},
        {"weighting": "exponential"},
        {"weighting": "inverse_square"},
    ],
    "hist2st": [
        {"pixels": "raw255"},
        {"patch_size": 20},
        {"input_size": 21},
        {"tile_size": 2},
        {"channels": 8},
        {"mixer_kernel": 5},
        {"mixer_layers": 2},
        {"attention_layers": 2},
        {"heads": 4},
        {"head_dim": 4},
        {"hidden": 8},
        {"graph_layers": 3},
        {"dropout": 0.4},
        {"position_rows": 21},
        {"neighbours": 2},
        {"graph_radius": None},
        {"zinb": 0.0},
        {"bake": 3},
        {"distillation": 2.0},
        {"learning_rate": 1e-2},
        {"decay": 0.5, "decay_epochs": 1},
        {"epochs": 1},
        {"patience": 1},
    ],
    "histogene": [
        {"pixels": "raw255"},
        {"patch_size": 20},
        {"input_size": 8},
        {"as_released_cscc": True},
        {"position_rows": 21},
        {"dim": 16},
        {"layers": 2},
        {"heads": 4},
        {"head_dim": 4},
        {"hidden": 8},
        {"dropout": 0.4},
        {"learning_rate": 1e-2},
        {"epochs": 1},
        {"patience": 1},
    ],
    "mclstexp": [
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
    "thitogene": [
        {"pixels": "rgb01"},
        {"patch_size": 36},
        {"input_size": 34},
        {"stem": 1},
        {"channels": (8, 16, 32, 32, 64)},
        {"capsules": 3},
        {"layers": 0},
        {"neighbours": 2},
        {"gat_heads": 1},
        {"dropout": 0.0},
        {"norm_momentum": 0.1},
        {"as_released": True},
        {"start_at_mean": False},
        {"learning_rate": 1e-4},
        {"epochs": 1},
    ],
    "triplex": [
        {"variant": "cvpr"},
        {"encoder": "test_vit", "input_size": 160},
        {"input_size": 24},
        {"pixels": "rgb01"},
        {"target_channels": 6},
        {"tiles": 3},
        {"depth": (2, 2, 1)},
        {"depth": (1, 3, 1)},
        {"depth": (1, 2, 2)},
        {"heads": (2, 4, 4)},
        {"heads": (4, 2, 4)},
        {"heads": (4, 4, 2)},
        {"mlp_ratio": (2, 1, 1)},
        {"dropout": (0.4, 0.1, 0.1)},
        {"dropout": (0.1, 0.4, 0.1)},
        {"dropout": (0.1, 0.1, 0.4)},
        {"kernel": 5},
        {"distillation": 0.0},
        {"start_at_mean": False},
        {"clamp_training": True},
        {"as_released": True},
        {"as_released": ("dropout",)},
        {"as_released": ("mask",)},
        {"as_released": ("mean",)},
        {"augment": False},
        {"optimizer": "adam"},
        {"weight_decay": 0.5},
        {"schedule": "step", "decay": 0.5, "decay_epochs": 1},
        {"learning_rate": 1e-2},
        {"batch_size": 16},
        {"epochs": 1},
        {"patience": 1},
    ],
}
"""Changes of one setting by method; each must show in the prediction."""


@pytest.fixture(scope="module")
def usual(data):
    """The usual fit of a method, made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = fit(name, data)
        return made[name]

    return of


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_every_parameter_gets_a_gradient_and_every_epoch_a_row(usual, name):
    method, context = usual(name)
    assert context.idle_parameters == []
    assert [row["epoch"] for row in context.curves] == list(range(method.config.epochs))


@pytest.mark.parametrize(
    ("name", "change"),
    [(name, change) for name, changes in SWITCHES.items() for change in changes],
    ids=lambda value: (
        value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items())
    ),
)
def test_every_switch_changes_the_prediction(usual, data, slide, name, change):
    method, _ = usual(name)
    assert any(getattr(method.config, key) != value for key, value in change.items())
    other, _ = fit(name, data, **change)
    assert not np.array_equal(predict(other, slide), predict(method, slide))
