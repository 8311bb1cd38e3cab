"""How THItoGene is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.blocks.images import x_first

if TYPE_CHECKING:
    from bench.methods.thitogene import THItoGeneConfig
    from bench.methods.thitogene.network import THItoGeneNetwork


class THItoGeneRecipe(pl.LightningModule):
    """Mean squared error over a whole section, one section a step."""

    def __init__(self, network: THItoGeneNetwork, config: THItoGeneConfig) -> None:
        super().__init__()
        self.network = network
        self.settings = config

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error over spots and genes of a section."""
        images = x_first(batch["patches"], self.settings.pixels)
        prediction = self.network(images, batch["position"], batch["edges"])
        return F.mse_loss(prediction, batch["target"])

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a section; in a curve every section counts the same, as in the training."""
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """The same loss on the validation sections, without dropout."""
        self.log("val_loss", self.loss(batch), on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, without a schedule."""
        return torch.optim.Adam(
            self.network.parameters(), lr=self.settings.learning_rate, fused=True
        )
