import numpy as np
import pytest
import torch

from bench.blocks.graph import (
    neighbour_edges,
    neighbour_max,
    neighbour_mean,
    neighbour_mean_as_released,
)
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


@pytest.mark.parametrize("pruning", ["NA", "Grid", "STD"])
@pytest.mark.parametrize("neighbours", [4, 8])
def test_edges_equal_the_released_adjacency(case, neighbours, pruning):
    position = positions(case)
    case.assert_close("position", position)
    assert not case.arrays[f"tie_rows_k{neighbours}"].any()
    radius, by_deviation = (2.0 if pruning == "Grid" else None), pruning == "STD"
    edges = neighbour_edges(position, neighbours, radius, by_deviation=by_deviation)
    found = adjacency(edges, len(position))
    np.testing.assert_array_equal(found, case.arrays[f"adjacency_k{neighbours}_{pruning}"])
    assert edges.dtype == np.int64
    assert (np.diff(edges[0]) >= 0).all()


def test_equally_far_neighbours_are_all_kept_by_the_deviation():
    square = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert neighbour_edges(square, 2, by_deviation=True).shape == (2, 8)


def test_the_maximum_is_that_of_each_component_over_the_neighbours():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.standard_normal((6, 5))).requires_grad_()
    edges = torch.tensor([[0, 0, 0, 2, 4, 4], [1, 2, 3, 0, 5, 0]])
    found = neighbour_max(values, edges)
    for spot in range(6):
        own = edges[1][edges[0] == spot].tolist() or [spot]
        torch.testing.assert_close(found[spot], values[own].max(dim=0).values)
    found[0].sum().backward()
    largest = values.detach()[1:4].argmax(dim=0) + 1
    wanted = torch.zeros_like(values)
    wanted[largest, torch.arange(5)] = 1.0
    torch.testing.assert_close(values.grad, wanted)
    torch.testing.assert_close(neighbour_max(values, torch.empty(2, 0, dtype=int)), values)


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


def edges_by_sorting_all(position, neighbours, radius):
    found = []
    for spot, centre in enumerate(position):
        distance = np.sqrt(((position - centre) ** 2).sum(axis=1))
        distance[spot] = np.inf
        nearest = np.argsort(distance, kind="stable")[: min(neighbours, len(position) - 1)]
        found += [(spot, other) for other in nearest if radius is None or distance[other] <= radius]
    return np.array(found, dtype=np.int64).reshape(-1, 2).T


def square(rows):
    """A full square grid in a random order."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(rows)), axis=-1).reshape(-1, 2)
    return np.random.default_rng(1).permutation(grid)


LAYOUTS = {
    "square": square(13),
    "square_more_than_one_part": square(34),
    "hexagonal": square(13) * [2, 1] + square(13)[:, 1:] % 2 * [1, 0],
    "hexagonal_in_micrometres": square(13) @ np.array([[100.0, 0.0], [50.0, 50.0 * 3**0.5]]),
    "many_at_one_place": np.random.default_rng(2).integers(0, 4, (120, 2)),
    "all_at_one_place": np.ones((9, 2), dtype=np.int64),
    "on_a_line": np.stack([np.arange(40), np.zeros(40, dtype=np.int64)], axis=1),
    "continuous_far_from_zero": 1e5 + np.random.default_rng(3).normal(size=(90, 2)),
    "fewer_than_neighbours": square(2),
    "two": np.array([[0, 0], [3, 4]]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("neighbours", [1, 4, 8])
@pytest.mark.parametrize("radius", [None, 1.0, 2.0, 100.0])
def test_edges_are_those_of_sorting_all_distances(layout, neighbours, radius):
    position = LAYOUTS[layout].astype(np.float64)
    edges = neighbour_edges(LAYOUTS[layout], neighbours, radius)
    np.testing.assert_array_equal(edges, edges_by_sorting_all(position, neighbours, radius))
    assert edges.dtype == np.int64
    assert edges.flags.c_contiguous


def test_one_spot_has_no_neighbour():
    edges = neighbour_edges(np.array([[3, 4]]), 4)
    assert edges.shape == (2, 0)
    values = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(neighbour_mean(values, torch.from_numpy(edges)), values)


@pytest.mark.parametrize("mean", [neighbour_mean, neighbour_mean_as_released])
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
    once = neighbour_mean_as_released(values, edges)
    torch.testing.assert_close(once[:2], torch.tensor([[2.0], [1.0]]))
    assert once[2].isnan().all()
    assert neighbour_mean_as_released(once, edges).isnan().all(), "as a matrix product spreads it"


def mean_by_the_whole_matrix(values, edges):
    matrix = torch.zeros(len(values), len(values), dtype=values.dtype)
    matrix[edges[0], edges[1]] = 1
    return (matrix / matrix.sum(dim=1, keepdim=True)) @ values


@pytest.mark.parametrize("radius", [None, 1.0], ids=["every_spot_has_some", "some_have_none"])
@pytest.mark.parametrize("nan_in", ["nothing", "values", "gradient"])
def test_as_released_equals_the_whole_matrix_with_its_gradient(radius, nan_in):
    position = np.random.default_rng(0).integers(0, 12, (50, 2))
    edges = torch.from_numpy(neighbour_edges(position, 4, radius))
    assert (len(edges[0].unique()) < 50) == (radius is not None)
    generator = torch.Generator().manual_seed(0)
    values, gradient = torch.randn(2, 50, 6, generator=generator)
    if nan_in != "nothing":
        {"values": values, "gradient": gradient}[nan_in][7, 2] = torch.nan
    results = []
    for mean in (neighbour_mean_as_released, mean_by_the_whole_matrix):
        leaf = values.clone().requires_grad_()
        result = mean(leaf, edges)
        result.backward(gradient)
        results.append((result.detach(), leaf.grad))
    (found, found_gradient), (wanted, wanted_gradient) = results
    torch.testing.assert_close(found, wanted, equal_nan=True)
    torch.testing.assert_close(found_gradient, wanted_gradient, equal_nan=True)


def test_an_infinite_value_makes_the_means_of_all_spots_nan_as_released():
    edges = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    values = torch.tensor([[1.0, 1.0], [2.0, torch.inf], [5.0, 3.0], [4.0, 1.0]])
    found = neighbour_mean_as_released(values, edges)
    torch.testing.assert_close(found[:, 0], torch.tensor([2.0, 1.0, 4.0, 5.0]))
    assert found[:, 1].isnan().all()


@pytest.mark.parametrize("mean", [neighbour_mean, neighbour_mean_as_released])
def test_nothing_is_kept_for_the_gradient_that_grows_with_the_square_of_the_spots(mean):
    edges = torch.from_numpy(neighbour_edges(square(20), 4))
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    values = torch.randn(400, 2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mean(values, edges)
    assert kept
    assert max(kept) <= 4 * 400


@pytest.mark.parametrize("mean", [neighbour_mean, neighbour_mean_as_released])
def test_half_precision_is_kept(mean):
    edges = torch.from_numpy(neighbour_edges(square(5), 4))
    values = torch.randn(25, 8, dtype=torch.bfloat16, requires_grad=True)
    found = mean(values, edges)
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    wanted = mean_by_the_whole_matrix(values.detach().float(), edges)
    torch.testing.assert_close(found.float(), wanted, atol=0.03, rtol=0.03)


def test_the_gradient_of_the_mean_is_finite_beside_a_spot_without_neighbours():
    values = torch.tensor([[1.0], [2.0], [5.0]], requires_grad=True)
    neighbour_mean(values, torch.tensor([[0, 0], [1, 2]])).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[0.0], [1.5], [1.5]]))
