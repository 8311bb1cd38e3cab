"""ST-Net: an image encoder with a linear head that predicts expression directly.

He B. et al., "Integrating spatial gene expression and breast tumour morphology via deep
learning", Nature Biomedical Engineering 4, 827-834 (2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from bench.api import (
    Context,
    MethodConfig,
    NetworkConfig,
    NetworkMethod,
    PatchSize,
    Slide,
    TrainingData,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods.stnet.network import STNetModule, STNetNetwork

_BATCHES_FOR_STATISTICS = 12
_QUICK = {
    "encoder": "test_resnet",
    "weights": "none",
    "patch_size": None,
    "input_size": 64,
    "learning_rate": 3e-3,
    "epochs": 10,
}


class STNetConfig(NetworkConfig):
    """Settings of ST-Net; the defaults are those of the released training.

    Attributes
    ----------
    encoder
        ``densenet121`` (torchvision), an encoder of ``bench list encoders``, or any of timm; see
        :class:`bench.blocks.frozen.FrozenEncoderConfig`.
    weights
        ``pretrained`` or ``imagenet``, ``none``, or a weight file of the encoder.
    freeze_encoder
        Train the head alone.
    augment
        Random symmetries of the square while training.
    symmetries
        Average the prediction over the eight symmetries of the square.
    learning_rate, momentum, weight_decay, batch_size, epochs
        Stochastic gradient descent on the loss summed over a batch.
    patience
        The paper chose the epoch by an inner cross-validation.
    """

    encoder: str = "densenet121"
    weights: str = "imagenet"
    freeze_encoder: bool = False
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


class STNet(NetworkMethod):
    """An image encoder on patches standardised by the training sections' colour statistics.

    Attributes
    ----------
    colour
        (3,) mean and (3,) deviation of the channels.
    """

    name: ClassVar[str] = "stnet"
    reads_section: ClassVar[bool] = False
    Config: ClassVar[type[MethodConfig]] = STNetConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {**_QUICK, "input_size": 32, "batch_size": 8, "epochs": 2},
    }
    images_at_once: ClassVar[int] = 32
    memory: ClassVar[str | None] = "colour.npz"
    colour: tuple[np.ndarray, np.ndarray]
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

    def build(self, data: TrainingData, context: Context) -> STNetNetwork:
        """The network, which begins by predicting the mean target of the spots it learns from."""
        from bench.methods.stnet.network import STNetNetwork
        from bench.training.fitting import learned_sections

        learned = learned_sections(data, self.config.patience)
        self.colour = self._colour_statistics(learned, context.seed)
        network = STNetNetwork(len(data.panel), **self.chosen("encoder", "weights"))
        network.start_from(self.mean_target(data))
        return network

    def restore(self, source: Any) -> STNetNetwork:
        """The network of a checkpoint, which tells the panel size."""
        from bench.methods.stnet.network import STNetNetwork

        return STNetNetwork.from_released(source, encoder=self.config.encoder)

    def training_module(self) -> STNetModule:
        """Squared error summed over a batch."""
        from bench.methods.stnet.network import STNetModule

        return STNetModule(self.network, self.config, self.colour)

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """A released checkpoint, with the colour statistics of the training sections."""
        method = super().from_released(source, config, data, context)
        method.colour = method._colour_statistics(data.sections, context.seed)
        return method

    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """Predict each patch, averaged over the symmetries of the square."""
        import torch

        from bench.methods.stnet.network import standardise, symmetries

        parts = []
        for part in images:
            standardised = standardise(part, *self.colour)
            views = symmetries(standardised) if self.config.symmetries else [standardised]
            parts.append(sum(self.network(view) for view in views) / len(views))
        return torch.cat(parts)

    def remembered(self) -> dict[str, np.ndarray]:
        """Colour statistics."""
        return {"mean": self.colour[0], "std": self.colour[1]}

    def remember(self, arrays: dict[str, np.ndarray]) -> None:
        """Colour statistics."""
        self.colour = (arrays["mean"], arrays["std"])

    def _colour_statistics(
        self, sections: Sequence[Slide], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(3,) mean and deviation of the channels over a dozen batches of training patches."""
        patches = [self.patches(section) for section in sections]
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
