"""The order of a training's batches."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.training.batches import ShuffledBatches


@given(
    items=st.integers(0, 60),
    size=st.integers(2, 20),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_batches_hold_each_item_once(items, size, seed, epoch):
    sampler = ShuffledBatches(items, size, seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(2 <= len(batch) <= size for batch in batches)
    found = [item for batch in batches for item in batch]
    dropped = items % size == 1
    assert len(found) == len(set(found)) == items - dropped
    assert set(found) <= set(range(items))


def test_batches_follow_from_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = ShuffledBatches(50, 7, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(0)
    first = order(1, 2)
    torch.manual_seed(5)
    np.random.default_rng().random()
    assert order(1, 2) == first
    assert len({str(order(*pair)) for pair in ((1, 2), (1, 3), (2, 2), (2, 1))}) == 4


def test_last_item_is_dropped_only_when_it_would_be_alone():
    assert [len(batch) for batch in ShuffledBatches(9, 4, 0)] == [4, 4]
    assert [len(batch) for batch in ShuffledBatches(10, 4, 0)] == [4, 4, 2]
    assert list(ShuffledBatches(1, 4, 0)) == []


def test_each_epoch_drops_another_item():
    left_out = set()
    sampler = ShuffledBatches(9, 4, 0)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        left_out |= set(range(9)) - {item for batch in sampler for item in batch}
    assert len(left_out) > 3
