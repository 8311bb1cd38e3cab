"""Spatial scores against scanpy, scikit-image, scikit-learn, and maps whose answer is known."""

import numpy as np
import pytest
import scipy.sparse as sp
from skimage.metrics import structural_similarity
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from bench.evaluate.spatial import (
    domain_agreement,
    grid_neighbours,
    map_similarity,
    morans_i,
    spatial_domains,
)


def square(side=12):
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def hexagonal(side=12):
    return np.array([(2 * x + y % 2, y) for y in range(side) for x in range(side)])


def smooth_and_noise(position, seed=0):
    rng = np.random.default_rng(seed)
    smooth = np.sin(position[:, 0] / 3) + np.cos(position[:, 1] / 4)
    return np.stack([smooth, rng.normal(size=len(position)), np.full(len(position), 2.5)], axis=1)


def test_neighbours_are_the_four_of_a_square_grid_and_the_six_of_a_hexagonal_one():
    inner = grid_neighbours(square(5))[12]
    assert sorted(inner.indices) == [7, 11, 13, 17]
    assert np.diff(grid_neighbours(hexagonal(5)).indptr).max() == 6
    weights = grid_neighbours(square(5))
    assert (weights != weights.T).nnz == 0
    assert weights.diagonal().sum() == 0


def test_isolated_and_doubled_spots_have_no_neighbour_far_away():
    position = np.array([[0, 0], [1, 0], [0, 0], [30, 31]])
    weights = grid_neighbours(position).toarray()
    assert weights[3].sum() == 0
    assert weights[0].tolist() == [0, 1, 1, 0]
    assert grid_neighbours(position[:1]).shape == (1, 1)


def test_morans_i_equals_that_of_scanpy():
    from scanpy.metrics import morans_i as reference

    position = square()[np.random.default_rng(3).permutation(144)[:120]]
    values = np.random.default_rng(0).normal(size=(120, 6)) + position[:, :1] * np.arange(6)
    weights = grid_neighbours(position)
    np.testing.assert_allclose(
        morans_i(values, weights), reference(weights, values.T.copy()), rtol=1e-10
    )


def test_morans_i_tells_a_map_from_noise_and_leaves_a_constant_gene_undefined():
    position = square()
    smooth, noise, constant = morans_i(smooth_and_noise(position), grid_neighbours(position))
    assert smooth > 0.8
    assert abs(noise) < 0.2
    assert np.isnan(constant)
    assert np.isnan(morans_i(smooth_and_noise(position), sp.csr_matrix((144, 144)))).all()


def test_map_similarity_is_one_for_the_same_map_and_low_for_another():
    position = square()
    values = smooth_and_noise(position)
    same = map_similarity(values, 3 * values + 1, position)
    np.testing.assert_allclose(same[:2], 1)
    assert np.isnan(same[2])
    other = map_similarity(values, smooth_and_noise(position, seed=9)[:, [1, 0, 2]], position)
    assert (other[:2] < 0.3).all()


def test_map_similarity_on_a_full_grid_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(144, 1))
    prediction = truth + rng.normal(size=(144, 1))
    maps = [((v - v.mean()) / v.std()).reshape(12, 12) for v in (truth, prediction)]
    _, local = structural_similarity(*maps, win_size=7, data_range=6.0, full=True)
    found = map_similarity(truth, prediction, square())
    np.testing.assert_allclose(found, [local.mean()])


def test_map_similarity_does_not_depend_on_where_the_array_starts_or_on_its_kind():
    values = smooth_and_noise(square())
    noisy = values + np.random.default_rng(1).normal(size=values.shape)
    wanted = map_similarity(values, noisy, square())
    np.testing.assert_allclose(map_similarity(values, noisy, square() + 40), wanted)
    np.testing.assert_allclose(map_similarity(values, noisy, hexagonal()), wanted)
    assert np.isnan(map_similarity(values[:36], noisy[:36], square(6))).all()


def test_domains_are_found_again_and_the_labels_names_do_not_matter():
    rng = np.random.default_rng(0)
    labels = np.repeat(["tumour", "stroma", "undetermined", "", "immune"], 20)
    centres = {name: rng.normal(size=30) * 4 for name in set(labels)}
    expression = np.stack([centres[name] for name in labels]) + rng.normal(size=(100, 30))
    assert domain_agreement(expression, labels) == (1.0, 1.0)
    named = ~np.isin(labels, ["", "undetermined"])
    found = spatial_domains(expression[named], 3)
    assert adjusted_rand_score(labels[named], found) == 1
    ari, nmi = domain_agreement(rng.normal(size=(100, 30)), labels)
    assert abs(ari) < 0.2
    assert nmi < 0.3


def test_agreement_is_that_of_scikit_learn_on_the_same_domains():
    rng = np.random.default_rng(5)
    labels = np.array(["a", "b"] * 25)
    expression = rng.normal(size=(50, 12)) + (labels == "a")[:, None]
    found = spatial_domains(expression, 2)
    assert domain_agreement(expression, labels) == (
        pytest.approx(adjusted_rand_score(labels, found)),
        pytest.approx(normalized_mutual_info_score(labels, found)),
    )


@pytest.mark.parametrize("labels", [["a"] * 9, [""] * 9, ["a", "undetermined", ""] * 3])
def test_fewer_than_two_labels_leave_nothing_to_agree_with(labels):
    assert np.isnan(domain_agreement(np.random.default_rng(0).normal(size=(9, 4)), labels)).all()


@pytest.mark.filterwarnings("error")
def test_a_constant_prediction_has_domains_without_agreement():
    ari, nmi = domain_agreement(np.ones((40, 5)), ["a", "b"] * 20)
    assert ari == 0
    assert nmi == pytest.approx(0, abs=1e-12)
