"""How Hist2ST is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from bench.blocks.images import x_first
from bench.methods.hist2st.losses import section_losses

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from bench.methods.hist2st import Hist2STConfig
    from bench.methods.hist2st.network import Hist2STNetwork


class Hist2STRecipe(pl.LightningModule):
    """Squared error, count likelihood and self-distillation, one whole section a step."""

    def __init__(self, network: Hist2STNetwork, config: Hist2STConfig) -> None:
        super().__init__()
        self.network = network
        self.settings = config
        self.views = config.views
        # Given a whole section, each change is drawn once for all of its patches.
        self.change = v2.Compose(
            [v2.RandomGrayscale(0.1), v2.RandomRotation(90), v2.RandomHorizontalFlip(0.2)]
        )

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a section, its parts logged beside it."""
        settings = self.settings
        images = x_first(batch["patches"], settings.pixels)
        views = [self.change(images) for _ in range(self.views)]
        parts = section_losses(self.network, images, views, batch, counts=settings.zinb > 0)
        weights = {"mse": 1.0, "counts": settings.zinb, "distillation": settings.distillation}
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        for name, value in {"train_loss": loss, **parts}.items():
            self.log(name, value, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Squared error on the validation sections."""
        images = x_first(batch["patches"], self.settings.pixels)
        features = self.network(images, batch["position"], batch["edges"])
        loss = F.mse_loss(self.network.gene_head(features), batch["target"])
        self.log("val_loss", loss, on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, its rate lowered every so many epochs."""
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.settings.learning_rate, fused=True
        )
        schedule = torch.optim.lr_scheduler.StepLR(
            optimizer, self.settings.decay_epochs, self.settings.decay
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}
