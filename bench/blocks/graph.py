"""The graph of neighbouring spots on a section's array."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

_SPOTS_AT_ONCE = 1000
# Distances of the search tree and of the sorting may round apart.
_ROUNDING = 1 + 1e-9


def neighbour_edges(
    array_xy: np.ndarray,
    neighbours: int,
    radius: float | None = None,
    *,
    by_deviation: bool = False,
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
    by_deviation
        Of a spot's nearest others keep those that are no farther than the mean of their distances
        plus one population standard deviation; `radius` is applied before.

    Returns
    -------
    (2, edges) int64: spot, and its neighbour; ordered by spot
    """
    position = np.asarray(array_xy, dtype=np.float64)
    count = min(neighbours, len(position) - 1)
    tree = cKDTree(position)
    edges = []
    for start in range(0, len(position), _SPOTS_AT_ONCE):
        centres = position[start : start + _SPOTS_AT_ONCE]
        # Nearest to a spot is itself, so the last of its neighbours is one further on.
        reach = tree.query(centres, k=[count + 1])[0][:, 0]
        near = tree.query_ball_point(centres, reach * _ROUNDING)
        spot = np.repeat(np.arange(start, start + len(centres)), [len(others) for others in near])
        other = np.concatenate(near).astype(np.int64)
        distance = np.sqrt(((position[other] - position[spot]) ** 2).sum(axis=1))
        allowed = (spot != other) & (distance <= (np.inf if radius is None else radius))
        spot, other, distance = spot[allowed], other[allowed], distance[allowed]
        order = np.lexsort((other, distance, spot))
        spot, other, distance = spot[order], other[order], distance[order]
        first = np.arange(len(spot)) - np.searchsorted(spot, spot) < count
        spot, other, distance = spot[first], other[first], distance[first]
        if by_deviation:
            kept = distance <= _mean_and_deviation(spot, distance) * _ROUNDING
            spot, other = spot[kept], other[kept]
        edges.append(np.stack([spot, other]))
    return np.concatenate(edges, axis=1)


def _mean_and_deviation(spot: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Mean plus population deviation of the distances of each edge's spot, by edge."""
    _, group, degree = np.unique(spot, return_inverse=True, return_counts=True)
    mean = np.bincount(group, distance) / degree
    deviation = np.sqrt(np.bincount(group, (distance - mean[group]) ** 2) / degree)
    return np.asarray((mean + deviation)[group])


def neighbour_mean(values: Tensor, edges: Tensor) -> Tensor:
    """Mean over each spot's neighbours; a spot without any keeps its own values.

    Parameters
    ----------
    values : (spots, width)
    edges : (2, edges) int64, ordered by spot as :func:`neighbour_edges` gives them

    Returns
    -------
    (spots, width)
    """
    total, degree = _neighbour_sum(values, edges)
    return torch.where(degree == 0, values, total / degree.clamp_min(1))


def neighbour_mean_as_released(values: Tensor, edges: Tensor) -> Tensor:
    """Mean over each spot's neighbours as a product with the whole adjacency matrix gives it.

    Equal to :func:`neighbour_mean` while every spot has a neighbour and all values are finite.
    The matrix has the row 0 / 0 for a spot without any neighbour: its mean is NaN. As zero times
    NaN is NaN, one value that is not finite makes the means of all spots NaN, and one such row
    the gradients of all. So do released networks of the field; the matrix itself is not built.

    Parameters
    ----------
    values : (spots, width)
    edges : (2, edges) int64, ordered by spot as :func:`neighbour_edges` gives them

    Returns
    -------
    (spots, width)
    """
    total, degree = _neighbour_sum(values, edges)
    return total / degree + degree / degree * (0 * values).sum(dim=0)


def neighbour_max(values: Tensor, edges: Tensor) -> Tensor:
    """Component-wise maximum over each spot's neighbours; a spot without any keeps its own values.

    Parameters
    ----------
    values : (spots, width)
    edges : (2, edges) int64, ordered by spot as :func:`neighbour_edges` gives them

    Returns
    -------
    (spots, width)
    """
    spot, neighbour = edges
    if not len(spot):
        return values
    bounds = _bounds(spot, len(values))
    degree = bounds.diff()
    itself = torch.arange(len(values), device=values.device)
    # Rows are filled up with a spot's first neighbour, which leaves its maximum as it is.
    first = neighbour[bounds[:-1].clamp_max(len(spot) - 1)]
    first = torch.where(degree > 0, first, itself)
    table = first[:, None].repeat(1, int(degree.max()))
    table[spot, torch.arange(len(spot), device=spot.device) - bounds[spot]] = neighbour
    return values[table].max(dim=1).values


def _neighbour_sum(values: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """(spots, width) sums over neighbours, on CUDA too in a fixed order; (spots, 1) degrees."""
    spot, neighbour = edges
    bounds = _bounds(spot, len(values))
    total = F.embedding_bag(neighbour, values, bounds, mode="sum", include_last_offset=True)
    return total, bounds.diff()[:, None].to(values.dtype)


def _bounds(spot: Tensor, spots: int) -> Tensor:
    """(spots + 1,) first edge of each spot, and the number of edges."""
    return torch.searchsorted(spot, torch.arange(spots + 1, device=spot.device))
