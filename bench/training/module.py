"""Training step and optimiser of a network, as a LightningModule for the training helper."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.blocks.augment import augmentation


class TrainingModule(pl.LightningModule):
    """A network and its loss, minimised by Adam at a constant rate.

    Parameters
    ----------
    network
        What is trained. With the setting ``freeze_encoder`` its ``image_encoder`` is not: it keeps
        its weights and statistics.
    config
        Settings of the method.
    augment
        Random changes of training patches, see :func:`bench.blocks.augment.augmentation`.

    Attributes
    ----------
    unit
        As of the method. In the mean over an epoch every spot counts the same in batches of
        spots, and every section in batches of one section.
    """

    unit: ClassVar[Literal["spot", "section"]] = "spot"

    def __init__(self, network: nn.Module, config: Any, augment: Any = "none") -> None:
        super().__init__()
        self.network: Any = network
        self.settings = config
        self.augment = augmentation(augment)
        self._frozen = bool(getattr(config, "freeze_encoder", False))
        if self._frozen:
            self.network.image_encoder.requires_grad_(False)

    def on_train_batch_start(self, *_: Any) -> None:
        """Keep a frozen encoder in evaluation mode."""
        if self._frozen:
            self.network.image_encoder.eval()

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch, whose ``patches`` are (n, 3, height, width) uint8."""
        raise NotImplementedError

    def record(self, batch: dict[str, Tensor], **values: Tensor | float) -> None:
        """Log values of a training batch as curves over epochs."""
        for name, value in values.items():
            self.log(name, value, on_step=False, on_epoch=True, batch_size=self._weight(batch))

    def augmented(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with its patches changed at random."""
        return {**batch, "patches": self.augment(batch["patches"])}

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of an augmented batch, logged as ``train_loss``."""
        loss = self.loss(self.augmented(batch))
        self.record(batch, train_loss=loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Loss on the validation sections, without augmentation, logged as ``val_loss``."""
        self.log("val_loss", self.loss(batch), on_epoch=True, batch_size=self._weight(batch))

    def configure_optimizers(self) -> Any:
        """Adam at a constant rate."""
        return torch.optim.Adam(
            self.network.parameters(), lr=self.settings.learning_rate, fused=True
        )

    def _weight(self, batch: dict[str, Tensor]) -> int:
        return 1 if self.unit == "section" else len(batch["patches"])


class ContrastiveModule(TrainingModule):
    """Training that tells the pairs of a batch from one another.

    Parameters
    ----------
    network
        Embeds patches and spots; its forward pass returns the loss of a batch.
    config
        Settings of the method, as of :class:`TrainingModule`, with ``augment``.
    """

    def __init__(self, network: nn.Module, config: Any) -> None:
        super().__init__(network, config, config.augment)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch, logged beside that of equal logits: the log of the batch size."""
        loss = super().training_step(batch)
        self.record(batch, chance_level=math.log(len(batch["patches"])))
        return loss


class ReadoutModule(pl.LightningModule):
    """AdamW on the squared error of a network that reads features.

    Parameters
    ----------
    network
        Takes what a batch holds beside its ``target``, by name.
    config
        Settings of the method, with ``learning_rate`` and ``weight_decay``.
    """

    def __init__(self, network: nn.Module, config: Any) -> None:
        super().__init__()
        self.network = network
        self.settings = config

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        given = {name: values for name, values in batch.items() if name != "target"}
        return F.mse_loss(self.network(**given), batch["target"])

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error of a batch, logged as ``train_loss``."""
        loss = self._loss(batch)
        spots = len(batch["target"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=spots)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """The same on the validation sections, logged as ``val_loss``."""
        self.log("val_loss", self._loss(batch), on_epoch=True, batch_size=len(batch["target"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
