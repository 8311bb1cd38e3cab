"""The network of mlp, one hidden layer, and its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.blocks.weights import load_strict, read_tensors, tensor_size
from bench.training.batches import ShuffledBatches


class MLPNetwork(nn.Module):
    """Linear, GELU, dropout, linear.

    Parameters
    ----------
    features, genes
        Inputs and outputs.
    hidden, dropout
        Width of the hidden layer, and the share of it that is dropped while training.
    """

    def __init__(self, features: int, genes: int, *, hidden: int = 512, dropout: float = 0) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.activation = nn.Sequential(nn.GELU(), nn.Dropout(dropout))
        self.head = nn.Linear(hidden, genes)

    @classmethod
    def from_file(cls, path: Path, *, dropout: float = 0) -> Self:
        """The network whose tensors were saved; they tell the sizes.

        Raises
        ------
        DataError
            The file is damaged, or a tensor is missing, unexpected or of another shape.
        """
        state = read_tensors(path)
        network = cls(
            tensor_size(state, "hidden.weight", 1, str(path)),
            tensor_size(state, "head.weight", 0, str(path)),
            hidden=tensor_size(state, "hidden.weight", 0, str(path)),
            dropout=dropout,
        )
        load_strict(network, state, str(path))
        return network.eval()

    def start_from(self, mean: np.ndarray) -> None:
        """Let the head predict the (genes,) mean target whatever the features."""
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(torch.from_numpy(np.asarray(mean)))

    def forward(self, features: Tensor) -> Tensor:
        """(n, features) standardised features to (n, genes)."""
        return self.head(self.activation(self.hidden(features)))


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
