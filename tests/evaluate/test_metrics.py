import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.evaluate.metrics import (
    concordance_per_gene,
    correlations_per_gene,
    mean_absolute_error,
    nanmean,
    pearson_per_gene,
    spearman_per_gene,
    squared_error_per_gene,
)
from bench.evaluate.oracles import ORACLES, depth
from bench.evaluate.section import ScoredSection, score_pooled, score_section
from tests.golden_case import GoldenCase


def scipy_pearson(truth, prediction):
    """Correlation of each column by scipy; NaN where it calls the input constant."""
    pairs = zip(np.asarray(truth, float).T, np.asarray(prediction, float).T, strict=True)
    return np.array(
        [
            np.nan if np.ptp(a) == 0 or np.ptp(b) == 0 else scipy.stats.pearsonr(a, b).statistic
            for a, b in pairs
        ]
    )


def random_pair(spots=50, genes=12, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(spots, genes))
    return truth, 0.4 * truth + rng.normal(size=(spots, genes))


def ties():
    truth, prediction = random_pair()
    return np.rint(truth), np.rint(prediction)


def sparse_counts():
    rng = np.random.default_rng(1)
    return np.log1p(rng.poisson(0.05, (200, 30))), rng.normal(size=(200, 30))


def constant_genes():
    truth, prediction = random_pair()
    truth[:, 0], prediction[:, 1] = 3.7, 0.1
    truth[:, 2] = prediction[:, 2] = 0.0
    return truth, prediction


def float32():
    truth, prediction = random_pair()
    return truth.astype(np.float32), (prediction * 1e-4 + 7).astype(np.float32)


CASES = {
    "random": random_pair,
    "ties": ties,
    "mostly zero": sparse_counts,
    "constant genes": constant_genes,
    "tiny variance": lambda: (random_pair()[0] * 1e-9, random_pair()[1] * 1e-9),
    "far below the smallest square": lambda: tuple(a * 1e-200 for a in random_pair()),
    "far above the largest square": lambda: tuple(a * 1e200 for a in random_pair()),
    "large offset": lambda: (random_pair()[0] + 1e7, random_pair()[1] - 1e7),
    "three spots": lambda: random_pair(spots=3),
    "one gene": lambda: random_pair(genes=1),
    "no relation to order": lambda: tuple(np.asfortranarray(a)[::-1] for a in random_pair()),
    "float32": float32,
    "integers": lambda: tuple(np.rint(a * 10).astype(np.int32) for a in random_pair()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_correlations_equal_those_of_scipy(case):
    truth, prediction = CASES[case]()
    found = pearson_per_gene(truth, prediction)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, scipy_pearson(truth, prediction), rtol=0, atol=1e-10)


def test_constant_genes_are_undefined_and_no_others():
    found = pearson_per_gene(*constant_genes())
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found)), [0, 1, 2])


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, 1e300, -7.7])
def test_a_column_of_one_value_is_undefined_whatever_its_rounding(value):
    truth, prediction = random_pair(spots=37, genes=1)
    assert np.isnan(pearson_per_gene(truth, np.full_like(truth, value))).all()
    assert np.isnan(pearson_per_gene(np.full_like(truth, value), prediction)).all()


@given(
    table=hnp.arrays(
        np.float64,
        st.tuples(st.just(2), st.integers(3, 12), st.integers(1, 4)),
        elements=st.integers(-1000, 1000).map(lambda value: value / 8),
    ),
    factor=st.floats(0.01, 100),
    offset=st.floats(-100, 100),
)
def test_correlations_do_not_depend_on_scale_or_side_and_stay_in_range(table, factor, offset):
    truth, prediction = table
    found = pearson_per_gene(truth, prediction)
    assert (np.isnan(found) | (np.abs(found) <= 1)).all()
    np.testing.assert_allclose(pearson_per_gene(prediction, truth), found, atol=1e-12)
    moved = pearson_per_gene(truth, factor * prediction + offset)
    defined = ~np.isnan(found)
    np.testing.assert_allclose(moved[defined], found[defined], atol=1e-9)
    np.testing.assert_allclose(pearson_per_gene(truth, -prediction), -found, atol=1e-12)


def test_a_perfect_prediction_correlates_to_exactly_one():
    truth = random_pair()[0]
    assert (pearson_per_gene(truth, truth) <= 1).all()
    np.testing.assert_allclose(pearson_per_gene(truth, 2 * truth + 1), 1, rtol=1e-14)


def test_the_arrays_that_are_scored_are_left_as_they_were():
    truth, prediction = random_pair()
    copies = truth.copy(), prediction.copy()
    score_section(ScoredSection(truth, prediction, np.ones(12, dtype=bool)))
    np.testing.assert_array_equal(truth, copies[0])
    np.testing.assert_array_equal(prediction, copies[1])


FUNCTIONS = [
    *(pearson_per_gene, spearman_per_gene, concordance_per_gene),
    *(squared_error_per_gene, mean_absolute_error),
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("truth", "prediction"),
    [((5, 3), (5, 4)), ((5, 3), (4, 3)), ((5,), (5,)), ((5, 3, 1), (5, 3, 1)), ((5, 1), (5, 3))],
)
def test_other_shapes_are_refused(function, truth, prediction):
    with pytest.raises(ValueError, match=r"must both be \(spots, genes\)"):
        function(np.ones(truth), np.ones(prediction))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite_are_refused(function, value, side):
    pair = random_pair()
    pair[side][4, 2] = value
    with pytest.raises(ValueError, match="must be finite"):
        function(*pair)


@pytest.mark.parametrize("spots", [0, 1, 2])
@pytest.mark.parametrize("function", [pearson_per_gene, spearman_per_gene, concordance_per_gene])
def test_fewer_than_three_spots_are_refused(function, spots):
    with pytest.raises(ValueError, match=f"at least three spots, not {spots}"):
        function(np.ones((spots, 2)), np.ones((spots, 2)))


@pytest.mark.parametrize("case", sorted(set(CASES) - {"large offset"}))
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_rank_correlations_equal_those_of_scipy(case):
    truth, prediction = CASES[case]()
    found = spearman_per_gene(truth, prediction)
    for gene, value in enumerate(found):
        a, b = truth[:, gene], prediction[:, gene]
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


@pytest.mark.parametrize("case", ["random", "ties", "mostly zero", "constant genes", "three spots"])
def test_concordance_is_that_of_its_definition(case):
    truth, prediction = CASES[case]()
    found = concordance_per_gene(truth, prediction)
    for gene, value in enumerate(found):
        a, b = truth[:, gene], prediction[:, gene]
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            assert np.isnan(value)
        else:
            covariance = np.cov(a, b, ddof=0)
            wanted = 2 * covariance[0, 1] / (np.trace(covariance) + (a.mean() - b.mean()) ** 2)
            assert value == pytest.approx(wanted, abs=1e-12)


def test_concordance_is_one_for_the_truth_and_lowered_by_mean_and_scale():
    truth = random_pair()[0]
    np.testing.assert_allclose(concordance_per_gene(truth, truth), 1, rtol=1e-14)
    assert (concordance_per_gene(truth, truth + 1) < 0.9).all()
    assert (concordance_per_gene(truth, 3 * truth) < 0.9).all()
    truth, prediction = random_pair()
    ccc, pcc = concordance_per_gene(truth, prediction), pearson_per_gene(truth, prediction)
    assert (np.abs(ccc) <= np.abs(pcc) + 1e-12).all()


@pytest.mark.parametrize("factor", [1e-200, 1e200])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_concordance_of_tiny_and_huge_values_is_that_of_plain_ones(factor):
    truth, prediction = random_pair()
    found = concordance_per_gene(truth * factor, prediction * factor)
    np.testing.assert_allclose(found, concordance_per_gene(truth, prediction), rtol=1e-12)


def test_partial_correlations_are_those_of_residuals():
    rng = np.random.default_rng(3)
    fixed = rng.normal(size=50)
    truth, prediction = (array + fixed[:, None] for array in random_pair())
    r, partial = correlations_per_gene(truth, prediction, fixed)
    np.testing.assert_array_equal(r, pearson_per_gene(truth, prediction))
    design = np.column_stack([np.ones(50), fixed])
    rest = [a - design @ np.linalg.lstsq(design, a, rcond=None)[0] for a in (truth, prediction)]
    np.testing.assert_allclose(partial, scipy_pearson(*rest), atol=1e-10)
    assert np.isnan(correlations_per_gene(truth, prediction)[1]).all()
    with pytest.raises(ValueError, match="must be \\(spots,\\)"):
        correlations_per_gene(truth, prediction, fixed[:-1])


@pytest.mark.parametrize("case", ["random", "ties", "large offset", "three spots", "float32"])
def test_errors_equal_those_of_scikit_learn(case):
    truth, prediction = CASES[case]()
    double = truth.astype(np.float64), prediction.astype(np.float64)
    assert squared_error_per_gene(truth, prediction).mean() == pytest.approx(
        sklearn.metrics.mean_squared_error(*double), rel=1e-12
    )
    assert mean_absolute_error(truth, prediction) == pytest.approx(
        sklearn.metrics.mean_absolute_error(*double), rel=1e-12
    )


def test_nanmean_leaves_out_what_is_undefined():
    assert nanmean(np.array([1.0, np.nan, 3.0])) == 2.0
    assert np.isnan(nanmean(np.array([np.nan, np.nan])))
    assert np.isnan(nanmean(np.array([])))


def test_a_section_is_scored_over_its_defined_genes_and_the_others_are_counted():
    truth, prediction = constant_genes()
    heg = np.zeros(12, dtype=bool)
    heg[[1, 5, 6]] = True
    scores, genes = score_section(ScoredSection(truth, prediction, heg))
    r = scipy_pearson(truth, prediction)
    assert scores["pcc_acg"] == pytest.approx(np.nanmean(r), abs=1e-12)
    assert scores["pcc_heg"] == pytest.approx(np.nanmean(r[heg]), abs=1e-12)
    assert (scores["undefined_acg"], scores["undefined_heg"]) == (3, 1)
    assert scores["mse"] == pytest.approx(((truth - prediction) ** 2).mean())
    assert scores["mae"] == pytest.approx(np.abs(truth - prediction).mean())
    assert len(genes) == 12
    np.testing.assert_allclose(genes["pcc"], r, atol=1e-10)
    np.testing.assert_allclose(genes["mse"], ((truth - prediction) ** 2).mean(axis=0))
    np.testing.assert_allclose(genes["truth_mean"], truth.mean(axis=0))
    np.testing.assert_array_equal(genes["heg"], heg)


def test_a_prediction_on_a_scale_of_its_own_has_correlations_and_no_errors():
    truth, prediction = random_pair()
    heg = np.arange(12) < 4
    scores, genes = score_section(ScoredSection(truth, prediction, heg), scale_free=True)
    assert np.isnan(scores["mse"])
    assert np.isnan(scores["mae"])
    assert np.isnan(scores["ccc_acg"])
    assert genes[["mse", "ccc"]].isna().all(axis=None)
    scaled, _ = score_section(ScoredSection(truth, prediction, heg))
    assert scores["pcc_acg"] == scaled["pcc_acg"]
    assert scores["pcc_heg"] == scaled["pcc_heg"]


def test_pooled_scores_are_over_all_spots_together():
    rng = np.random.default_rng(4)
    # Nothing is right within a section, and the difference between the sections is.
    truth = [rng.normal(size=(40, 6)), rng.normal(size=(60, 6)) + 10]
    prediction = [rng.normal(size=(40, 6)), rng.normal(size=(60, 6)) + 10]
    heg = [np.arange(6) == 0, np.arange(6) == 3]
    pooled = score_pooled(truth, prediction, heg)
    r = scipy_pearson(np.concatenate(truth), np.concatenate(prediction))
    assert pooled["pooled_pcc_acg"] == pytest.approx(r.mean(), abs=1e-12)
    assert pooled["pooled_pcc_heg"] == pytest.approx(r[[0, 3]].mean(), abs=1e-12)
    per_section = [
        score_section(ScoredSection(*arrays))[0]["pcc_acg"]
        for arrays in zip(truth, prediction, heg, strict=True)
    ]
    assert pooled["pooled_pcc_acg"] > 0.9 > 0.3 > max(np.abs(per_section))


def test_pooled_scores_of_one_section_are_its_own():
    truth, prediction = random_pair()
    heg = np.arange(12) < 4
    own, _ = score_section(ScoredSection(truth, prediction, heg))
    pooled = score_pooled([truth], [prediction], [heg])
    assert pooled == {
        "pooled_pcc_acg": pytest.approx(own["pcc_acg"]),
        "pooled_pcc_heg": pytest.approx(own["pcc_heg"]),
    }


@pytest.fixture(scope="module")
def released():
    return GoldenCase("evaluation_a")


@pytest.fixture(scope="module")
def released_pair(released):
    """Truth and prediction of the golden case, rebuilt from its recipe."""
    spots, genes = released.shape("true")
    constant = [7, 23]
    truth = np.log1p(released.draw("true").poisson(1.0, size=(spots, genes))).astype(np.float32)
    noise = released.draw("pred").standard_normal((spots, genes)).astype(np.float32)
    for array, recipe in zip((truth, noise), released.facts["inputs"], strict=True):
        assert zlib.crc32(array.tobytes()) == recipe["crc32_of_array_bytes"]
    truth = (truth.astype(np.float64) * (0.5 + np.arange(genes) / genes)).astype(np.float32)
    truth[:, constant] = 0
    np.testing.assert_array_equal(truth, released.arrays["true"])
    return truth.astype(np.float64), released.arrays["pred"].astype(np.float64)


def test_released_evaluation_numbers_are_reproduced(released, released_pair):
    truth, prediction = released_pair
    numbers = released.facts["numbers"]
    heg = np.zeros(truth.shape[1], dtype=bool)
    heg[released.arrays["heg_indices"].astype(int)] = True
    assert set(np.argsort(-truth.mean(axis=0))[:50]) == set(np.flatnonzero(heg))
    scores, genes = score_section(ScoredSection(truth, prediction, heg))
    assert scores["pcc_acg"] == pytest.approx(numbers["mclstexp_pcc_acg"], abs=1e-12)
    assert scores["pcc_acg"] == pytest.approx(numbers["hist2st_nanmean_pcc"], abs=1e-12)
    assert scores["pcc_heg"] == pytest.approx(numbers["not_upstream_heg_ignoring_nan"], abs=1e-12)
    assert scores["mse"] == pytest.approx(numbers["mclstexp_mse"], abs=1e-12)
    assert scores["mae"] == pytest.approx(numbers["mclstexp_mae"], abs=1e-12)
    assert scores["undefined_acg"] == 2
    assert scores["undefined_heg"] == 0
    np.testing.assert_allclose(genes["pcc"], released.arrays["pcc_all_genes"], atol=1e-7)


def test_released_correlations_of_genes_are_reproduced(released, released_pair):
    r = pearson_per_gene(*released_pair)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(r)), [7, 23])
    np.testing.assert_allclose(
        r[~np.isnan(r)], released.arrays["pcc_after_nan_drop"], rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(
        r[released.arrays["heg_indices"].astype(int)],
        released.arrays["heg_pcc"],
        rtol=0,
        atol=1e-7,
    )


def test_the_depth_oracle_is_the_log_of_the_total_in_every_column():
    totals = np.array([0, 1, 99, 10_000])
    found = depth(totals, 3)
    np.testing.assert_allclose(found, np.log(1 + totals)[:, None] * np.ones((1, 3)))
    assert found.dtype == np.float64
    assert ORACLES["depth"] is depth


def test_the_depth_oracle_scores_well_where_depth_is_in_the_truth():
    rng = np.random.default_rng(0)
    depths = rng.lognormal(0, 1, 200)
    counts = rng.poisson(5 * depths[:, None] * np.ones((1, 8)))
    prediction = depth(counts.sum(axis=1), 8)
    section = ScoredSection(np.log1p(counts), prediction, np.ones(8, dtype=bool))
    scores, _ = score_section(section, scale_free=True)
    assert scores["pcc_acg"] > 0.8


MANY_SECTIONS = """
import numpy as np

from bench.evaluate.metrics import PooledCorrelation
from bench.evaluate.section import ScoredSection, score_section

rng = np.random.default_rng(0)
truth, noise = rng.normal(size=(2, 1000, 1000)).astype(np.float32)
heg = np.arange(1000) < 50
totals = rng.integers(100, 10_000, 1000).astype(float)
pooled = PooledCorrelation()
for section in range(200):
    measured = np.roll(truth, section, axis=0)
    predicted = measured + np.roll(noise, section, axis=1)
    scores, _ = score_section(ScoredSection(measured, predicted, heg, totals=totals))
    pooled.add(measured, predicted)
# Unlike ru_maxrss, this does not begin at the peak of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(scores["pcc_acg"], pooled.result().mean(), peak.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_two_hundred_sections_are_scored_in_the_memory_of_one():
    answer = subprocess.run(
        [sys.executable, "-c", MANY_SECTIONS], capture_output=True, text=True, check=True
    )
    of_section, pooled, kilobytes = map(float, answer.stdout.split())
    assert of_section == pytest.approx(2**-0.5, abs=0.01)
    assert pooled == pytest.approx(2**-0.5, abs=0.01)
    assert kilobytes < 1e6, "all sections together have 1.6 GB"
