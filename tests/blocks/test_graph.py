import numpy as np
import pytest
import torch

from bench.blocks.graph import dense_neighbour_mean, neighbour_edges, neighbour_mean
from tests.golden_case import GoldenCase


@pytest.fixture(scope="module")
def case():
    return GoldenCase("graph_a")


def positions(case):
    drawn = case.draw("graph_position").standard_normal(case.shape("graph_position"))
    return 2 * drawn.astype(np.float32).astype(np.float64)


def adjacency(edges, spots):
    matrix = np.zeros((spots, spots), dtype=np.float32)
    np.add.at(matrix, tuple(edges), 1)
    return matrix


@pytest.mark.parametrize("pruning", ["NA", "Grid"])
@pytest.mark.parametrize("neighbours", [4, 8])
def test_edges_equal_the_released_adjacency(case, neighbours, pruning):
    position = positions(case)
    case.assert_close("position", position)
    assert not case.arrays[f"tie_rows_k{neighbours}"].any()
    edges = neighbour_edges(position, neighbours, {"NA": None, "Grid": 2.0}[pruning])
    found = adjacency(edges, len(position))
    np.testing.assert_array_equal(found, case.arrays[f"adjacency_k{neighbours}_{pruning}"])
    assert edges.dtype == np.int64
    assert (np.diff(edges[0]) >= 0).all()


def test_the_spots_without_neighbours_are_the_released_ones(case):
    edges = neighbour_edges(positions(case), 4, 2.0)
    alone = sorted(set(range(25)) - set(edges[0].tolist()))
    assert alone == case.facts["rows_without_neighbour_k4_Grid"]


def test_of_equally_near_spots_the_earlier_are_neighbours():
    ring = np.array([[1, 1], [2, 1], [0, 1], [1, 0], [1, 2], [0, 0]])
    edges = neighbour_edges(ring, 3)
    assert edges[1][edges[0] == 0].tolist() == [1, 2, 3]


def test_a_distance_equal_to_the_radius_is_within_it():
    line = np.array([[0, 0], [2, 0], [5, 0]])
    assert neighbour_edges(line, 4, 2.0).tolist() == [[0, 1], [1, 0]]


def test_spots_at_one_place_are_neighbours_but_none_is_its_own():
    edges = neighbour_edges(np.zeros((3, 2), dtype=np.int64), 4, 2.0)
    assert edges.tolist() == [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]


def test_one_spot_has_no_neighbour():
    edges = neighbour_edges(np.array([[3, 4]]), 4)
    assert edges.shape == (2, 0)
    values = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(neighbour_mean(values, torch.from_numpy(edges)), values)


@pytest.mark.parametrize("mean", [neighbour_mean, dense_neighbour_mean])
def test_the_mean_is_over_the_neighbours_alone(case, mean):
    position = positions(case)
    edges = neighbour_edges(position, 4)
    values = np.random.default_rng(0).standard_normal((len(position), 3)).astype(np.float32)
    wanted = [values[edges[1][edges[0] == spot]].mean(axis=0) for spot in range(len(position))]
    found = mean(torch.from_numpy(values), torch.from_numpy(edges))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_spot_without_neighbours_keeps_its_values_or_is_nan_as_released():
    edges = torch.tensor([[0, 1], [1, 0]])
    values = torch.tensor([[1.0], [2.0], [5.0]])
    torch.testing.assert_close(neighbour_mean(values, edges), torch.tensor([[2.0], [1.0], [5.0]]))
    once = dense_neighbour_mean(values, edges)
    torch.testing.assert_close(once[:2], torch.tensor([[2.0], [1.0]]))
    assert once[2].isnan().all()
    assert dense_neighbour_mean(once, edges).isnan().all(), "a matrix product spreads it to all"


def test_the_gradient_of_the_mean_is_finite_beside_a_spot_without_neighbours():
    values = torch.tensor([[1.0], [2.0], [5.0]], requires_grad=True)
    neighbour_mean(values, torch.tensor([[0, 0], [1, 2]])).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[0.0], [1.5], [1.5]]))
