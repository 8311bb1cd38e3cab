"""The noise ceiling against what is known of simulated counts."""

import numpy as np
import pytest
import scipy.sparse as sp

from bench.datasets import demo
from bench.evaluate.ceiling import noise_ceiling
from bench.evaluate.metrics import pearson_per_gene
from bench.protocol.normalise import normalise
from bench.protocol.rules import PUBLISHED, STRICT


def scaled(protocol, genes):
    columns = np.arange(genes)
    return lambda counts: normalise(counts, columns, protocol.target)


@pytest.fixture(scope="module")
def sections():
    return demo.simulate(0)


@pytest.mark.parametrize("protocol", [STRICT, PUBLISHED], ids=lambda protocol: protocol.name)
def test_it_agrees_with_the_ceiling_of_the_known_expectation(sections, protocol):
    to_target = scaled(protocol, len(demo.GENES))
    rng = np.random.default_rng(1)
    found, known = [], []
    for section in sections[::2]:  # one of each patient
        counts = sp.csr_matrix(section.counts)
        # The best prediction there is: the expectation of the target given the rates.
        expected = np.mean(
            [to_target(sp.csr_matrix(rng.poisson(section.rate))) for _ in range(100)], axis=0
        )
        known.append(pearson_per_gene(to_target(counts), expected).mean())
        found.append(noise_ceiling(counts, to_target).mean())
    assert np.mean(found) == pytest.approx(np.mean(known), abs=0.02)
    np.testing.assert_allclose(found, known, atol=0.03)


def test_it_is_the_square_root_of_the_known_reliability_where_nothing_bends_it():
    rng = np.random.default_rng(0)
    rates = np.array([4.0, 20.0, 200.0])
    spread = 0.5
    rate = rates * rng.lognormal(-(spread**2) / 2, spread, (20_000, 3))
    counts = sp.csr_matrix(rng.poisson(rate))
    variance = rates**2 * (np.exp(spread**2) - 1)
    wanted = np.sqrt(variance / (variance + rates))
    found = noise_ceiling(counts, lambda part: part.toarray(), splits=10)
    np.testing.assert_allclose(found, wanted, atol=0.01)


def test_pure_noise_has_a_low_ceiling_and_a_clear_gene_a_high_one():
    rng = np.random.default_rng(0)
    rate = np.stack([np.full(2000, 3.0), np.linspace(10, 2000, 2000)], axis=1)
    noise, clear = noise_ceiling(sp.csr_matrix(rng.poisson(rate)), lambda part: part.toarray())
    assert noise < 0.2
    assert clear > 0.99


def test_the_seed_decides(sections):
    counts = sp.csr_matrix(sections[0].counts)
    to_target = scaled(STRICT, len(demo.GENES))
    first, again = (noise_ceiling(counts, to_target, splits=10, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = noise_ceiling(counts, to_target, splits=10, seed=4)
    assert not np.array_equal(first, other)
    assert abs(first.mean() - other.mean()) < 0.01


def test_a_gene_without_counts_is_undefined_and_the_others_are_not(sections):
    counts = section_without(sections[0].counts, gene=5)
    found = noise_ceiling(counts, scaled(STRICT, len(demo.GENES)))
    assert np.flatnonzero(np.isnan(found)).tolist() == [5]
    assert ((found[~np.isnan(found)] >= 0) & (found[~np.isnan(found)] <= 1)).all()


def section_without(counts, gene):
    counts = counts.copy()
    counts[:, gene] = 0
    return sp.csr_matrix(counts)


def test_what_is_no_raw_count_is_refused():
    with pytest.raises(ValueError, match="whole numbers"):
        noise_ceiling(sp.csr_matrix(np.full((4, 2), 0.5)), lambda part: part.toarray())
    with pytest.raises(ValueError, match="at least 1"):
        noise_ceiling(sp.csr_matrix(np.ones((4, 2))), lambda part: part.toarray(), splits=0)
    with pytest.raises(ValueError, match="three spots"):
        noise_ceiling(sp.csr_matrix(np.ones((2, 2))), lambda part: part.toarray())
