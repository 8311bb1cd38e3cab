"""BLEEP: contrastive learning with soft targets, prediction by retrieval.

Xie R. et al., "Spatially Resolved Gene Expression Prediction from H&E Histology Images via
Bi-modal Contrastive Learning", NeurIPS 2023, arXiv 2306.01859.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

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

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods.bleep.network import BleepNetwork

Pixels = Literal["rgb01", "bgr255", "imagenet"]

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


class BleepConfig(MethodConfig):
    """Settings of BLEEP; the defaults are those of the released training.

    Attributes
    ----------
    as_released
        What the code behind the paper did to patches: `pixels` is then ``bgr255`` and
        `augment_at_test` is on, unless they are set themselves.
    encoder
        Any timm encoder by name, or ``densenet121`` (torchvision).
    weights
        ``imagenet``, ``none`` or a weight file of the encoder.
    patch_size
        Edge of a patch in pixels of the full-resolution image, or in micrometres as in
        ``"150um"``; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`.
    pixels
        How pixels are fed: ``imagenet`` (standardised), ``bgr255`` (code behind the paper),
        ``rgb01``.
    augment
        ``quarter_turns`` with flips (released), ``jitter_flip_rotate``, ``none``.
    augment_at_test
        The same random changes when predicting.
    projection_dim, dropout
        Shared space and the heads that lead to it.
    temperature
        Divides the dot products in the loss and in its targets.
    learning_rate, weight_decay, batch_size, epochs
        Training with AdamW. The released default is 4 epochs.
    patience
        Stop early on the validation sections after so many epochs and keep the best weights;
        None trains all epochs on training and validation sections together.
    top_k, weighting
        Retrieval: neighbours by cosine, and their weights: plain ``mean``, ``exponential`` in
        the squared distance of the raw embeddings, or its inverse (``inverse_square``).
    """

    as_released: bool = False
    encoder: str = "resnet50"
    weights: str = "imagenet"
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


class Bleep(Method):
    """Joins the network, its training recipe and the retrieval bank to the harness."""

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

    def fit(self, data: TrainingData, context: Context) -> None:
        """Train encoder and heads, then embed the training spots as retrieval keys."""
        import torch

        from bench.methods.bleep.network import BleepNetwork
        from bench.methods.bleep.recipe import BleepRecipe
        from bench.training.batches import SpotDataset, spot_loader
        from bench.training.fitting import train_on

        torch.manual_seed(context.seed)
        config = self.config
        self._network = BleepNetwork(
            len(data.panel),
            encoder=config.encoder,
            weights=config.weights,
            projection_dim=config.projection_dim,
            dropout=config.dropout,
        )

        def loader(sections: Sequence[TrainingSection]) -> Any:
            dataset = SpotDataset(
                [self._patches(section) for section in sections],
                {"expression": [section.expression for section in sections]},
            )
            return spot_loader(dataset, config.batch_size, context.seed)

        make_bank = partial(self._make_bank, data, context)
        train_on(
            BleepRecipe(self._network, config),
            data,
            loader,
            epochs=config.epochs,
            patience=config.patience,
            context=context,
            ready=make_bank,
        )
        make_bank()

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """A released checkpoint, with the training spots embedded as retrieval keys."""
        from bench.blocks.weights import check_panel

        method = cls(config)
        method._network = method._restored(source)
        where = source if isinstance(source, Path) else "the given tensors"
        check_panel(where, method._network.genes, data.panel)
        method._make_bank(data, context)
        return method

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Embed the images and average the targets of the nearest keys."""
        return next(self.predict_each(slides, context, [self.config]))

    def predict_each(
        self, slides: Sequence[Slide], context: Context, configs: Sequence[Any]
    ) -> Iterator[list[np.ndarray]]:
        """The same under each setting of the retrieval; the images are embedded once."""
        from bench.blocks.retrieval import retrieve_each

        embedded = [self._embed_images(slide, context) for slide in slides]
        settings = [{"top_k": one.top_k, "weighting": one.weighting} for one in configs]
        yield from retrieve_each(embedded, self._keys, self._values, settings)

    def save(self, folder: Path) -> None:
        """Write ``network.safetensors`` and the retrieval bank ``bank.npz``."""
        from bench.blocks.weights import save_network

        save_network(self._network, folder)
        with atomic_write(folder / "bank.npz") as temporary:
            np.savez(temporary, keys=self._keys, values=self._values)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote; the encoder's weights come from there alone."""
        from bench.blocks.weights import NETWORK

        method = cls(config)
        with np.load(folder / "bank.npz", allow_pickle=False) as bank:
            method._keys, method._values = bank["keys"], bank["values"]
        method._network = method._restored(folder / NETWORK)
        return method

    def _restored(self, source: Any) -> BleepNetwork:
        from bench.methods.bleep.network import BleepNetwork

        return BleepNetwork.from_released(
            source, encoder=self.config.encoder, dropout=self.config.dropout
        )

    def _make_bank(self, data: TrainingData, context: Context) -> None:
        import torch

        from bench.blocks.precision import place

        network = place(self._network, context).eval()
        with torch.inference_mode():
            keys = [
                network.embed_spots(torch.from_numpy(section.expression).to(context.device))
                for section in data.sections
            ]
        self._keys = torch.cat(keys).cpu().numpy()
        self._values = np.concatenate([section.target for section in data.sections])

    def _patches(self, slide: Slide) -> np.ndarray:
        return slide.patches(self.config.patch_size, self.config.input_size)

    def _embed_images(self, slide: Slide, context: Context) -> Tensor:
        import torch

        from bench.blocks.augment import augmentation
        from bench.blocks.images import image_batches, to_network_scale
        from bench.blocks.precision import place

        # Seeded slide by slide: what is drawn for one must not depend on those before it.
        torch.manual_seed(context.seed)
        change = augmentation(self.config.augment if self.config.augment_at_test else "none")
        network = place(self._network, context).eval()
        embedded = []
        with torch.inference_mode():
            for images in image_batches(self._patches(slide), context.device):
                images = to_network_scale(change(images), self.config.pixels)
                embedded.append(network.embed_images(images))
        return torch.cat(embedded)
