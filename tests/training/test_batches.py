"""Batches of spots, gathered by the host or by the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.training import batches
from bench.training.batches import (
    SectionDataset,
    SpotDataset,
    on_device,
    section_loader,
    spot_loader,
)


@pytest.fixture
def dataset():
    """1,500 spots in three sections, one of them empty."""
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (1200, 0, 300)]
    values = [rng.normal(size=len(part)).astype(np.float32) for part in patches]
    return SpotDataset(patches, {"value": values})


def assert_same_batches(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def test_a_batch_is_what_was_asked_for(dataset):
    batch = dataset[[1200, 3]]
    assert batch["patches"].shape == (2, 3, 4, 4)
    first, _, last = dataset._parts["patches"]
    assert torch.equal(batch["patches"][0], torch.from_numpy(last[0]).permute(2, 0, 1))
    assert torch.equal(batch["patches"][1], torch.from_numpy(first[3]).permute(2, 0, 1))


def test_patches_are_channels_last_with_nothing_copied_twice(dataset):
    patches = dataset[[0, 1]]["patches"]
    assert patches.is_contiguous(memory_format=torch.channels_last)


def test_moved_data_make_the_same_batches(dataset):
    wanted = list(spot_loader(dataset, 128, seed=5))
    dataset.to("cpu")
    assert_same_batches(list(spot_loader(dataset, 128, seed=5)), wanted)
    patches = dataset[[0, 1]]["patches"]
    assert patches.is_contiguous(memory_format=torch.channels_last)


def test_size_counts_patches_and_values(dataset):
    assert dataset.nbytes == 1500 * (4 * 4 * 3 + 4)


def test_on_the_processor_nothing_is_moved(dataset):
    loader = spot_loader(dataset, 128, seed=5)
    assert on_device(loader, "cpu") is loader


class Anywhere:
    """Lets code for a GPU run on the processor."""

    def __init__(self, monkeypatch, room):
        self.moved = []
        monkeypatch.setattr(batches, "_room", lambda device: room)
        monkeypatch.setattr(SpotDataset, "to", lambda this, device: self.moved.append(device))
        monkeypatch.setattr(batches, "prefetch", lambda made, device: iter(made))


def test_data_that_fit_are_moved(dataset, monkeypatch):
    device = Anywhere(monkeypatch, room=dataset.nbytes)
    loader = spot_loader(dataset, 128, seed=5)
    assert on_device(loader, "cuda") is loader
    assert device.moved == ["cuda"]


def test_data_that_do_not_fit_come_batch_by_batch(dataset, monkeypatch):
    device = Anywhere(monkeypatch, room=dataset.nbytes - 1)
    loader = spot_loader(dataset, 128, seed=5)
    made = on_device(loader, "cuda")
    assert device.moved == []
    assert len(made) == len(loader)
    assert (made.sampler, made.dataset) == (loader.sampler, dataset)
    made.sampler.set_epoch(2)
    assert_same_batches(list(made), list(loader))


def test_sections_come_one_by_one(monkeypatch):
    Anywhere(monkeypatch, room=1e9)
    patches = [np.full((n, 2, 2, 3), n, dtype=np.uint8) for n in (2, 3)]
    loader = section_loader(SectionDataset(patches, {"value": patches}), seed=0)
    assert_same_batches(list(on_device(loader, "cuda")), list(loader))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_of_the_gpu_are_those_of_the_processor(dataset):
    wanted = list(spot_loader(dataset, 128, seed=5))
    found = list(on_device(spot_loader(dataset, 128, seed=5), "cuda"))
    assert all(value.is_cuda for batch in found for value in batch.values())
    assert_same_batches([{k: v.cpu() for k, v in batch.items()} for batch in found], wanted)
