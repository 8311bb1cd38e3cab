"""Retrieval in batches against retrieval one spot after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from bench.blocks.retrieval import retrieve
from bench.speed.machine import Stopwatch, ratios, spread


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
        Queries that the loop is measured on; its time is in proportion to them.
    """

    queries: int = 2_000
    keys: int = 30_000
    top_k: int = 200
    width: int = 256
    genes: int = 785
    sample: int = 50


def spot_by_spot(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, top_k: int
) -> np.ndarray:
    """Prediction of one query after the other in NumPy, as the released evaluations do it.

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
    rows = []
    for query in queries:
        cosine = unit @ (query / np.linalg.norm(query))
        nearest = np.argsort(-cosine)[:top_k]
        distance = np.abs(keys[nearest] - query).sum(axis=1, dtype=np.float64)
        rows.append(np.average(values[nearest], axis=0, weights=1 / distance**2))
    return np.stack(rows)


def measure_retrieval(
    size: RetrievalSize, device: str, repeats: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Queries a second of the harness and of the loop, taken by turns.

    Parameters
    ----------
    size
        Numbers of queries, keys and so on.
    device
        Where the harness looks up; the loop stays in NumPy.
    repeats
        Measurements of each.
    progress
        Told what is being done.

    Returns
    -------
    dict
        ``size``; ``harness`` and ``loop`` with ``queries_per_second``; ``ratio`` of the two;
        ``largest_difference`` of their predictions of the sample, relative to the largest value.
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

    fast, slow = harness(sample), spot_by_spot(sample[:2], keys, values, size.top_k)
    rates: dict[str, list[float]] = {"harness": [], "loop": []}
    for _ in range(repeats):
        watch = Stopwatch(device)
        harness(queries)
        rates["harness"].append(len(queries) / watch.seconds())
        watch = Stopwatch("cpu")
        slow = spot_by_spot(sample, keys, values, size.top_k)
        rates["loop"].append(len(sample) / watch.seconds())
    return {
        "size": asdict(size),
        "harness": {"queries_per_second": spread(rates["harness"])},
        "loop": {
            "queries_per_second": spread(rates["loop"]),
            "measured_on": len(sample),
            "seconds_for_all_queries_extrapolated": len(queries) / spread(rates["loop"])["median"],
        },
        "ratio": ratios(rates["harness"], rates["loop"]),
        "largest_difference": float(np.abs(fast - slow).max() / np.abs(slow).max()),
    }
