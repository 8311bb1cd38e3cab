"""Retrieval by the harness, against the NumPy loops of the released evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bench.blocks.retrieval import retrieve
from benchmarks.timing import seconds_of, summary

_WIDTH, _TOP_K = 256, 200
_SAMPLE = 500
"""Queries of the loops, whose time is proportional to them."""
_COMPARED = 50
"""Queries whose predictions are compared. With many more, two cosines at the last neighbour can be
so close that rounding decides which key is taken."""


def spot_by_spot(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, top_k: int
) -> np.ndarray:
    """Predictions (queries, genes), one query after the other.

    Candidates by cosine; weights by the inverse square of the L1 distance of the raw embeddings.
    """
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    nearest = (np.argsort(-(unit @ (q / np.linalg.norm(q))))[:top_k] for q in queries)
    return _weighted(queries, keys, values, nearest)


def after_one_product(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, top_k: int
) -> np.ndarray:
    """The same; one matrix product and ``topk`` find the candidates of all queries."""
    unit = [F.normalize(torch.from_numpy(array), dim=1) for array in (queries, keys)]
    nearest = (unit[0] @ unit[1].T).topk(top_k, dim=1).indices.numpy()
    return _weighted(queries, keys, values, nearest)


def _weighted(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, nearest: Iterable[np.ndarray]
) -> np.ndarray:
    found = np.empty((len(queries), values.shape[1]))
    for row, (query, columns) in enumerate(zip(queries, nearest, strict=True)):
        distance = np.linalg.norm(keys[columns] - query, ord=1, axis=1).astype(np.float64)
        found[row] = np.average(values[columns], axis=0, weights=1 / distance**2)
    return found


def measure_retrieval(
    queries: int, keys: int, genes: int, device: str, repeats: int
) -> dict[str, Any]:
    """Queries per second of the harness on `device` and of both loops on the CPU, by turns.

    ``largest_difference`` is that of the first predictions from the loop's, relative to the largest
    value.
    """
    rng = np.random.default_rng(0)
    asked = rng.standard_normal((queries, _WIDTH), dtype=np.float32)
    bank = rng.standard_normal((keys, _WIDTH), dtype=np.float32)
    values = rng.random((keys, genes), dtype=np.float32)
    sample, top_k = asked[:_SAMPLE], min(_TOP_K, keys)

    def harness(part: np.ndarray) -> np.ndarray:
        # From arrays to arrays: moving the bank to the device is part of the work.
        moved = [torch.from_numpy(array).to(device) for array in (part, bank, values)]
        with torch.inference_mode():
            found = retrieve(moved[0], moved[1], moved[2], top_k=top_k, distance="l1")
        return found.cpu().numpy()

    fast = harness(sample[:_COMPARED])
    slow = spot_by_spot(sample[:_COMPARED], bank, values, top_k)
    loops = {"spot_by_spot": spot_by_spot, "after_one_product": after_one_product}
    rates: dict[str, list[float]] = {"harness": [], **{name: [] for name in loops}}
    for _ in range(repeats):
        rates["harness"].append(queries / seconds_of(lambda: harness(asked), device))
        for name, loop in loops.items():
            duration = seconds_of(partial(loop, sample, bank, values, top_k), "cpu")
            rates[name].append(len(sample) / duration)
    largest = float(np.abs(fast - slow).max() / np.abs(slow).max())
    return {"queries": queries, "keys": keys, **summary(rates), "largest_difference": largest}
