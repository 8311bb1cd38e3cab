"""Spots and sections as batches of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.blocks.feeding import prefetch

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
        # Sections are not joined: that would double the memory of the fold's expression.
        self._parts = {name: list(parts) for name, parts in {**arrays, "patches": patches}.items()}
        self._starts = np.cumsum([0, *(len(part) for part in patches)])
        self._moved: dict[str, Tensor] | None = None

    @property
    def arrays(self) -> Mapping[str, Sequence[np.ndarray]]:
        """The named values, one array a section."""
        return {name: parts for name, parts in self._parts.items() if name != "patches"}

    @property
    def nbytes(self) -> int:
        """Memory that patches and named values take."""
        return sum(part.nbytes for parts in self._parts.values() for part in parts)

    def to(self, device: str) -> None:
        """Move patches and named values to a device, which then makes the batches."""
        self._moved = {name: _joined(parts, device) for name, parts in self._parts.items()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, spots: Sequence[int]) -> dict[str, Tensor]:
        """Batch of `spots`: ``patches`` as (n, 3, height, width) uint8, and the named arrays."""
        if self._moved is None:
            chosen = np.asarray(spots)
            section = np.searchsorted(self._starts, chosen, side="right") - 1
            places = list(zip(section, chosen - self._starts[section], strict=True))
            batch = {
                name: torch.from_numpy(np.stack([parts[s][i] for s, i in places]))
                for name, parts in self._parts.items()
            }
        else:
            rows = torch.tensor(spots).to(self._moved["patches"].device, non_blocking=True)
            batch = {name: values[rows] for name, values in self._moved.items()}
        batch["patches"] = batch["patches"].permute(0, 3, 1, 2)
        return batch


def _joined(parts: Sequence[np.ndarray], device: str) -> Tensor:
    """Arrays one after the other on a device, brought there slice by slice."""
    like = torch.from_numpy(np.array(parts[0][:0]))
    joined = torch.empty((sum(map(len, parts)), *like.shape[1:]), dtype=like.dtype, device=device)
    start = 0
    for part in parts:
        for first in range(0, len(part), _MOVED_AT_ONCE):
            some = torch.from_numpy(np.array(part[first : first + _MOVED_AT_ONCE]))
            joined[start : start + len(some)] = some.to(device)
            start += len(some)
    return joined


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

    Parameters
    ----------
    items
        Number of items.
    batch_size
        Items of a batch.
    seed
        Of the order, which differs between epochs.
    smallest
        Fewest items of the last batch; a smaller rest is left out.
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
    """Loader of shuffled batches for :func:`train`.

    Parameters
    ----------
    dataset
        Spots of the training sections.
    batch_size
        Spots of a batch.
    seed
        Of the order.

    Returns
    -------
    DataLoader
        Yields mappings of tensors whose first axis is the spots of the batch.
    """
    sampler = ShuffledBatches(len(dataset), batch_size, seed)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def section_loader(dataset: SectionDataset, seed: int) -> DataLoader[dict[str, Tensor]]:
    """Loader of one section a batch, in random order, for :func:`train`.

    Parameters
    ----------
    dataset
        Sections.
    seed
        Of the order.

    Returns
    -------
    DataLoader
        Yields a mapping of tensors, one section at a time.
    """
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
        return prefetch(self.loader, self.device)


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
