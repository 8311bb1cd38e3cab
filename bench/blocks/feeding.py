"""Batches on their way to a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from torch import Tensor

_Made = TypeVar("_Made")
_Batch = TypeVar("_Batch", Tensor, dict[str, Tensor])


def prefetch(batches: Iterable[_Batch], device: str) -> Iterator[_Batch]:
    """Batches on a device; while one is worked on, a thread makes the next one.

    Parameters
    ----------
    batches
        Tensors, or tensors by name, in the memory of the host.
    device
        ``cpu`` takes them as they come.
    """
    if device == "cpu":
        yield from batches
        return
    # From pinned memory the copy runs beside the computation; a pageable one would wait for it.
    ready = ahead(batches, Tensor.pin_memory) if device == "cuda" else iter(batches)
    for batch in ready:
        yield _each(batch, lambda value: value.to(device, non_blocking=True))


def ahead(batches: Iterable[_Batch], prepare: Callable[[Tensor], Tensor]) -> Iterator[_Batch]:
    """Batches made and prepared by a thread, one ahead of the one that was taken last.

    What the making raises is raised where the batch would have come.
    """
    source = iter(batches)

    def make() -> _Batch | None:
        batch = next(source, None)
        return None if batch is None else _each(batch, prepare)

    with ThreadPoolExecutor(1, "batches") as thread:
        waiting = thread.submit(make)
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(make)
            yield batch


def _each(batch: _Batch, change: Callable[[Tensor], Tensor]) -> _Batch:
    if isinstance(batch, Tensor):
        return change(batch)
    return {name: change(value) for name, value in batch.items()}
