"""How HisToGene is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.methods.histogene.network import flat_patches

if TYPE_CHECKING:
    from bench.methods.histogene import HisToGeneConfig
    from bench.methods.histogene.network import HisToGeneNetwork


class HisToGeneRecipe(pl.LightningModule):
    """Mean squared error, one whole section a step."""

    def __init__(self, network: HisToGeneNetwork, config: HisToGeneConfig) -> None:
        super().__init__()
        self.network = network
        self.settings = config

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a section; every section counts the same, however many spots it has."""
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """The same loss on the validation sections."""
        self.log("val_loss", self._loss(batch), on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate."""
        return torch.optim.Adam(
            self.network.parameters(), lr=self.settings.learning_rate, fused=True
        )

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        patches = flat_patches(batch["patches"], self.settings.pixels)
        return F.mse_loss(self.network(patches, batch["position"]), batch["target"])
