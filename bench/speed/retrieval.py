"""Retrieval by the harness against the loop over spots of the released evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bench.blocks.retrieval import retrieve
from bench.speed.machine import Stopwatch, ratios, spread

_COMPARED = 50
"""Queries whose predictions are compared. Among many more, one has two cosines so close at the last
neighbour that rounding decides which of the keys it is."""


@dataclass(frozen=True)
class RetrievalSize:
    """How much is looked up in how much.

    Attributes
    ----------
    queries, keys
        Spots to predict, and spots of the bank.
    top_k
        Neighbours a prediction is made of.
    width
        Length of an embedding.
    genes
        Length of a prediction.
    sample
        Queries that the loops are measured on, their time being in proportion to them; enough of
        them that what is done once, scaling the keys to length one, does not count.
    """

    queries: int = 2_000
    keys: int = 30_000
    top_k: int = 200
    width: int = 256
    genes: int = 785
    sample: int = 500


def spot_by_spot(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, top_k: int
) -> np.ndarray:
    """Predictions in NumPy, one query after the other from beginning to end.

    Candidates by cosine; weights by the inverse square of the L1 distance of the raw embeddings.

    Parameters
    ----------
    queries : (q, d) float32
    keys : (n, d) float32
    values : (n, genes) float32
    top_k : number of keys a query

    Returns
    -------
    (q, genes) float64
    """
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    nearest = (np.argsort(-(unit @ (q / np.linalg.norm(q))))[:top_k] for q in queries)
    return _weighted(queries, keys, values, nearest)


def after_one_product(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, top_k: int
) -> np.ndarray:
    """The same, with the candidates of all queries found at once, as the released evaluations do.

    They are found by a matrix product and ``torch.topk``, so that the loop is over distances and
    means alone.
    """
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
    size: RetrievalSize, device: str, repeats: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Queries a second of the harness and of the two loops, taken by turns.

    Parameters
    ----------
    size
        Numbers of queries, keys and so on.
    device
        Where the harness looks up; the loops stay on the CPU.
    repeats
        Measurements of each.
    progress
        Told what is being done.

    Returns
    -------
    dict
        ``size``; ``harness``, ``loop`` (:func:`spot_by_spot`) and ``after_one_product`` with
        ``queries_per_second``; ``ratio`` and ``ratio_to_after_one_product`` of the first to the
        others; ``largest_difference`` of the predictions of the first queries from the loop's,
        relative to the largest value.
    """
    progress(f"retrieval of {size.queries} queries in {size.keys} keys")
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((size.queries, size.width), dtype=np.float32)
    keys = rng.standard_normal((size.keys, size.width), dtype=np.float32)
    values = rng.random((size.keys, size.genes), dtype=np.float32)
    sample = queries[: size.sample]

    def harness(part: np.ndarray) -> np.ndarray:
        # From arrays to arrays: moving the bank to the device is part of the work.
        moved = [torch.from_numpy(array).to(device) for array in (part, keys, values)]
        with torch.inference_mode():
            found = retrieve(moved[0], moved[1], moved[2], top_k=size.top_k, distance="l1")
        return found.cpu().numpy()

    fast = harness(sample[:_COMPARED])
    slow = spot_by_spot(sample[:_COMPARED], keys, values, size.top_k)
    rates: dict[str, list[float]] = {"harness": [], "loop": [], "after_one_product": []}
    for _ in range(repeats):
        watch = Stopwatch(device)
        harness(queries)
        rates["harness"].append(len(queries) / watch.seconds())
        for name, loop in (("loop", spot_by_spot), ("after_one_product", after_one_product)):
            watch = Stopwatch("cpu")
            loop(sample, keys, values, size.top_k)
            rates[name].append(len(sample) / watch.seconds())
    return {
        "size": asdict(size),
        **{name: {"queries_per_second": spread(found)} for name, found in rates.items()},
        "measured_on": len(sample),
        "ratio": ratios(rates["harness"], rates["loop"]),
        "ratio_to_after_one_product": ratios(rates["harness"], rates["after_one_product"]),
        "largest_difference": float(np.abs(fast - slow).max() / np.abs(slow).max()),
    }
