"""How mclSTExp is trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch import Tensor

from bench.blocks.attention import symmetric_contrastive_loss
from bench.blocks.augment import augmentation
from bench.blocks.images import to_network_scale

if TYPE_CHECKING:
    from bench.methods.mclstexp import MclSTExpConfig
    from bench.methods.mclstexp.network import MclSTExpNetwork


class MclSTExpRecipe(pl.LightningModule):
    """Symmetric contrastive loss on random batches of spots, which are one sequence each."""

    def __init__(self, network: MclSTExpNetwork, config: MclSTExpConfig) -> None:
        super().__init__()
        self.network = network
        self.settings = config
        self.augment = augmentation(config.augment)
        if config.freeze_encoder:
            network.image_encoder.requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch, logged beside that of guessing: the log of the batch size."""
        images = to_network_scale(self.augment(batch["patches"]), self.settings.pixels)
        if self.settings.freeze_encoder:
            self.network.image_encoder.eval()
        logits = self.network(images, batch["expression"], batch["position"])
        loss = symmetric_contrastive_loss(logits)
        spots = len(logits)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=spots)
        self.log("chance_level", math.log(spots), on_step=False, on_epoch=True, batch_size=spots)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """The same loss on the validation sections, without augmentation."""
        images = to_network_scale(batch["patches"], self.settings.pixels)
        logits = self.network(images, batch["expression"], batch["position"])
        loss = symmetric_contrastive_loss(logits)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(logits))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with L2 decay as released, or AdamW as the paper says."""
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.settings.optimizer]
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return kind(
            trained,
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
