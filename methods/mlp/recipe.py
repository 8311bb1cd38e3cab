"""How mlp is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from bench.training.batches import ShuffledBatches

if TYPE_CHECKING:
    from bench.methods.mlp import MLPConfig
    from bench.methods.mlp.network import MLPNetwork


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Spots of several sections as features; one item is a whole batch of them.

    Parameters
    ----------
    features, targets
        One (spots, features) and one (spots, genes) float32 array a section.
    """

    def __init__(self, features: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> None:
        self.features = torch.from_numpy(np.concatenate(list(features)))
        self.targets = torch.from_numpy(np.concatenate(list(targets)))

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, spots: Sequence[int]) -> dict[str, Tensor]:
        """Batch of `spots`: ``features`` and ``target``."""
        chosen = torch.as_tensor(spots)
        return {"features": self.features[chosen], "target": self.targets[chosen]}


def feature_loader(
    features: Sequence[np.ndarray], targets: Sequence[np.ndarray], batch_size: int, seed: int
) -> DataLoader[dict[str, Tensor]]:
    """Loader of shuffled batches; no spot is left out."""
    dataset = FeatureDataset(features, targets)
    sampler = ShuffledBatches(len(dataset), batch_size, seed, smallest=1)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


class MLPRecipe(pl.LightningModule):
    """AdamW on the mean squared error."""

    def __init__(self, network: MLPNetwork, config: MLPConfig) -> None:
        super().__init__()
        self.network = network
        self.settings = config

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error of a batch."""
        loss = F.mse_loss(self.network(batch["features"]), batch["target"])
        spots = len(batch["target"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=spots)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """The same on the validation sections."""
        loss = F.mse_loss(self.network(batch["features"]), batch["target"])
        self.log("val_loss", loss, on_epoch=True, batch_size=len(batch["target"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
