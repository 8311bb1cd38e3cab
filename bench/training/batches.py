"""Spots and sections as batches of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.blocks.feeding import fed

_MOVED_AT_ONCE = 1024
_SHARE_OF_FREE = 0.5
"""Of a GPU's free memory: what the data may take, so that the network has room too."""


class SpotDataset(Dataset[dict[str, Tensor]]):
    """Spots of several sections; one item is a whole batch of them.

    Parameters
    ----------
    patches
        One (spots, height, width, 3) uint8 array a section; memory-mapped is fine.
    arrays
        Further values by name, each one array a section, first axis spots.
    """

    def __init__(
        self, patches: Sequence[np.ndarray], arrays: Mapping[str, Sequence[np.ndarray]]
    ) -> None:
        self._patches = list(patches)
        self._starts = np.cumsum([0, *(len(part) for part in patches)])
        self._moved: Tensor | None = None
        self._arrays = {
            name: torch.from_numpy(np.concatenate(list(parts))) for name, parts in arrays.items()
        }

    @property
    def arrays(self) -> Mapping[str, Tensor]:
        """The named values of all spots, section after section."""
        return self._arrays

    @property
    def nbytes(self) -> int:
        """Memory that patches and named values take."""
        patches = sum(part.nbytes for part in self._patches)
        return patches + sum(values.nbytes for values in self._arrays.values())

    def to(self, device: str) -> None:
        """Move patches and named values to a device, which then makes the batches."""
        shape = (len(self), *self._patches[0].shape[1:])
        moved = torch.empty(shape, dtype=torch.uint8, device=device)
        for start, part in zip(self._starts, self._patches, strict=False):
            for first in range(0, len(part), _MOVED_AT_ONCE):
                some = torch.from_numpy(np.array(part[first : first + _MOVED_AT_ONCE]))
                moved[start + first : start + first + len(some)] = some.to(device)
        self._moved = moved
        self._arrays = {name: values.to(device) for name, values in self._arrays.items()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, spots: Sequence[int]) -> dict[str, Tensor]:
        """Batch of `spots`: ``patches`` as (n, 3, height, width) uint8, and the named arrays."""
        if self._moved is not None:
            rows = torch.tensor(spots).to(self._moved.device, non_blocking=True)
            batch = {name: values[rows] for name, values in self._arrays.items()}
            batch["patches"] = self._moved[rows].permute(0, 3, 1, 2)
            return batch
        chosen = np.asarray(spots)
        section = np.searchsorted(self._starts, chosen, side="right") - 1
        images = np.stack(
            [self._patches[s][i - self._starts[s]] for s, i in zip(section, chosen, strict=True)]
        )
        batch = {name: values[chosen] for name, values in self._arrays.items()}
        batch["patches"] = torch.from_numpy(images).permute(0, 3, 1, 2)
        return batch


class SectionDataset(Dataset[dict[str, Tensor]]):
    """Whole sections; one item is all spots of one.

    Parameters
    ----------
    patches
        One (spots, height, width, 3) uint8 array a section; memory-mapped is fine.
    arrays
        Further values by name, each one array a section.
    """

    def __init__(
        self, patches: Sequence[np.ndarray], arrays: Mapping[str, Sequence[np.ndarray]]
    ) -> None:
        self._patches = list(patches)
        self._arrays = {
            name: [torch.from_numpy(np.array(part)) for part in parts]
            for name, parts in arrays.items()
        }

    @property
    def arrays(self) -> Mapping[str, Sequence[Tensor]]:
        """The named values, one tensor a section."""
        return self._arrays

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, sections: Sequence[int]) -> dict[str, Tensor]:
        """The one section asked for: ``patches`` as (n, 3, height, width) uint8, and the arrays."""
        (section,) = sections
        batch = {name: parts[section] for name, parts in self._arrays.items()}
        images = torch.from_numpy(np.array(self._patches[section]))
        batch["patches"] = images.permute(0, 3, 1, 2)
        return batch


class ShuffledBatches(Sampler[list[int]]):
    """Batches in an order that follows from seed and epoch alone, so that a resumed fit agrees.

    The last, smaller batch is kept unless it holds fewer than `smallest` items.
    """

    def __init__(self, items: int, batch_size: int, seed: int, smallest: int = 2) -> None:
        self.items, self.batch_size, self.seed, self.epoch = items, batch_size, seed, 0
        self.smallest = smallest

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(1 for _ in self._bounds())

    def _bounds(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.items, self.batch_size):
            stop = min(start + self.batch_size, self.items)
            if stop - start >= self.smallest:
                yield start, stop

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.items).tolist()
        for start, stop in self._bounds():
            yield order[start:stop]


def spot_loader(dataset: SpotDataset, batch_size: int, seed: int) -> DataLoader[dict[str, Tensor]]:
    """Loader of shuffled batches for :func:`train`."""
    sampler = ShuffledBatches(len(dataset), batch_size, seed)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def section_loader(dataset: SectionDataset, seed: int) -> DataLoader[dict[str, Tensor]]:
    """Loader of one section a batch, in random order, for :func:`train`."""
    sampler = ShuffledBatches(len(dataset), 1, seed, smallest=1)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


class _Fed:
    """Batches of a loader on a device, made one ahead."""

    def __init__(self, loader: DataLoader[dict[str, Tensor]], device: str) -> None:
        self.loader, self.device = loader, device
        self.dataset, self.sampler = loader.dataset, loader.sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return fed(self.loader, self.device)


def on_device(
    loader: DataLoader[dict[str, Tensor]], device: str
) -> DataLoader[dict[str, Tensor]] | _Fed:
    """Batches of a loader on a device.

    Spots that fit into half of a GPU's free memory are moved there once; batches of others, and of
    sections, are made and copied while the one before is worked on.
    """
    if device == "cpu":
        return loader
    dataset = loader.dataset
    if isinstance(dataset, SpotDataset) and dataset.nbytes <= _room(device):
        dataset.to(device)
        return loader
    return _Fed(loader, device)


def _room(device: str) -> float:
    if device != "cuda":  # elsewhere host and GPU share one memory
        return 0.0
    free, _ = torch.cuda.mem_get_info()
    return _SHARE_OF_FREE * free
