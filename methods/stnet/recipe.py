"""How ST-Net is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from bench.blocks.augment import augmentation
from bench.methods.stnet.network import standardise, summed_loss

if TYPE_CHECKING:
    from bench.methods.stnet import STNetConfig
    from bench.methods.stnet.network import STNetNetwork


class STNetRecipe(pl.LightningModule):
    """Stochastic gradient descent on the squared error summed over a batch."""

    def __init__(
        self, network: STNetNetwork, config: STNetConfig, mean: np.ndarray, std: np.ndarray
    ) -> None:
        super().__init__()
        self.network = network
        self.settings = config
        self.colour = (mean, std)
        # Two coin-tossed flips and a quarter turn reach each of the eight symmetries equally.
        self.augment = augmentation("quarter_turns" if config.augment else "none")

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch; what is logged is the loss per spot."""
        images = standardise(self.augment(batch["patches"]), *self.colour)
        loss = summed_loss(self.network(images), batch["target"])
        spots = len(images)
        self.log("train_loss", loss / spots, on_step=False, on_epoch=True, batch_size=spots)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """The same loss per spot on the validation sections, without augmentation."""
        images = standardise(batch["patches"], *self.colour)
        loss = summed_loss(self.network(images), batch["target"]) / len(images)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
