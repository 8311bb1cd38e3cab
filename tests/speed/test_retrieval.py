import numpy as np
import pytest

from bench.blocks import retrieval as block
from bench.speed import retrieval
from bench.speed.retrieval import (
    RetrievalSize,
    after_one_product,
    measure_retrieval,
    spot_by_spot,
)


@pytest.mark.parametrize("loop", [spot_by_spot, after_one_product])
def test_a_loop_keeps_the_order_of_queries_and_weighs_by_l1(loop):
    keys = np.array([[1, 0], [4, 0.5], [0, 1], [-1, -1]], dtype=np.float32)
    queries = np.array([[0, 3], [2, 0]], dtype=np.float32)
    values = np.diag([1, 10, 100, 1000]).astype(np.float32)
    # L1 distances: 2 and 6.5 of the first query from keys 2 and 1, 1 and 2.5 of the second from
    # keys 0 and 1.
    first, second = (2 / 6.5) ** 2, (1 / 2.5) ** 2
    wanted = [
        [0, 10 * first / (1 + first), 100 / (1 + first), 0],
        [1 / (1 + second), 10 * second / (1 + second), 0, 0],
    ]
    found = loop(queries, keys, values, 2)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(("queries", "sample"), [(30, 12), (7, 12)])
def test_no_more_of_the_sample_is_compared_than_there_is(monkeypatch, queries, sample):
    monkeypatch.setattr(retrieval, "_COMPARED", 9)
    size = RetrievalSize(queries=queries, keys=300, top_k=5, width=8, genes=4, sample=sample)
    found = measure_retrieval(size, "cpu", 1, lambda what: None)
    assert found["measured_on"] == min(queries, sample)
    assert 0 < found["largest_difference"] <= 1e-5


def test_a_prediction_that_differs_shows(monkeypatch):
    monkeypatch.setattr(block, "_weights", lambda norm, weighting: norm / norm.sum(1, keepdim=True))
    size = RetrievalSize(queries=30, keys=300, top_k=5, width=8, genes=4, sample=12)
    assert measure_retrieval(size, "cpu", 1, lambda what: None)["largest_difference"] > 1e-3
