"""A small network with one hidden layer on the features of a frozen image encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from bench.api import (
    QUICK_ENCODER,
    Context,
    FrozenEncoderConfig,
    Method,
    MethodConfig,
    NetworkMethod,
    Slide,
    TrainingData,
    TrainingSection,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bench.blocks.feature_space import FeatureSpace
    from bench.methods.mlp.network import MLPNetwork
    from bench.training.module import ReadoutModule

_QUICK = {
    **QUICK_ENCODER,
    "hidden": 256,
    "learning_rate": 3e-4,
    "batch_size": 64,
    "epochs": 15,
}


class MLPConfig(FrozenEncoderConfig):
    """Settings of the network, besides those of the frozen encoder.

    Attributes
    ----------
    hidden, dropout
        Width of the hidden layer, and the share of it that is dropped while training.
    learning_rate, weight_decay, batch_size, epochs
        AdamW on the mean squared error.
    patience
        Stop early on the validation sections after so many epochs; None trains all epochs on
        training and validation sections together.
    """

    hidden: int = Field(default=512, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    batch_size: int = Field(default=128, ge=1)
    epochs: int = Field(default=20, ge=1)
    patience: int | None = Field(default=None, ge=1)


class MLP(NetworkMethod):
    """What a frozen encoder knows of expression, read out by a network.

    Attributes
    ----------
    space
        Standardised features of the encoder.
    """

    name: ClassVar[str] = "mlp"
    reads_section: ClassVar[bool] = False
    Config: ClassVar[type[MethodConfig]] = MLPConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {**_QUICK, "input_size": 32, "batch_size": 8, "epochs": 2, "hidden": 16},
    }
    memory: ClassVar[str | None] = "space.npz"
    space: FeatureSpace
    config: MLPConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Width, dropout, optimiser and length of the training."""
        return {
            "hidden": trial.suggest_categorical("hidden", [128, 256, 512, 1024]),
            "dropout": trial.suggest_float("dropout", 0.0, 0.6),
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
            "epochs": trial.suggest_int("epochs", 5, 100, log=True),
        }

    def build(self, data: TrainingData, context: Context) -> MLPNetwork:
        """The network on standardised features, which begins by predicting the mean target."""
        from bench.blocks.feature_space import FeatureSpace
        from bench.blocks.features import FrozenEncoder
        from bench.methods.mlp.network import MLPNetwork
        from bench.training.fitting import learned_sections

        encoder = FrozenEncoder(self.config, context.seed, context.device, context.precision)
        names = [section.name for section in data.sections]
        self._features = dict(zip(names, encoder.encode(data.sections, context), strict=True))
        learned = learned_sections(data, self.config.patience)
        self.space = FeatureSpace.fit(encoder, [self._features[s.name] for s in learned])
        network = MLPNetwork(self.space.size, len(data.panel), **self.chosen("hidden", "dropout"))
        network.start_from(self.mean_target(data))
        return network

    def restore(self, source: Any) -> MLPNetwork:
        """The network of a file, which tells all sizes."""
        from bench.methods.mlp.network import MLPNetwork

        return MLPNetwork.from_file(source, dropout=self.config.dropout)

    # No checkpoint holds the feature space that belongs to the network.
    from_released = vars(Method)["from_released"]

    def training_module(self) -> ReadoutModule:
        """AdamW on the mean squared error."""
        from bench.training.module import ReadoutModule

        return ReadoutModule(self.network, self.config)

    def loader(self, sections: Sequence[TrainingSection], seed: int) -> Any:
        """Shuffled batches of features and targets."""
        from bench.methods.mlp.network import feature_loader

        features = [self.space.standardise(self._features[section.name]) for section in sections]
        targets = [section.target for section in sections]
        return feature_loader(features, targets, self.config.batch_size, seed)

    def complete(self, data: TrainingData, context: Context) -> None:
        """Let go of the training features."""
        self._features = {}

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """The network's output for each spot's features."""
        import torch

        from bench.blocks.precision import to_device

        network = to_device(self.network, context).eval()
        with torch.inference_mode():
            return [
                network(torch.from_numpy(features).to(context.device)).cpu().numpy()
                for features in self.space.embed(slides, context)
            ]

    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """Not used: the network reads features in place of patches."""
        raise NotImplementedError

    def remembered(self) -> dict[str, np.ndarray]:
        """The feature space."""
        return self.space.arrays()

    def remember(self, arrays: dict[str, np.ndarray]) -> None:
        """The feature space."""
        from bench.blocks.feature_space import FeatureSpace

        self.space = FeatureSpace.from_arrays(self.config, arrays)
