"""HisToGene: a transformer over all spots of a section predicts expression from their patches.

Pang M., Su K., Li M., "Leveraging information in spatial transcriptomics to predict
super-resolution gene expression from histology images in tumors", bioRxiv 2021.11.28.470212.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
from bench.blocks.positions import check_positions

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods.histogene.network import HisToGeneModule, HisToGeneNetwork

_QUICK = {
    "patch_size": None,
    "input_size": 16,
    "pixels": "rgb01",
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "head_dim": 16,
    "hidden": 128,
    "learning_rate": 3e-3,
    "epochs": 100,
}


class HisToGeneConfig(NetworkConfig):
    """Settings of HisToGene; the defaults are those of the authors' tutorial.

    Attributes
    ----------
    pixels
        How pixels are fed: ``raw255`` as they are, or ``rgb01`` divided by 255.
    as_released_cscc
        Feed black instead of every patch of a section but its first, as the released loader for
        cSCC does: what the network then learns is the array coordinates.
    position_rows
        Rows of each position table; array coordinates must lie below.
    dim, layers, heads, head_dim, hidden, dropout
        Shape of the transformer.
    """

    patch_size: PatchSize = 112
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Literal["raw255", "rgb01"] = "raw255"
    as_released_cscc: bool = False
    position_rows: int = Field(default=64, ge=1)
    dim: int = Field(default=1024, ge=1)
    layers: int = Field(default=8, ge=1)
    heads: int = Field(default=16, ge=1)
    head_dim: int = Field(default=64, ge=1)
    hidden: int = Field(default=2048, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: int = Field(default=100, ge=1)
    patience: int | None = Field(default=None, ge=1)


class HisToGene(NetworkMethod):
    """A transformer over the spots of a whole section, trained by Adam at a constant rate."""

    name: ClassVar[str] = "histogene"
    unit: ClassVar[Literal["spot", "section"]] = "section"
    Config: ClassVar[type[MethodConfig]] = HisToGeneConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {
            **_QUICK,
            "dim": 32,
            "layers": 1,
            "heads": 2,
            "head_dim": 8,
            "hidden": 32,
            "epochs": 2,
        },
    }
    # The authors used no Visium section; its array has up to 128 columns.
    dataset_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "alex10x": {"position_rows": 128},
    }
    not_in_tensors: ClassVar[tuple[str, ...]] = ("heads",)
    config: HisToGeneConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Learning rate, depth, dropout and length of the training."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True),
            "layers": trial.suggest_int("layers", 1, 8),
            "dropout": trial.suggest_float("dropout", 0.0, 0.4),
            "epochs": trial.suggest_int("epochs", 30, 300, log=True),
        }

    def build(self, data: TrainingData, context: Context) -> HisToGeneNetwork:
        """The network for patches of the settings' size."""
        from bench.methods.histogene.network import HisToGeneNetwork

        shape = self.chosen("position_rows", "dim", "layers", "heads", "head_dim", "hidden")
        return HisToGeneNetwork(
            len(data.panel), edge=self.input_edge(), dropout=self.config.dropout, **shape
        )

    def restore(self, source: Any) -> HisToGeneNetwork:
        """The network of a checkpoint, which tells all sizes but the number of heads."""
        from bench.methods.histogene.network import HisToGeneNetwork

        return HisToGeneNetwork.from_released(source, **self.chosen("heads", "dropout"))

    def training_module(self) -> HisToGeneModule:
        """Mean squared error of a section."""
        from bench.methods.histogene.network import HisToGeneModule

        return HisToGeneModule(self.network, self.config)

    def patches(self, slide: Slide) -> np.ndarray:
        """Patches of a slide, all but the first one black with `as_released_cscc`."""
        patches = super().patches(slide)
        if self.config.as_released_cscc:
            patches = np.array(patches)
            patches[1:] = 0
        return patches

    def inputs(self, slide: Slide) -> dict[str, np.ndarray]:
        """Rows of the position tables."""
        rows = self.network.x_embed.num_embeddings
        return {
            "position": check_positions(slide.array_xy, rows, method=self.name, section=slide.name)
        }

    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """Predict all spots of a slide together."""
        import torch

        from bench.methods.histogene.network import flat_patches

        pixels = self.config.pixels
        embedded = [self.network.embed_patches(flat_patches(part, pixels)) for part in images]
        return self.network.relate(torch.cat(embedded), **inputs)
