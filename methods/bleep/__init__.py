"""BLEEP: contrastive learning with soft targets, prediction by retrieval.

Xie R. et al., "Spatially Resolved Gene Expression Prediction from H&E Histology Images via
Bi-modal Contrastive Learning", NeurIPS 2023, arXiv 2306.01859.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.api import (
    Context,
    MethodConfig,
    PatchSize,
    RetrievalConfig,
    RetrievalMethod,
    TrainingData,
)

if TYPE_CHECKING:
    from bench.methods.bleep.network import BleepModule, BleepNetwork

Pixels = Literal["rgb01", "bgr255", "imagenet", "encoder"]

_QUICK = {
    "encoder": "test_resnet",
    "weights": "none",
    "patch_size": None,
    "input_size": 32,
    "batch_size": 64,
    "epochs": 10,
}


def _released_pixels(settings: dict[str, Any]) -> Pixels:
    return "bgr255" if settings.get("as_released") else "imagenet"


def _released_augment_at_test(settings: dict[str, Any]) -> bool:
    return bool(settings.get("as_released"))


class BleepConfig(RetrievalConfig):
    """Settings of BLEEP; the defaults are those of the released training.

    Attributes
    ----------
    as_released
        What the code behind the paper did to patches: `pixels` is then ``bgr255`` and
        `augment_at_test` is on, unless they are set themselves.
    encoder
        An encoder of ``bench list encoders``, or any of timm; see
        :class:`bench.blocks.frozen.FrozenEncoderConfig`.
    weights
        ``pretrained`` or ``imagenet``, ``none``, or a weight file of the encoder.
    freeze_encoder
        Train the heads alone.
    pixels
        ``bgr255`` in the code behind the paper; ``encoder`` for the statistics of the encoder's
        own training.
    augment
        ``quarter_turns`` as released.
    projection_dim, dropout
        Shared space and the heads that lead to it.
    temperature
        Divides the dot products in the loss and in its targets.
    learning_rate, weight_decay, batch_size, epochs
        Training with AdamW. The released default is 4 epochs.
    top_k, weighting
        Retrieval: neighbours by cosine, and their weights: plain ``mean``, ``exponential`` in
        the squared distance of the raw embeddings, or its inverse (``inverse_square``).
    """

    as_released: bool = False
    encoder: str = "resnet50"
    weights: str = "imagenet"
    freeze_encoder: bool = False
    patch_size: PatchSize = 224
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Pixels = Field(default_factory=_released_pixels)
    augment: Literal["none", "jitter_flip_rotate", "quarter_turns"] = "quarter_turns"
    augment_at_test: bool = Field(default_factory=_released_augment_at_test)
    projection_dim: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    batch_size: int = Field(default=128, ge=2)
    epochs: int = Field(default=4, ge=1)
    patience: int | None = Field(default=None, ge=1)
    top_k: int = Field(default=50, ge=1)
    weighting: Literal["mean", "exponential", "inverse_square"] = "mean"


class Bleep(RetrievalMethod):
    """Retrieval with embeddings of a contrastive training with soft targets."""

    name: ClassVar[str] = "bleep"
    Config: ClassVar[type[MethodConfig]] = BleepConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {**_QUICK, "batch_size": 8, "epochs": 2, "top_k": 5},
    }
    predict_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "top_k": (10, 25, 50, 100, 200, 400),
        "weighting": ("mean", "exponential", "inverse_square"),
    }
    config: BleepConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Optimiser, loss, shared space and length of the training."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
            "projection_dim": trial.suggest_categorical("projection_dim", [128, 256, 512]),
            "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
            # At 1 the targets are one-hot; they become soft near the width of the shared space.
            "temperature": trial.suggest_float("temperature", 1.0, 100.0, log=True),
            "dropout": trial.suggest_float("dropout", 0.0, 0.5),
            # The authors' 4 are few; users report the best epoch at 30 to 40.
            "epochs": trial.suggest_int("epochs", 3, 50, log=True),
        }

    def build(self, data: TrainingData, context: Context) -> BleepNetwork:
        """Encoder and heads."""
        from bench.methods.bleep.network import BleepNetwork

        shape = self.chosen("encoder", "weights", "projection_dim", "dropout")
        return BleepNetwork(len(data.panel), **shape)

    def restore(self, source: Any) -> BleepNetwork:
        """The network of a checkpoint, which tells the panel size and the width of the heads."""
        from bench.methods.bleep.network import BleepNetwork

        return BleepNetwork.from_released(source, **self.chosen("encoder", "dropout"))

    def training_module(self) -> BleepModule:
        """Contrastive loss with soft targets."""
        from bench.methods.bleep.network import BleepModule

        return BleepModule(self.network, self.config)
