"""How BLEEP is trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch import Tensor

from bench.blocks.augment import augmentation
from bench.blocks.images import to_network_scale
from bench.methods.bleep.network import soft_target_loss

if TYPE_CHECKING:
    from bench.methods.bleep import BleepConfig
    from bench.methods.bleep.network import BleepNetwork


class BleepRecipe(pl.LightningModule):
    """Contrastive loss with soft targets on random batches of spots."""

    def __init__(self, network: BleepNetwork, config: BleepConfig) -> None:
        super().__init__()
        self.network = network
        self.settings = config
        self.augment = augmentation(config.augment)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch, logged beside that of equal logits: the log of the batch size."""
        spots = len(batch["patches"])
        loss = self._loss(self.augment(batch["patches"]), batch["expression"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=spots)
        self.log("chance_level", math.log(spots), on_step=False, on_epoch=True, batch_size=spots)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """The same loss on the validation sections, without augmentation."""
        loss = self._loss(batch["patches"], batch["expression"])
        self.log("val_loss", loss, on_epoch=True, batch_size=len(batch["patches"]))

    def _loss(self, patches: Tensor, expression: Tensor) -> Tensor:
        images = to_network_scale(patches, self.settings.pixels)
        of_spots, of_images = self.network(images, expression)
        return soft_target_loss(of_spots, of_images, self.settings.temperature)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
