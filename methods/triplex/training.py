"""Training of TRIPLEX: random spots of all sections, and the whole section of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.blocks.images import to_network_scale
from bench.methods.triplex.network import TriplexNetwork, TriplexOutputs, triplex_loss
from bench.methods.triplex.settings import TriplexConfig
from bench.training.module import TrainingModule


class TriplexModule(TrainingModule):
    """Errors of the four heads and distillation from the prediction.

    Parameters
    ----------
    network, config
        Network and settings.
    sections
        (spots, dim) features and (spots, 2) positions of each section, by the numbers that
        batches hold as ``section``; ``row`` is the row of a spot in its section.
    grid
        Kept positional grid; None for that of each section.
    """

    def __init__(
        self,
        network: TriplexNetwork,
        config: TriplexConfig,
        sections: Sequence[tuple[Tensor, Tensor]],
        grid: tuple[int, int] | None = None,
    ) -> None:
        # Two coin-tossed flips and a quarter turn reach each of the eight symmetries equally.
        super().__init__(network, config, "quarter_turns" if config.augment else "none")
        self.sections = list(sections)
        self.grid = grid

    def outputs(self, batch: dict[str, Tensor]) -> TriplexOutputs:
        """Predictions of all heads for a batch."""
        images = to_network_scale(batch["patches"], "imagenet")
        return self.network(images, batch["neighbours"], batch["mask"], self._tokens(batch))

    def _tokens(self, batch: dict[str, Tensor]) -> Tensor:
        """(n, dim) tokens of the spots of a batch, from one pass over each of their sections."""
        present, place = torch.unique(batch["section"], return_inverse=True)
        tokens, starts = [], [0]
        for number in present.tolist():
            features, position = self._section(number, batch["patches"].device)
            tokens.append(self.network.section_tokens(features, position, self.grid))
            starts.append(starts[-1] + len(features))
        first = torch.tensor(starts[:-1], device=place.device)
        return torch.cat(tokens)[first[place] + batch["row"]]

    def _section(self, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Features and positions of a section, moved to the device when they are first used."""
        features, position = self.sections[number]
        if features.device != device:
            self.sections[number] = (features.to(device), position.to(device))
        return self.sections[number]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch."""
        parts = triplex_loss(self.outputs(batch), batch["target"], self.settings.distillation)
        return parts["loss"]

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of an augmented batch, logged with the squared error of the prediction."""
        batch = self.augmented(batch)
        parts = triplex_loss(self.outputs(batch), batch["target"], self.settings.distillation)
        self.record(batch, train_loss=parts["loss"], train_mse=parts["loss_fusion"])
        return parts["loss"]

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Squared error of the prediction, on which training stops; the other heads are not it."""
        predicted = self.network.cut(self.outputs(batch).fused)
        error = F.mse_loss(predicted, batch["target"])
        self.log("val_loss", error, on_epoch=True, batch_size=len(batch["patches"]))

    def configure_optimizers(self) -> Any:
        """Adam or AdamW, its rate lowered as the settings say."""
        settings = self.settings
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(
            self.network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        if settings.schedule == "step":
            steps = torch.optim.lr_scheduler.StepLR(
                optimizer, settings.decay_epochs, settings.decay
            )
            return {"optimizer": optimizer, "lr_scheduler": steps}
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=settings.decay, patience=settings.decay_patience
        )
        monitor = "train_loss" if settings.patience is None else "val_loss"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": monitor},
        }
