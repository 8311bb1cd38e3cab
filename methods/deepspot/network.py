"""The network of DeepSpot, a set of features a level, and its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.blocks.graph import neighbour_edges
from bench.blocks.weights import load_strict, read_tensors, tensor_size
from bench.training.batches import ShuffledBatches

_LEVELS = {
    "spot": ("spot",),
    "spot+parts": ("spot", "parts"),
    "spot+around": ("spot", "around"),
    "all": ("spot", "parts", "around"),
}


class DeepSpotNetwork(nn.Module):
    """``rho([phi_spot(x), mean phi_parts(p), mean phi_around(y)])``.

    x are the features of a spot's patch, p those of its sub-spots and y those of the spots around
    it. Each phi is linear, GELU, dropout, linear; rho is GELU, dropout, linear on the concatenated
    representations. The mean over a set does not depend on its order; that of no spots is 0.

    Parameters
    ----------
    features, genes
        Inputs and outputs.
    levels
        As of the method's settings.
    hidden, dropout
        Width of a representation, and the share of it that is dropped in training.
    """

    def __init__(
        self,
        features: int,
        genes: int,
        *,
        levels: str = "all",
        hidden: int = 512,
        dropout: float = 0,
    ) -> None:
        super().__init__()
        self.genes = genes
        self.phi = nn.ModuleDict(
            {
                level: nn.Sequential(
                    nn.Linear(features, hidden),
                    nn.GELU(),
                    nn.Dropout(dropout),
                    nn.Linear(hidden, hidden),
                )
                for level in _LEVELS[levels]
            }
        )
        self.activation = nn.Sequential(nn.GELU(), nn.Dropout(dropout))
        self.rho = nn.Linear(hidden * len(self.phi), genes)

    @classmethod
    def from_file(cls, path: Path, *, dropout: float = 0) -> Self:
        """The network whose tensors were saved; they tell sizes and levels.

        Raises
        ------
        DataError
            The file is damaged, or a tensor is missing, unexpected or of another shape.
        """
        state = read_tensors(path)
        found = {name.split(".")[1] for name in state if name.startswith("phi.")}
        levels = next((name for name, own in _LEVELS.items() if set(own) == found), "all")
        network = cls(
            tensor_size(state, "phi.spot.0.weight", 1, str(path)),
            tensor_size(state, "rho.weight", 0, str(path)),
            levels=levels,
            hidden=tensor_size(state, "phi.spot.0.weight", 0, str(path)),
            dropout=dropout,
        )
        load_strict(network, state, str(path))
        return network.eval()

    def start_from(self, mean: np.ndarray) -> None:
        """Let the head predict the (genes,) mean target whatever the features."""
        with torch.no_grad():
            self.rho.weight.zero_()
            self.rho.bias.copy_(torch.from_numpy(np.asarray(mean)))

    def forward(
        self,
        spot: Tensor,
        parts: Tensor | None = None,
        around: Tensor | None = None,
        there: Tensor | None = None,
    ) -> Tensor:
        """Predictions of spots.

        Parameters
        ----------
        spot : (n, features) of the patches
        parts : (n, sub-spots, features)
        around : (n, neighbours, features) of the spots around
        there : (n, neighbours) bool, which of them there are

        Returns
        -------
        (n, genes)
        """
        levels = [self.phi["spot"](spot)]
        if "parts" in self.phi:
            assert parts is not None
            levels.append(self.phi["parts"](parts).mean(dim=1))
        if "around" in self.phi:
            assert around is not None
            assert there is not None
            weights = there / there.sum(dim=1, keepdim=True).clamp(min=1)
            levels.append((self.phi["around"](around) * weights[..., None]).sum(dim=1))
        return self.rho(self.activation(torch.cat(levels, dim=1)))


def bags(spatial: np.ndarray, neighbours: int, ring: float) -> np.ndarray:
    """The spots around each spot.

    Parameters
    ----------
    spatial
        (spots, 2) positions in pixels.
    neighbours
        Most spots in a bag, the nearest.
    ring
        Largest distance, in median distances of a spot to its nearest one.

    Returns
    -------
    (spots, neighbours) int64 array
        Rows of the spots, -1 where there are fewer.
    """
    found = np.full((len(spatial), neighbours), -1, dtype=np.int64)
    if len(spatial) < 2:
        return found
    nearest = cKDTree(spatial).query(spatial, k=2)[0][:, 1]
    spot, other = neighbour_edges(spatial, neighbours, ring * float(np.median(nearest)))
    found[spot, np.arange(len(spot)) - np.searchsorted(spot, spot)] = other
    return found


class SetDataset(Dataset[dict[str, Tensor]]):
    """Spots of several sections; one item is a whole batch of them.

    Parameters
    ----------
    sets
        A section's arrays: ``spot`` (spots, features), and where the network sees them ``parts``
        (spots, sub-spots, features) and ``around`` (spots, neighbours), rows of the section.
    targets
        (spots, genes) float32 array a section; None to predict.
    """

    def __init__(
        self,
        sets: Sequence[Mapping[str, np.ndarray]],
        targets: Sequence[np.ndarray] | None = None,
    ) -> None:
        joined = {name: np.concatenate([part[name] for part in sets]) for name in sets[0]}
        if "around" in joined:
            sizes = [len(part["spot"]) for part in sets]
            first = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)[:, None]
            joined["around"] = np.where(joined["around"] < 0, -1, joined["around"] + first)
        if targets is not None:
            joined["target"] = np.concatenate(list(targets))
        self.arrays = {name: torch.from_numpy(values) for name, values in joined.items()}

    def __len__(self) -> int:
        return len(self.arrays["spot"])

    def __getitem__(self, spots: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Batch of `spots`: the arguments of the network, and ``target``."""
        chosen = torch.as_tensor(spots)
        batch = {name: values[chosen] for name, values in self.arrays.items()}
        if "around" in batch:
            rows = batch["around"]
            batch["there"] = rows >= 0
            batch["around"] = self.arrays["spot"][rows.clamp(min=0)]
        return batch


def set_loader(
    sets: Sequence[Mapping[str, np.ndarray]],
    targets: Sequence[np.ndarray],
    batch_size: int,
    seed: int,
) -> DataLoader[dict[str, Tensor]]:
    """Loader of shuffled batches; no spot is left out."""
    dataset = SetDataset(sets, targets)
    sampler = ShuffledBatches(len(dataset), batch_size, seed, smallest=1)
    return DataLoader(dataset, sampler=sampler, batch_size=None)
