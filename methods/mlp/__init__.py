"""A small network with one hidden layer on the features of a frozen image encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field

from bench.api import (
    Context,
    Method,
    MethodConfig,
    Slide,
    TrainingData,
    TrainingSection,
    atomic_write,
)
from bench.blocks.frozen import QUICK_ENCODER, FrozenEncoderConfig

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


class MLP(Method):
    """What a frozen encoder knows of expression, read out by a network."""

    name: ClassVar[str] = "mlp"
    Config: ClassVar[type[MethodConfig]] = MLPConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {**_QUICK, "input_size": 32, "batch_size": 8, "epochs": 2, "hidden": 16},
    }
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

    def fit(self, data: TrainingData, context: Context) -> None:
        """Train on standardised features, starting at the mean target."""
        import torch

        from bench.blocks.features import FeatureSpace, FrozenEncoder
        from bench.methods.mlp.network import MLPNetwork
        from bench.methods.mlp.recipe import MLPRecipe, feature_loader
        from bench.training.fitting import learned_sections, train_on

        torch.manual_seed(context.seed)
        config = self.config
        encoder = FrozenEncoder(config, context.seed, context.device, context.precision)
        names = [section.name for section in data.sections]
        features = dict(zip(names, encoder.encode(data.sections, context), strict=True))
        learned = learned_sections(data, config.patience)
        self._space = FeatureSpace.fit(encoder, [features[section.name] for section in learned])
        self._network = MLPNetwork(
            self._space.size, len(data.panel), hidden=config.hidden, dropout=config.dropout
        )
        targets = np.concatenate([section.target for section in learned])
        self._network.start_from(targets.mean(axis=0, dtype=np.float64))

        def loader(sections: Sequence[TrainingSection]) -> Any:
            return feature_loader(
                [self._space.standardise(features[section.name]) for section in sections],
                [section.target for section in sections],
                config.batch_size,
                context.seed,
            )

        train_on(
            MLPRecipe(self._network, config),
            data,
            loader,
            epochs=config.epochs,
            patience=config.patience,
            context=context,
        )

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """The network's output for each spot's features."""
        import torch

        from bench.blocks.precision import to_device

        network = to_device(self._network, context).eval()
        with torch.inference_mode():
            return [
                network(torch.from_numpy(features).to(context.device)).cpu().numpy()
                for features in self._space.embed(slides, context)
            ]

    def save(self, folder: Path) -> None:
        """Write ``network.safetensors``, and its input space as ``space.npz``."""
        from bench.blocks.weights import save_network

        save_network(self._network, folder)
        with atomic_write(folder / "space.npz") as temporary:
            np.savez(temporary, **self._space.arrays())

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote."""
        from bench.blocks.features import FeatureSpace
        from bench.blocks.weights import NETWORK
        from bench.methods.mlp.network import MLPNetwork

        method = cls(config)
        with np.load(folder / "space.npz", allow_pickle=False) as space:
            method._space = FeatureSpace.from_arrays(method.config, space)
        method._network = MLPNetwork.from_file(folder / NETWORK, dropout=method.config.dropout)
        return method
