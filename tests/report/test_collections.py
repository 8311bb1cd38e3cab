"""One table over the datasets of a collection."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.report.collections import collection_table, render_collection
from bench.report.tables import render, score_table
from tests.report.test_tables import store  # noqa: F401 - a fixture

RULES = {"rules": {"headline": "fold"}}


@pytest.fixture
def runs(store):  # noqa: F811
    """Runs of two methods on two of three datasets; gives them and the scores of the folds."""
    scores = {}

    def make(label, dataset, number, **facts):
        # Two folds on the second dataset, so that the scores differ.
        folds = {"a": 3, "b": 2}[dataset]
        facts |= {"n_folds": folds, "done": tuple(range(folds)), **RULES}
        run, table = store(label, key=f"{number:064x}", protocol=f"hest-{dataset}", **facts)
        pooled = table[table["score"] == "pooled_pcc_acg"]["value"]
        scores[label, dataset] = pooled.to_numpy()
        return run

    by_dataset = {
        "x-a": [make("ridge", "a", 1), make("depth", "a", 2, kind="oracle")],
        "x-b": [make("ridge", "b", 3), make("depth", "b", 4, kind="oracle")],
    }
    return by_dataset, scores


def test_the_mean_is_over_the_means_of_the_datasets(runs):
    by_dataset, scores = runs
    table = collection_table("x", by_dataset, published=False).set_index("method")
    for label in ("ridge", "depth"):
        row = table.loc[label]
        means = [scores[label, name].mean() for name in "ab"]
        np.testing.assert_allclose([row["x-a"], row["x-b"]], means)
        assert row["mean"] == pytest.approx(np.mean(means))
        assert row["x-a_sd"] == pytest.approx(np.std(scores[label, "a"]))
    assert list(table.index) == ["ridge", "depth"], "an oracle leads no table"


def test_a_missing_dataset_leaves_no_mean(runs):
    by_dataset, _ = runs
    table = collection_table("x", {**by_dataset, "x-c": []}, published=False)
    assert table["mean"].isna().all()
    assert (table["datasets"] == 2).all()
    text = render_collection("x", {**by_dataset, "x-c": []}, "text", protocol="hest")
    assert "No run on x-c" in text


def test_settings_are_rows_of_their_own(runs, store):  # noqa: F811
    by_dataset, _ = runs
    other, _ = store("ridge", key="9" * 64, protocol="o", config={"pca": 3}, **RULES)
    table = collection_table("x", {**by_dataset, "x-b": [other]}, published=False)
    assert (table["method"] == "ridge").sum() == 2


@pytest.mark.parametrize("how", ["text", "markdown", "latex", "csv", "json"])
def test_the_score_is_defined_under_the_table(runs, how):
    by_dataset, _ = runs
    text = render_collection("x", by_dataset, how, protocol="hest", title="t")
    if how != "csv":
        assert "over all test spots of a fold" in text.replace("\\", "")


def test_published_rows_stand_beside_ours(runs, monkeypatch):
    by_dataset, _ = runs
    renamed = {"hest-idc": by_dataset["x-a"], "hest-skcm": by_dataset["x-b"]}
    table = collection_table("hest", renamed, protocol="hest", published=True)
    uni = table[(table["method"] == "ridge[uni]") & table["source"].str.contains("2026")].iloc[0]
    assert uni["hest-idc"] == 0.5890
    assert uni["mean"] == pytest.approx((0.5890 + 0.6346) / 2)
    musk = table[table["method"] == "ridge[musk]"].iloc[0]
    assert musk["mean"] == 0.3467, "as published, without the values"
    content = json.loads(
        render_collection("hest", renamed, "json", protocol="hest", published=True)
    )
    assert len(content["rows"]) == 2 + 29


def test_a_protocol_by_fold_leads_with_the_score_of_the_folds(runs):
    by_dataset, scores = runs
    table = score_table(by_dataset["x-a"])
    text = render(by_dataset["x-a"], "text")
    heading = next(line for line in text.splitlines() if "method" in line)
    assert "PCC by fold" in heading
    assert "pooled PCC(ACG)" not in heading
    ours = scores["ridge", "a"]
    assert f"{ours.mean():.4f} ± {ours.std():.4f}" in text
    assert table.iloc[0]["pooled_pcc_acg_sd"] == pytest.approx(ours.std())
    assert "population standard deviation" in text


def test_other_protocols_keep_their_columns(store):  # noqa: F811
    run, _ = store("ridge")
    heading = next(line for line in render([run], "text").splitlines() if "method" in line)
    assert "PCC by fold" not in heading
    assert "pooled PCC(ACG)" in heading
