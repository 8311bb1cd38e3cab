"""Prediction by looking up similar training spots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Distance = Literal["l1", "l2"]
Weighting = Literal["inverse_square", "exponential", "mean"]

_CHUNK_ELEMENTS = 1 << 24
"""Elements of the largest intermediate array: 64 MiB in float32."""


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
    for setting in settings:
        yield [retrieve(part, *bank, **setting).cpu().numpy() for part in queries]


def retrieve(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    top_k: int,
    distance: Distance = "l2",
    weighting: Weighting = "inverse_square",
) -> Tensor:
    """Weighted mean of the values of the `top_k` keys nearest to each query by cosine.

    Parameters
    ----------
    queries : (q, d)
    keys : (n, d)
    values : (n, genes)
    top_k : number of keys; all of them if there are fewer
    distance : distance between the raw embeddings that the weights are made of
    weighting : ``inverse_square`` of the distance, ``exponential`` (the exponential of the negative
        squared distance), or plain ``mean``

    Returns
    -------
    (q, genes) in the dtype of `values`

    Notes
    -----
    Candidates by cosine and weights by raw distance is how the released evaluation of mclSTExp
    does it. A query equal to a key takes that key's value; the released loop gives NaN there.
    The exponential is an alternative in BLEEP's released notebook, which takes it relative to the
    key nearest by cosine: the same weights, but infinite where another key is much nearer.
    """
    top_k = min(top_k, len(keys))
    unit_keys = F.normalize(keys, dim=1)
    per_query = max(len(keys), top_k * max(keys.shape[1], values.shape[1]))
    chunk = max(1, _CHUNK_ELEMENTS // per_query)
    return torch.cat(
        [
            _retrieve(part, unit_keys, keys, values, top_k, distance, weighting)
            for part in queries.split(chunk)
        ]
    )


def _retrieve(
    queries: Tensor,
    unit_keys: Tensor,
    keys: Tensor,
    values: Tensor,
    top_k: int,
    distance: Distance,
    weighting: Weighting,
) -> Tensor:
    similarity = F.normalize(queries, dim=1) @ unit_keys.T
    nearest = similarity.topk(top_k, dim=1).indices
    found = values[nearest]
    if weighting == "mean":
        return found.mean(dim=1)
    gap = keys[nearest] - queries[:, None, :]
    norm = gap.abs().sum(dim=2) if distance == "l1" else gap.square().sum(dim=2).sqrt()
    if weighting == "exponential":
        weights = torch.softmax(-norm.square(), dim=1)
        return torch.einsum("qk,qkg->qg", weights.to(found.dtype), found)
    # Relative to the nearest one, so that neither a tiny nor a huge distance overflows.
    smallest = norm.min(dim=1, keepdim=True).values.clamp_min(torch.finfo(norm.dtype).tiny)
    weights = (smallest / norm.clamp_min(torch.finfo(norm.dtype).tiny)).square()
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.einsum("qk,qkg->qg", weights.to(found.dtype), found)
