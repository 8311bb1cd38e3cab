"""ST-Net: an image encoder with a linear head that predicts expression directly.

He B. et al., "Integrating spatial gene expression and breast tumour morphology via deep
learning", Nature Biomedical Engineering 4, 827-834 (2020).
"""

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
    PatchSize,
    Slide,
    TrainingData,
    TrainingSection,
    atomic_write,
)

_IMAGES_AT_ONCE = 32
_BATCHES_FOR_STATISTICS = 12
_QUICK = {
    "encoder": "test_resnet",
    "weights": "none",
    "patch_size": None,
    "input_size": 64,
    "learning_rate": 3e-3,
    "epochs": 10,
}


class STNetConfig(MethodConfig):
    """Settings of ST-Net; the defaults are those of the released training.

    Attributes
    ----------
    encoder
        ``densenet121`` (torchvision) or any timm encoder by name.
    weights
        ``imagenet``, ``none`` or a weight file of the encoder.
    patch_size
        Edge of a patch in pixels of the full-resolution image, or in micrometres as in
        ``"150um"``; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`.
    augment
        Random symmetries of the square while training.
    symmetries
        Average the prediction over the eight symmetries of the square.
    learning_rate, momentum, weight_decay, batch_size, epochs
        Stochastic gradient descent on the loss summed over a batch.
    patience
        Stop early on the validation sections after so many epochs; None trains all epochs on
        training and validation sections together. The paper chose the epoch by an inner
        cross-validation.
    """

    encoder: str = "densenet121"
    weights: str = "imagenet"
    patch_size: PatchSize = 224
    input_size: int | None = Field(default=None, ge=8, le=4096)
    augment: bool = True
    symmetries: bool = True
    learning_rate: float = Field(default=1e-6, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=32, ge=2)
    epochs: int = Field(default=50, ge=1)
    patience: int | None = Field(default=None, ge=1)


class STNet(Method):
    """Joins the network and its training recipe to the harness."""

    name: ClassVar[str] = "stnet"
    Config: ClassVar[type[MethodConfig]] = STNetConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {**_QUICK, "input_size": 32, "batch_size": 8, "epochs": 2},
    }
    config: STNetConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Learning rate, momentum and length of the training."""
        # Not the weight decay: at the authors' rate it is lost in rounding.
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-7, 1e-2, log=True),
            "momentum": trial.suggest_float("momentum", 0.0, 0.95),
            "epochs": trial.suggest_int("epochs", 5, 100, log=True),
        }

    def fit(self, data: TrainingData, context: Context) -> None:
        """Train on patches standardised by the training sections' own colour statistics."""
        import torch

        from bench.methods.stnet.network import STNetNetwork
        from bench.methods.stnet.recipe import STNetRecipe
        from bench.training.batches import SpotDataset, spot_loader
        from bench.training.fitting import learned_sections, train_on

        torch.manual_seed(context.seed)
        config = self.config
        learned = learned_sections(data, config.patience)
        targets = np.concatenate([section.target for section in learned])
        self._mean, self._std = self._colour_statistics(learned, context.seed)
        self._network = STNetNetwork(
            len(data.panel), encoder=config.encoder, weights=config.weights
        )
        self._network.start_from(targets.mean(axis=0, dtype=np.float64))

        def loader(sections: Sequence[TrainingSection]) -> Any:
            dataset = SpotDataset(
                [self._patches(section) for section in sections],
                {"target": [section.target for section in sections]},
            )
            return spot_loader(dataset, config.batch_size, context.seed)

        train_on(
            STNetRecipe(self._network, config, self._mean, self._std),
            data,
            loader,
            epochs=config.epochs,
            patience=config.patience,
            context=context,
        )

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """A released checkpoint, with the colour statistics of the training sections."""
        from bench.blocks.weights import check_panel
        from bench.methods.stnet.network import STNetNetwork

        method = cls(config)
        method._network = STNetNetwork.from_released(source, encoder=method.config.encoder)
        check_panel(source, method._network.genes, data.panel)
        method._mean, method._std = method._colour_statistics(data.sections, context.seed)
        return method

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Predict each patch, averaged over the symmetries of the square."""
        import torch

        from bench.blocks.images import image_batches
        from bench.blocks.precision import place
        from bench.methods.stnet.network import standardise, symmetries

        network = place(self._network, context).eval()
        predictions = []
        with torch.inference_mode():
            for slide in slides:
                parts = []
                for images in image_batches(self._patches(slide), context.device, _IMAGES_AT_ONCE):
                    images = standardise(images, self._mean, self._std)
                    views = symmetries(images) if self.config.symmetries else [images]
                    total = sum(network(view) for view in views)
                    parts.append((total / len(views)).cpu().numpy())
                predictions.append(np.concatenate(parts))
        return predictions

    def save(self, folder: Path) -> None:
        """Write ``network.safetensors`` and the colour statistics ``colour.npz``."""
        from bench.blocks.weights import save_network

        save_network(self._network, folder)
        with atomic_write(folder / "colour.npz") as temporary:
            np.savez(temporary, mean=self._mean, std=self._std)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote; the encoder's weights come from there alone."""
        from bench.blocks.weights import NETWORK
        from bench.methods.stnet.network import STNetNetwork

        method = cls(config)
        with np.load(folder / "colour.npz", allow_pickle=False) as colour:
            method._mean, method._std = colour["mean"], colour["std"]
        method._network = STNetNetwork.from_released(
            folder / NETWORK, encoder=method.config.encoder
        )
        return method

    def _patches(self, slide: Slide) -> np.ndarray:
        return slide.patches(self.config.patch_size, self.config.input_size)

    def _colour_statistics(
        self, sections: Sequence[Slide], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(3,) mean and deviation of the channels over a dozen batches of training patches."""
        patches = [self._patches(section) for section in sections]
        spots = [(s, i) for s, part in enumerate(patches) for i in range(len(part))]
        order = np.random.default_rng(seed).permutation(len(spots))
        drawn = order[: _BATCHES_FOR_STATISTICS * self.config.batch_size]
        pixels = np.stack([patches[spots[k][0]][spots[k][1]] for k in drawn])
        return colour_statistics(pixels)


def colour_statistics(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population deviation of each channel on the 0..1 scale.

    Parameters
    ----------
    patches : (n, height, width, 3) uint8

    Returns
    -------
    tuple of two (3,) float32 arrays; a constant channel has deviation 1
    """
    # A histogram holds the exact moments of 8-bit values at a fraction of the memory.
    counts = np.stack([np.bincount(patches[..., c].ravel(), minlength=256) for c in range(3)])
    levels = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    std = np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0.0))
    return mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32)
