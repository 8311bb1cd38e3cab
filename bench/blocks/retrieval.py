"""Prediction by looking up similar training spots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Distance = Literal["l1", "l2", "cosine"]
Weighting = Literal["inverse_square", "exponential", "mean"]

_CHUNK_ELEMENTS = 1 << 24
"""Similarities held at once on a CPU: 64 MiB in float32."""
_GATHERED_ELEMENTS = 1 << 20
"""Elements of the keys gathered at once on a CPU: 4 MiB in float32, for its cache."""
_GPU_ELEMENTS = 1 << 27
"""The same two on a GPU, which only large arrays keep busy."""
_FOLD = 4
"""Columns laid on one another at each step of the search for the largest."""


def retrieve_each(
    queries: Sequence[Tensor],
    keys: np.ndarray,
    values: np.ndarray,
    settings: Iterable[Mapping[str, Any]],
) -> Iterator[list[np.ndarray]]:
    """Predictions of several slides from one bank, under each of several settings.

    Parameters
    ----------
    queries : one (spots, d) tensor a slide, on the device to work on
    keys : (n, d) float32 embedded training spots
    values : (n, genes) float32 their targets
    settings : arguments of :func:`retrieve`

    Yields
    ------
    list of np.ndarray
        One (spots, genes) array a slide.
    """
    device = queries[0].device if queries else "cpu"
    bank = torch.from_numpy(keys).to(device), torch.from_numpy(values).to(device)
    unit_keys = F.normalize(bank[0], dim=1)
    for setting in settings:
        yield [
            retrieve(part, *bank, **setting, unit_keys=unit_keys).cpu().numpy() for part in queries
        ]


def retrieve(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    top_k: int,
    distance: Distance = "l2",
    weighting: Weighting = "inverse_square",
    unit_keys: Tensor | None = None,
) -> Tensor:
    """Weighted mean of the values of the `top_k` keys nearest to each query by cosine.

    Parameters
    ----------
    queries : (q, d)
    keys : (n, d)
    values : (n, genes)
    top_k : number of keys; all of them if there are fewer
    distance : distance between the raw embeddings that the weights are made of; ``cosine`` is one
        minus the cosine
    weighting : ``inverse_square`` of the distance, ``exponential`` (the exponential of the negative
        squared distance), or plain ``mean``
    unit_keys : (n, d) keys scaled to length one, where the caller has them already

    Returns
    -------
    (q, genes) in the dtype of `values`, without a gradient

    Notes
    -----
    Candidates by cosine and weights by raw distance is how the released evaluation of mclSTExp
    does it. A query equal to a key takes that key's value; the released loop gives NaN there.
    The exponential is an alternative in BLEEP's released notebook, which takes it relative to the
    key nearest by cosine: the same weights, but infinite where another key is much nearer.
    """
    top_k = min(top_k, len(keys))
    most = _CHUNK_ELEMENTS if keys.device.type == "cpu" else _GPU_ELEMENTS
    rows = max(1, most // max(len(keys), values.shape[1]))
    # Results are written into arrays made once: fresh memory costs more than the work on it.
    with torch.no_grad():
        unit_keys = F.normalize(keys, dim=1) if unit_keys is None else unit_keys
        retrieved = values.new_empty(len(queries), values.shape[1])
        similarity = keys.new_empty(min(rows, len(queries)), len(keys))
        for part, into in zip(queries.split(rows), retrieved.split(rows), strict=True):
            cosine = similarity[: len(part)]
            torch.mm(F.normalize(part, dim=1), unit_keys.T, out=cosine)
            nearest = _columns_of_largest(cosine, top_k)
            if weighting == "mean":
                into.copy_(F.embedding_bag(nearest, values, mode="mean"))
                continue
            if distance == "cosine":
                distances = (1 - cosine.gather(1, nearest)).clamp_min_(0)
            else:
                distances = _distances(part, keys, nearest, distance)
            weights = _weights(distances, weighting)
            weights = weights.to(values.dtype)
            into.copy_(F.embedding_bag(nearest, values, per_sample_weights=weights, mode="sum"))
    return retrieved


def _columns_of_largest(rows: Tensor, count: int) -> Tensor:
    """(n, count) columns of the largest values of each row, in any order."""
    width = rows.shape[1] // _FOLD
    if width < _FOLD * count:
        return rows.topk(count, dim=1, sorted=False).indices
    # Folded, `_FOLD` columns lie on one another. No more than `count` of the folded columns can
    # hold one of the largest values, and these columns have the largest maxima.
    folded = rows[:, : _FOLD * width].unflatten(1, (_FOLD, width)).amax(dim=1)
    layers = torch.arange(0, _FOLD * width, width, device=rows.device)
    columns = (_columns_of_largest(folded, count)[:, None, :] + layers[:, None]).flatten(1)
    rest = torch.arange(_FOLD * width, rows.shape[1], device=rows.device)
    columns = torch.cat([columns, rest.expand(len(rows), -1)], dim=1)
    best = rows.gather(1, columns).topk(count, dim=1, sorted=False).indices
    return columns.gather(1, best)


def _weights(norm: Tensor, weighting: Weighting) -> Tensor:
    """(q, top_k) weights that sum to one for each query, from the distances."""
    if weighting == "exponential":
        return torch.softmax(-norm.square(), dim=1)
    # Relative to the nearest one, so that neither a tiny nor a huge distance overflows.
    norm = norm.clamp_min(torch.finfo(norm.dtype).tiny)
    weights = (norm.amin(dim=1, keepdim=True) / norm).square()
    return weights / weights.sum(dim=1, keepdim=True)


def _distances(queries: Tensor, keys: Tensor, nearest: Tensor, distance: Distance) -> Tensor:
    """(q, top_k) distances of each query from its `nearest` keys."""
    top_k, width = nearest.shape[1], keys.shape[1]
    most = _GATHERED_ELEMENTS if keys.device.type == "cpu" else _GPU_ELEMENTS
    rows = max(1, most // (top_k * width))
    distances = keys.new_empty(nearest.shape)
    gathered = keys.new_empty(min(rows, len(queries)) * top_k, width)
    parts = (array.split(rows) for array in (queries, nearest, distances))
    for part, columns, into in zip(*parts, strict=True):
        gap = gathered[: columns.numel()]
        torch.index_select(keys, 0, columns.flatten(), out=gap)
        gap = gap.view(*columns.shape, width).sub_(part[:, None, :])
        torch.sum(gap.abs_() if distance == "l1" else gap.square_(), dim=2, out=into)
    return distances if distance == "l1" else distances.sqrt_()
