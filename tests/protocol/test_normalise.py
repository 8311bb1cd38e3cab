import zlib

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.errors import DataError
from bench.protocol.normalise import normalise, panel_counts
from bench.protocol.rules import Scale
from tests.golden_case import GoldenCase

EVERY_SCALE = [
    Scale(total=total, genes=genes, log=log)
    for total in ("spot", "gene")
    for genes in ("all", "panel")
    for log in ("ln", "log10")
]

count_tables = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 8), st.integers(2, 8)),
    elements=st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**6)),
)


def linear(expression, scale):
    """Expression with the logarithm undone: 10,000 times the share."""
    return np.expm1(expression * (np.log(10) if scale.log == "log10" else 1.0))


@pytest.mark.parametrize("total", ["spot", "gene"])
def test_released_normalisation_is_reproduced(total):
    case = GoldenCase("normalisation_a")
    counts = case.draw("counts").poisson(2.0, size=case.shape("counts")).astype(np.float32)
    assert zlib.crc32(counts.tobytes()) == case.facts["inputs"][0]["crc32_of_array_bytes"]
    counts[3], counts[:, 5] = 0, 0
    np.testing.assert_array_equal(counts, case.arrays["counts"])
    panel = np.arange(counts.shape[1])
    scale = Scale(total=total, genes="panel", log="log10")
    found = normalise(sp.csr_matrix(counts.astype(np.int64)), panel, scale)
    np.testing.assert_array_equal(found.astype(np.float32), case.arrays[f"per_{total}"])
    assert found.dtype == np.float64


@given(counts=count_tables, log=st.sampled_from(["ln", "log10"]))
def test_spots_sum_to_ten_thousand_over_the_panel(counts, log):
    scale = Scale(total="spot", genes="panel", log=log)
    panel = np.arange(counts.shape[1])[::-1][:-1]
    sums = linear(normalise(sp.csr_matrix(counts), panel, scale), scale).sum(axis=1)
    filled = counts[:, panel].sum(axis=1) > 0
    np.testing.assert_allclose(sums[filled], 10_000)
    assert (sums[~filled] == 0).all()


@given(counts=count_tables, log=st.sampled_from(["ln", "log10"]))
def test_genes_sum_to_ten_thousand_over_the_spots(counts, log):
    scale = Scale(total="gene", log=log)
    panel = np.arange(counts.shape[1])
    sums = linear(normalise(sp.csr_matrix(counts), panel, scale), scale).sum(axis=0)
    filled = counts.sum(axis=0) > 0
    np.testing.assert_allclose(sums[filled], 10_000)
    assert (sums[~filled] == 0).all()


@given(counts=count_tables, scale=st.sampled_from(EVERY_SCALE))
def test_empty_spots_and_genes_stay_zero_and_all_is_finite(counts, scale):
    counts[0], counts[:, -1] = 0, 0
    expression = normalise(sp.csr_matrix(counts), np.arange(counts.shape[1]), scale)
    assert np.isfinite(expression).all()
    assert (expression[0] == 0).all()
    assert (expression[:, -1] == 0).all()
    assert ((expression > 0) == (counts > 0)).all()


@given(counts=count_tables, factor=st.integers(2, 2000), scale=st.sampled_from(EVERY_SCALE))
def test_the_depth_of_a_spot_or_gene_cancels(counts, factor, scale):
    panel = np.arange(counts.shape[1])
    deeper = counts.astype(np.int64)
    if scale.total == "spot":
        deeper[0] *= factor
    else:
        deeper[:, 0] *= factor
    np.testing.assert_allclose(
        normalise(sp.csr_matrix(deeper), panel, scale),
        normalise(sp.csr_matrix(counts), panel, scale),
        rtol=1e-12,
    )


@given(counts=count_tables, scale=st.sampled_from(EVERY_SCALE))
def test_an_unmeasured_gene_is_zero_and_changes_no_other(counts, scale):
    panel = np.arange(counts.shape[1])
    with_gap = np.insert(panel, 1, -1)
    found = normalise(sp.csr_matrix(counts), with_gap, scale)
    assert (found[:, 1] == 0).all()
    np.testing.assert_array_equal(
        np.delete(found, 1, axis=1), normalise(sp.csr_matrix(counts), panel, scale)
    )


@pytest.mark.parametrize("log", ["ln", "log10"])
def test_totals_are_over_all_measured_genes_or_over_the_panel(log):
    counts = sp.csr_matrix(np.array([[1, 3, 6]]))
    panel = np.array([1, 0])
    function = {"ln": np.log, "log10": np.log10}[log]
    of_all = normalise(counts, panel, Scale(genes="all", log=log))
    of_panel = normalise(counts, panel, Scale(genes="panel", log=log))
    np.testing.assert_allclose(of_all, function([[1 + 3000, 1 + 1000]]), rtol=1e-15)
    np.testing.assert_allclose(of_panel, function([[1 + 7500, 1 + 2500]]), rtol=1e-15)


def test_panel_counts_follow_the_order_of_the_panel():
    counts = sp.csr_matrix(np.array([[1, 2, 3], [4, 5, 6]]))
    np.testing.assert_array_equal(
        panel_counts(counts, np.array([2, -1, 0])), [[3, 0, 1], [6, 0, 4]]
    )


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_impossible_counts_are_refused(value):
    with pytest.raises(DataError, match="finite and not negative"):
        normalise(sp.csr_matrix(np.array([[1.0, value]])), np.array([0, 1]), Scale())


def test_the_counts_are_left_as_they_were():
    counts = sp.csr_matrix(np.array([[1, 2, 3], [4, 5, 6]]))
    before = counts.toarray()
    for scale in EVERY_SCALE:
        normalise(counts, np.array([0, 2]), scale)
    np.testing.assert_array_equal(counts.toarray(), before)
