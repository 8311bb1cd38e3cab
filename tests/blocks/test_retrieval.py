import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.blocks import retrieval
from bench.blocks.retrieval import retrieve, retrieve_each

SETTINGS = [
    {"distance": distance, "weighting": weighting}
    for distance in ("l1", "l2", "cosine")
    for weighting in ("inverse_square", "exponential", "mean")
]


class LargestArray(TorchDispatchMode):
    """Elements of the largest array that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return found


def plain(queries, keys, values, top_k, distance, weighting="exponential"):
    """Retrieval in NumPy, one query after the other."""
    rows = []
    for query in queries:
        cosine = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:top_k]
        gap = np.abs(keys[nearest] - query)
        far = gap.sum(axis=1) ** 2 if distance == "l1" else (gap**2).sum(axis=1)
        if distance == "cosine":
            far = (1 - cosine[nearest]) ** 2
        if weighting == "exponential":
            weights = np.exp(-(far - far.min()))
        else:
            weights = 1 / far if weighting == "inverse_square" else np.ones(top_k)
        rows.append(weights @ values[nearest] / weights.sum())
    return np.stack(rows)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("top_k", [1, 6, 40])
def test_predictions_equal_an_independent_computation(setting, top_k):
    rng = np.random.default_rng(top_k)
    queries, keys = 0.4 * rng.standard_normal((9, 5)), 0.4 * rng.standard_normal((30, 5))
    values = rng.standard_normal((30, 4))
    found = retrieve(*map(torch.from_numpy, (queries, keys, values)), top_k=top_k, **setting)
    wanted = plain(queries, keys, values, min(top_k, 30), **setting)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_exponential_weights_are_finite_where_the_released_ones_overflow():
    # The key nearest by cosine lies far out on the query's line, the other right beside it.
    query = torch.tensor([[10.0, 0.0]])
    keys = torch.tensor([[1000.0, 0.0], [10.0, 1.0], [-1000.0, 0.0]])
    values = torch.tensor([[1.0], [2.0], [3.0]])
    found = retrieve(query, keys, values, top_k=3, weighting="exponential")
    torch.testing.assert_close(found, torch.tensor([[2.0]]))


def rows_of_many_kinds(width):
    """Rows whose largest values are hard to find: sorted, tied, undefined, far apart."""
    rng = np.random.default_rng(width)
    rising = np.arange(width, dtype=np.float32)
    ends = np.zeros(width, dtype=np.float32)
    ends[[0, -1]] = 1
    undefined = rng.standard_normal(width)
    undefined[:: max(1, width // 3)] = np.nan
    rows = [rising, rising[::-1], 0 * rising, rising % 3, ends, -np.inf + 0 * ends, undefined]
    rows += [rising % max(1, width // fold) for fold in (4, 16)]
    return np.stack([*rows, *rng.standard_normal((3, width))]).astype(np.float32)


@pytest.mark.parametrize("width", [1, 4, 16, 17, 63, 64, 257, 1000, 4099])
@pytest.mark.parametrize("count", [1, 3, 16, 60, 4099])
def test_the_largest_of_a_row_are_found(width, count):
    rows = rows_of_many_kinds(width)
    count = min(width, count)
    columns = retrieval._columns_of_largest(torch.from_numpy(rows), count).numpy()
    assert columns.shape == (len(rows), count)
    assert all(len(set(row)) == count for row in columns)
    # As in `torch.topk`, a value that is not a number is larger than all others.
    ranked = np.where(np.isnan(rows), np.inf, rows)
    found = np.sort(np.take_along_axis(ranked, columns, axis=1))
    np.testing.assert_array_equal(found, np.sort(ranked)[:, width - count :])


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("elements", [1, 300, 640])
def test_chunks_of_any_size_give_the_same(setting, elements, monkeypatch):
    rng = np.random.default_rng(0)
    queries, keys = torch.from_numpy(rng.standard_normal((2, 60, 8)))
    values = torch.from_numpy(rng.standard_normal((60, 7)))
    wanted = plain(*(part.numpy() for part in (queries, keys, values)), top_k=3, **setting)
    monkeypatch.setattr(retrieval, "_CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(retrieval, "_GATHERED_ELEMENTS", elements // 5)
    found = retrieve(queries, keys, values, top_k=3, **setting)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("top_k", [5, 150, 400])
def test_no_array_is_larger_than_a_chunk(top_k, monkeypatch):
    monkeypatch.setattr(retrieval, "_CHUNK_ELEMENTS", 4000)
    monkeypatch.setattr(retrieval, "_GATHERED_ELEMENTS", 4000)
    queries, keys, values = torch.randn(1000, 4), torch.randn(400, 4), torch.randn(400, 3)
    with LargestArray() as largest:
        retrieve(queries, keys, values, top_k=top_k)
    assert largest.elements == 4000


@pytest.mark.parametrize("setting", SETTINGS)
def test_predictions_are_float64_where_values_are(setting):
    rng = np.random.default_rng(0)
    queries, keys = torch.from_numpy(rng.standard_normal((2, 9, 8), dtype=np.float32))
    values = torch.full((9, 2), 1 / 3, dtype=torch.float64)
    found = retrieve(queries, keys, values, top_k=7, **setting)
    assert found.dtype == torch.float64
    # The weights are of float32 embeddings, and their sum is one as far as float32 goes.
    torch.testing.assert_close(found, values, rtol=2e-7, atol=0)


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_queries_give_no_predictions(setting):
    keys, values = torch.randn(5, 4), torch.randn(5, 3)
    found = retrieve(torch.empty(0, 4), keys, values, top_k=2, **setting)
    assert found.shape == (0, 3)


def test_embeddings_that_a_network_is_learning_may_be_given():
    queries, keys, values = (torch.randn(5, 4, requires_grad=True) for _ in range(3))
    found = retrieve(queries, keys, values, top_k=2)
    assert not found.requires_grad
    torch.testing.assert_close(found, retrieve(queries.detach(), keys, values, top_k=2))


def test_arrays_may_be_transposed_views():
    queries, keys, values = torch.randn(3, 6, 4, dtype=torch.float64).unbind()
    turned = [part.T.contiguous().T for part in (queries, keys, values)]
    torch.testing.assert_close(retrieve(*turned, top_k=2), retrieve(queries, keys, values, top_k=2))


@pytest.mark.parametrize("weighting", ["inverse_square", "exponential"])
def test_an_undefined_query_spoils_only_its_own_prediction(weighting):
    queries, keys, values = torch.randn(3, 50, 4).unbind()
    wanted = retrieve(queries, keys, values, top_k=2, weighting=weighting)
    queries, wanted = queries.clone(), wanted.clone()
    queries[7], wanted[7] = torch.nan, torch.nan
    found = retrieve(queries, keys, values, top_k=2, weighting=weighting)
    torch.testing.assert_close(found, wanted, equal_nan=True)


def test_slides_share_a_bank_whose_keys_are_scaled_once(monkeypatch):
    rng = np.random.default_rng(0)
    slides = [torch.from_numpy(rng.standard_normal((spots, 4))) for spots in (3, 0, 5)]
    keys, values = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    scaled = []

    def normalize(array, dim):
        scaled.append(len(array))
        return array / array.norm(dim=dim, keepdim=True)

    monkeypatch.setattr(retrieval.F, "normalize", normalize)
    settings = [{"top_k": top_k, **one} for top_k, one in zip((1, 4, 30), SETTINGS, strict=False)]
    found = list(retrieve_each(slides, keys, values, settings))
    assert scaled.count(len(keys)) == 1
    for setting, predictions in zip(settings, found, strict=True):
        top_k = min(setting["top_k"], 20)
        for queries, prediction in zip(slides, predictions, strict=True):
            assert prediction.shape == (len(queries), 2)
            if len(queries):
                wanted = plain(queries.numpy(), keys, values, **{**setting, "top_k": top_k})
                np.testing.assert_allclose(prediction, wanted, rtol=1e-10)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_gpu_is_never_waited_for(setting):
    # Arrays of the meta device have no values: an operation that reads one back raises.
    queries, keys, values = torch.empty(3, 500, 8, device="meta").unbind()
    assert retrieve(queries, keys, values, top_k=7, **setting).shape == (500, 8)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_gpu_predicts_the_same(device):
    if not getattr(torch, device).is_available():
        pytest.skip(f"no {device} here")
    arrays = torch.randn(3, 500, 8).unbind()
    for setting in SETTINGS:
        found = retrieve(*(part.to(device) for part in arrays), top_k=7, **setting)
        torch.testing.assert_close(found.cpu(), retrieve(*arrays, top_k=7, **setting))
