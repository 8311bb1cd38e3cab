"""Batches on their way to a device."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from bench.blocks.feeding import ahead, prefetch


def numbered(count, made=None):
    for number in range(count):
        if made is not None:
            made.append(number)
        yield {"value": torch.full((2,), number)}


def test_batches_come_whole_and_in_order_and_prepared():
    found = [batch["value"].tolist() for batch in ahead(numbered(5), lambda value: value * 10)]
    assert found == [[n * 10] * 2 for n in range(5)]


def test_plain_tensors_are_batches_too():
    assert [int(t) for t in ahead((torch.tensor(n) for n in range(3)), torch.neg)] == [0, -1, -2]


def test_nothing_comes_of_nothing():
    assert list(ahead(iter(()), torch.neg)) == []


def test_one_batch_is_made_while_another_is_worked_on_and_no_more():
    made = []
    batches = ahead(numbered(6, made), lambda value: value)
    next(batches)
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1]
    assert len(list(batches)) == 5


def test_batches_are_made_by_another_thread():
    threads = set()

    def prepare(value):
        threads.add(threading.get_ident())
        return value

    list(ahead(numbered(3), prepare))
    assert threads
    assert threading.get_ident() not in threads


def test_an_error_comes_in_the_place_of_the_batch():
    def broken():
        yield torch.tensor(1)
        raise ValueError("damaged")

    batches = ahead(broken(), lambda value: value)
    assert int(next(batches)) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(batches)


def test_batches_that_are_left_leave_no_thread():
    before = threading.active_count()
    batches = ahead(numbered(9), lambda value: value)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_the_processor_takes_batches_as_they_come():
    batch = {"value": torch.ones(2)}
    assert next(prefetch([batch], "cpu")) is batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_arrive_on_the_gpu():
    found = list(prefetch(numbered(4), "cuda"))
    assert all(batch["value"].is_cuda for batch in found)
    assert [int(batch["value"][0]) for batch in found] == [0, 1, 2, 3]
