"""Intervals and tests against scipy, statsmodels and simulation."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from bench.evaluate.uncertainty import (
    bootstrap_interval,
    compare_pairs,
    holm,
    permutation_test,
)


def simulated(rng, patients, between, within, centre=0.0):
    sections = rng.integers(3, 7, patients)
    names = np.repeat([f"P{number}" for number in range(patients)], sections)
    effect = np.repeat(between * rng.standard_normal(patients), sections)
    return centre + effect + within * rng.standard_normal(len(names)), names


@pytest.mark.parametrize(
    ("patients", "between", "within"), [(8, 1.0, 1.0), (8, 1.0, 0.3), (23, 0.5, 1.0)]
)
def test_intervals_cover_the_true_mean_as_often_as_they_say(patients, between, within):
    rng = np.random.default_rng(1)
    rounds = 500
    covered = 0
    for number in range(rounds):
        values, names = simulated(rng, patients, between, within, centre=0.3)
        low, high = bootstrap_interval(values, names, resamples=1000, seed=number)
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / rounds <= 0.97


def test_the_paired_test_seldom_finds_what_is_not_there():
    rng = np.random.default_rng(2)
    rounds = 1000
    found = sum(
        permutation_test(*simulated(rng, 8, 1.0, 1.0), seed=number) <= 0.05
        for number in range(rounds)
    )
    assert found / rounds <= 0.06


def test_the_paired_test_finds_what_is_there():
    rng = np.random.default_rng(2)
    found = [permutation_test(*simulated(rng, 8, 0.3, 0.5, centre=0.6)) for _ in range(100)]
    assert np.mean(np.array(found) <= 0.05) > 0.9


def test_intervals_follow_from_the_seed_and_leave_out_undefined_values():
    values, names = simulated(np.random.default_rng(0), 8, 1.0, 1.0)
    assert bootstrap_interval(values, names) == bootstrap_interval(values, names)
    assert bootstrap_interval(values, names) != bootstrap_interval(values, names, seed=1)
    longer = np.append(values, np.nan), np.append(names, "P99")
    assert bootstrap_interval(*longer) == bootstrap_interval(values, names)


def test_without_spread_an_interval_is_a_point_and_one_patient_has_none():
    assert bootstrap_interval(np.ones(6), list("AABBCC")) == (1.0, 1.0)
    assert np.isnan(bootstrap_interval(np.arange(3.0), ["A"] * 3)).all()
    with pytest.raises(ValueError, match="one of each a section"):
        bootstrap_interval(np.ones(3), ["A", "B"])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(np.ones(3), ["A", "B", "C"], level=95)


def test_intervals_with_one_section_a_patient_are_those_of_the_patients():
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    low, high = bootstrap_interval(values, [str(n) for n in range(40)], resamples=20_000)
    wanted = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    # A little wider, for the finite number of patients.
    assert low == pytest.approx(wanted.low, abs=0.03)
    assert high == pytest.approx(wanted.high, abs=0.03)
    assert high - low > wanted.high - wanted.low


def test_permutations_equal_those_of_scipy_with_one_section_a_patient():
    differences = np.random.default_rng(3).normal(0.4, 1, 10)
    wanted = scipy.stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    names = [str(number) for number in range(10)]
    assert permutation_test(differences, names) == pytest.approx(wanted.pvalue)


def test_random_permutations_are_near_the_exact_ones():
    differences = np.random.default_rng(3).normal(0.35, 1, 15)
    wanted = scipy.stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    names = [str(number) for number in range(15)]
    assert permutation_test(differences, names) == pytest.approx(wanted.pvalue, abs=0.03)


def test_sections_of_a_patient_keep_together():
    differences = np.tile([0.1, 0.2, 0.3], 5)
    patients = np.repeat(list("ABCDE"), 3)
    assert permutation_test(differences, patients) == 2 / 2**5
    assert permutation_test(differences, [str(n) for n in range(15)]) < 0.01


def test_no_difference_is_no_finding():
    assert permutation_test(np.zeros(8), list("AABBCCDD")) == 1
    assert np.isnan(permutation_test(np.array([np.nan]), ["A"]))


def test_pairs_are_compared_on_the_sections_that_both_have():
    sections = [f"S{number}" for number in range(16)]
    patients = {name: f"P{number // 2}" for number, name in enumerate(sections)}
    rng = np.random.default_rng(0)
    base = pd.Series(rng.normal(size=16), index=sections)
    scores = {
        "good": base + 0.5 + 0.1 * rng.normal(size=16),
        "plain": base,
        "partial": base[:10] + 0.01,
        "elsewhere": pd.Series([1.0], index=["S99"]),
    }
    found = {(one.first, one.second): one for one in compare_pairs(scores, patients)}
    assert set(found) == {("good", "plain"), ("good", "partial"), ("plain", "partial")}
    pair = found["good", "plain"]
    difference = scores["good"] - base
    assert pair.difference == pytest.approx(difference.mean())
    assert pair.low < difference.mean() < pair.high
    assert (pair.sections, pair.patients) == (16, 8)
    assert pair.wilcoxon == scipy.stats.wilcoxon(difference).pvalue
    assert pair.permutation == 2 / 2**8
    assert pair.has_power
    assert found["plain", "partial"].sections == 10
    assert not found["plain", "partial"].has_power
    for name in ("wilcoxon", "permutation"):
        wanted = multipletests([getattr(one, name) for one in found.values()], method="holm")[1]
        np.testing.assert_allclose([getattr(one, f"{name}_holm") for one in found.values()], wanted)


def test_equal_scores_do_not_differ():
    scores = pd.Series(np.arange(6.0), index=list("abcdef"))
    (pair,) = compare_pairs(
        {"x": scores, "y": scores.copy()}, dict(zip("abcdef", "AABBCC", strict=True))
    )
    assert (pair.difference, pair.wilcoxon, pair.permutation) == (0, 1, 1)


def test_holm_leaves_undefined_values_out():
    found = holm([0.01, float("nan"), 0.04])
    np.testing.assert_allclose([found[0], found[2]], [0.02, 0.04])
    assert np.isnan(found[1])
    assert holm([]) == []
