import numpy as np
import pytest
import torch

from bench.blocks.retrieval import retrieve


def plain(queries, keys, values, top_k, distance):
    """The exponential weighting in NumPy, one query after the other."""
    rows = []
    for query in queries:
        cosine = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:top_k]
        gap = np.abs(keys[nearest] - query)
        far = gap.sum(axis=1) ** 2 if distance == "l1" else (gap**2).sum(axis=1)
        weights = np.exp(-(far - far.min()))
        rows.append(weights @ values[nearest] / weights.sum())
    return np.stack(rows)


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("top_k", [1, 6, 40])
def test_exponential_weights_equal_an_independent_computation(distance, top_k):
    rng = np.random.default_rng(top_k)
    queries, keys = 0.4 * rng.standard_normal((9, 5)), 0.4 * rng.standard_normal((30, 5))
    values = rng.standard_normal((30, 4))
    found = retrieve(
        *map(torch.from_numpy, (queries, keys, values)),
        top_k=top_k,
        distance=distance,
        weighting="exponential",
    )
    wanted = plain(queries, keys, values, min(top_k, 30), distance)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_exponential_weights_are_finite_where_the_released_ones_overflow():
    # The key nearest by cosine lies far out on the query's line, the other right beside it.
    query = torch.tensor([[10.0, 0.0]])
    keys = torch.tensor([[1000.0, 0.0], [10.0, 1.0], [-1000.0, 0.0]])
    values = torch.tensor([[1.0], [2.0], [3.0]])
    found = retrieve(query, keys, values, top_k=3, weighting="exponential")
    torch.testing.assert_close(found, torch.tensor([[2.0]]))
