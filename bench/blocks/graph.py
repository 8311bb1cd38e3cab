"""The graph of neighbouring spots on a section's array."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def neighbour_edges(
    array_xy: np.ndarray, neighbours: int, radius: float | None = None
) -> np.ndarray:
    """Directed edges from every spot to its nearest others.

    Parameters
    ----------
    array_xy
        (spots, 2) array coordinates.
    neighbours
        Nearest other spots per spot by Euclidean distance; all others if there are fewer. Of
        equally near ones the earlier in the section is taken. A spot is not its own neighbour,
        even where another has the same coordinates.
    radius
        Largest distance of a neighbour; no limit where None. A spot may then have none.

    Returns
    -------
    (2, edges) int64: spot, and its neighbour; ordered by spot
    """
    position = np.asarray(array_xy, dtype=np.float64)
    found = []
    for spot, centre in enumerate(position):
        distance = np.sqrt(((position - centre) ** 2).sum(axis=1))
        distance[spot] = np.inf
        nearest = np.argsort(distance, kind="stable")[: min(neighbours, len(position) - 1)]
        if radius is not None:
            nearest = nearest[distance[nearest] <= radius]
        found.append(np.stack([np.full(len(nearest), spot), nearest]))
    return np.concatenate(found, axis=1).astype(np.int64)


def neighbour_mean(values: Tensor, edges: Tensor) -> Tensor:
    """Mean over each spot's neighbours; a spot without any keeps its own values.

    Parameters
    ----------
    values : (spots, width)
    edges : (2, edges) int64, see :func:`neighbour_edges`

    Returns
    -------
    (spots, width)
    """
    spot, neighbour = edges
    degree = torch.zeros(len(values), dtype=values.dtype, device=values.device)
    degree = degree.index_add(0, spot, torch.ones_like(spot, dtype=values.dtype))
    total = torch.zeros_like(values).index_add(0, spot, values[neighbour])
    alone = (degree == 0)[:, None]
    return torch.where(alone, values, total / degree.clamp_min(1)[:, None])


def dense_neighbour_mean(values: Tensor, edges: Tensor) -> Tensor:
    """Mean over each spot's neighbours by a product with the whole adjacency matrix.

    Equal to :func:`neighbour_mean` while every spot has a neighbour. The row of a spot without
    any is 0 / 0, so its mean is NaN, and where such values come in, every spot's mean is NaN:
    what released networks of the field do.

    Parameters
    ----------
    values : (spots, width)
    edges : (2, edges) int64, see :func:`neighbour_edges`

    Returns
    -------
    (spots, width)
    """
    spot, neighbour = edges
    adjacency = torch.zeros(len(values), len(values), dtype=values.dtype, device=values.device)
    adjacency[spot, neighbour] = 1
    return (adjacency / adjacency.sum(dim=1, keepdim=True)) @ values
