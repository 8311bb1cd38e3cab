"""The table of paired comparisons."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bench.report.pairs import few_patients, pair_table, render_pairs, section_scores
from tests.report.test_tables import score, store  # noqa: F401 - a fixture


@pytest.fixture
def runs(store):  # noqa: F811
    return [store(name)[0] for name in ("one", "two", "three")]


def test_scores_are_laid_out_by_section(runs):
    table = section_scores(runs, "mse")
    assert list(table.index) == ["A1", "A2", "B1", "B2", "C1", "C2"]
    assert list(table["patient"]) == list("AABBCC")
    assert set(table.columns) == {"patient", "one", "two", "three"}


def test_pairs_are_differences_on_common_sections_the_better_first(runs):
    table = pair_table(runs, "pcc_acg")
    scores = section_scores(runs, "pcc_acg").drop(columns="patient")
    assert len(table) == 3
    for row in table.itertuples():
        difference = scores[row.first] - scores[row.second]
        assert row.difference == pytest.approx(difference.mean())
        assert row.difference >= 0
        assert row.wilcoxon == scipy.stats.wilcoxon(difference).pvalue
        assert row.wilcoxon_holm >= row.wilcoxon
        assert (row.sections, row.patients) == (6, 3)
    assert (pair_table(runs, "mse")["difference"] <= 0).all()


def test_runs_of_other_folds_are_never_paired(store):  # noqa: F811
    runs = [
        store("one")[0],
        store("two")[0],
        store("other", folds_hash="0" * 64)[0],
        store("another", folds_hash="0" * 64)[0],
    ]
    found = {frozenset((row.first, row.second)) for row in pair_table(runs).itertuples()}
    assert found == {frozenset(("one", "two")), frozenset(("other", "another"))}


def test_runs_of_one_name_are_told_apart(store):  # noqa: F811
    runs = [store("method", seed=seed, config={"epochs": seed})[0] for seed in (0, 1)]
    (row,) = pair_table(runs).itertuples()
    assert {row.first, row.second} == {"method (seed 0)", "method (seed 1)"}


def test_a_missing_fold_leaves_the_sections_that_both_have(store):  # noqa: F811
    runs = [store("one")[0], store("two", done=(0, 2))[0]]
    (row,) = pair_table(runs).itertuples()
    assert (row.sections, row.patients) == (4, 2)


def test_few_patients_have_no_power_and_the_table_says_so(runs):
    text = render_pairs(runs, "text")
    assert "no power" in text
    assert "fewer than 6 patients" in text
    assert "*" not in text
    rows = json.loads(render_pairs(runs, "json"))["rows"]
    assert all(row["permutation"] >= 0.05 for row in rows)


def test_one_run_has_no_pair(store):  # noqa: F811
    run, _ = store("one", changes=score(0.5))
    assert pair_table([run]).empty
    assert "better" in render_pairs([run], "text")


@pytest.mark.slow
def test_the_same_call_gives_the_same_bytes(runs):
    for how in ("text", "csv", "json", "markdown", "latex"):
        assert render_pairs(runs, how) == render_pairs(runs, how)
    assert np.isfinite(pair_table(runs)["low"]).all()


@pytest.mark.parametrize(
    ("patients", "pairs", "said"),
    [
        (
            8,
            21,
            "8 patients and 21 pairs the smallest corrected p (patients) that can come out is 0.16",
        ),
        (16, 21, ""),
        (8, 6, ""),
        (3, 21, ""),
    ],
)
def test_too_many_pairs_for_the_patients_are_said(patients, pairs, said):
    table = pd.DataFrame({"patients": patients, "permutation": 0.5}, index=range(pairs + 3))
    table["permutation_holm"] = [0.5] * pairs + [float("nan")] * 3  # three with a control
    assert said in few_patients(table)
    assert bool(few_patients(table)) == bool(said)


@pytest.mark.parametrize("width", [80, 90])
def test_pairs_fit_the_terminal(runs, width):
    wide, narrow = render_pairs(runs, "text"), render_pairs(runs, "text", width=width)
    assert max(map(len, narrow.splitlines())) <= width
    assert "patients" in wide.splitlines()[0]
    assert "95 % interval" in narrow.splitlines()[0]
    assert f"Hidden in {width} characters: patients" in narrow
    for how in ("csv", "json", "markdown"):
        assert render_pairs(runs, how, width=width) == render_pairs(runs, how)
