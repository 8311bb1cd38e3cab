"""Runs on fewer training patients, from the command line."""

from __future__ import annotations

import json

import pytest

from tests.cli.variants.made import facts_of, rows_of


def test_each_number_of_patients_is_a_run_of_the_same_folds(run, results, tiny):
    rows = rows_of(run("--train-patients", "1,all", "--folds", "0", "--json"))
    assert [row["train_patients"] for row in rows] == [None]  # one patient is all of them here


def test_subsets_are_nested_and_scores_are_on_the_same_genes(run, results, larger):
    call = ("--train-patients", "2,1,all", "--folds", "0,3", "--json")
    rows = rows_of(run(*call, options=larger.options))
    assert sorted(str(row["train_patients"]) for row in rows) == ["1.0", "2.0", "None"]
    assert len({row["folds_hash"] for row in rows}) == 1
    folds = {}
    for facts, folder in zip(
        facts_of(results), sorted(results.glob("runs/*/*/*/run.json")), strict=True
    ):
        for path in folder.parent.glob("fold-*/fold.json"):
            folds[facts.get("train_patients"), path.parent.name] = json.loads(path.read_text())
    for number in (0, 3):
        one, two, every = (folds[size, f"fold-{number}"] for size in (1, 2, None))
        assert len(one["train"]) == 1
        assert len(two["train"]) == 2
        assert len(every["train"]) == 3
        assert set(one["train"]) < set(two["train"]) < set(every["train"])
        assert one["validation"] == two["validation"] == every["validation"]
        assert one["panel"] == two["panel"] == every["panel"]
        assert one["test"] == every["test"]
    errors = {row["train_patients"]: row["mse"] for row in rows}
    assert len(set(errors.values())) == 3
    plain = run("--folds", "0,3", options=larger.options)
    assert plain.stderr.count("kept") == 2


@pytest.mark.slow
def test_seeds_and_patients_go_together(run, results, larger, bench, tmp_path):
    call = ("--train-patients", "1,2,all", "--seeds", "0-1", "--folds", "0,1")
    answer = run(*call, "--json", options=larger.options)
    assert [row["seeds"] for row in rows_of(answer)] == [2, 2, 2]
    assert "; 12 jobs" in answer.stderr
    assert answer.stdout  # the JSON
    page = bench("report", "--results", results)
    assert page.status == 0, page.stderr
    text = (results / "report.html").read_text()
    assert "mean, 1 training patient, seed 1" in text
