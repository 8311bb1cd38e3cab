"""A fold that is made again is compared with what is stored."""

from __future__ import annotations

import json

import anndata
import pytest

from bench.records import write_record
from bench.stored_runs import stored_runs
from tests.cli.tiny_dataset import assert_refused, call, write_plugin


def found(results, label):
    return next(
        run
        for run in stored_runs(results, "tiny", "patients")
        if run.facts["label"] == label and not run.origin
    )


@pytest.fixture
def verify(shared_tiny):
    def ask(results, *more):
        return call("verify", *more, *shared_tiny.where, "--results", results)

    return ask


@pytest.mark.parametrize("label", ["coordinates", "depth"])
def test_a_run_is_made_again(verify, shared_results, label):
    key = found(shared_results, label).facts["key"]
    answer = verify(shared_results, key[:8], "--fold", "1")
    assert answer.status == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0] == f"{label} on tiny, protocol patients, fold 1"
    assert lines[1] == f"key: {key[:12]}, the same now"
    assert lines[2] == "predictions: largest difference 0 of 2,400 values"
    assert lines[3].endswith("scores of sections are equal")
    assert lines[4:] == ["reproduced within 1e-06"]


def test_a_changed_score_and_a_changed_prediction_are_told(verify, own_results):
    fold = found(own_results, "coordinates").folder.fold(0)
    state = fold.state()
    scores = fold.read_table("scores.parquet")
    scores.loc[(scores["section"] == "A2") & (scores["score"] == "mse"), "value"] += 0.5
    fold.write_table("scores.parquet", scores)
    path = fold.path / "predictions.h5ad"
    stored = anndata.read_h5ad(path)
    stored.X[3, 4] += 0.25
    stored.write_h5ad(path)
    fold.finish(state.fit_key, state.score_key)
    more = ("--method", "coordinates")
    answer = verify(own_results, *more)
    assert answer.status == 1, answer.stderr
    assert "predictions: largest difference 0.25 of 2,400 values" in answer.stdout
    assert "largest difference of a section's score 0.5 (MSE, section A2)" in answer.stdout
    assert answer.stdout.endswith("not reproduced within 1e-06\n")
    assert verify(own_results, *more, "--tolerance", "0.6").status == 0
    assert verify(own_results, *more, "--fold", "1").status == 0
    told = json.loads(verify(own_results, *more, "--json").stdout)
    assert told["reproduced"] is False
    assert told["scores"]["score"] == "mse"


def test_an_imported_run_is_made_again_by_its_scores(verify, archive, tmp_path):
    assert call("import", archive, "--results", tmp_path / "results").status == 0
    answer = verify(tmp_path / "results", "--method", "coordinates")
    assert answer.status == 0, answer.stderr
    assert "predictions: none are stored" in answer.stdout


def test_what_has_changed_since_is_told(verify, own_results):
    run = found(own_results, "mean")
    packages = {**run.facts["packages"], "numpy": "1.0"}
    facts = {**run.facts, "packages": packages, "tables_hash": "0" * 64}
    write_record(run.folder.path / "run.json", facts)
    answer = verify(own_results, "--method", "mean")
    assert answer.status == 0
    assert "changed: package numpy: 1.0 then, " in answer.stdout
    assert "changed: counts or their reader: 000000000000 then, " in answer.stdout


def test_changed_code_is_told_with_the_key_it_would_have(
    verify, shared_tiny, tmp_path, monkeypatch
):
    plugins = write_plugin(tmp_path / "plugins", "tilted")
    monkeypatch.syspath_prepend(plugins)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    results = tmp_path / "results"
    arguments = ("run", "--method", "tilted", *shared_tiny.options, *shared_tiny.quick_protocol)
    answer = call(*arguments, "--folds", "0", "--tracking", "none", "--results", results)
    assert answer.status == 0, answer.stderr
    assert verify(results, "--method", "tilted").status == 0
    write_plugin(plugins, "tilted", predict="predictions = [p + 0.5 for p in predictions]")
    answer = verify(results, "--method", "tilted")
    assert answer.status == 1
    assert ", now it would be " in answer.stdout
    assert "changed: code of the method or the harness" in answer.stdout
    assert "predictions: largest difference 0.5 of" in answer.stdout
    write_plugin(plugins, "tilted", fit="raise ValueError('no luck')")
    answer = verify(results, "--method", "tilted")
    assert answer.status == 1
    assert "not reproduced: the method failed" in answer.stdout
    assert "no luck" in answer.stdout


@pytest.mark.slow  # ridge imports torch
def test_settings_of_the_run_are_used_whatever_presets_say(verify, shared_tiny, tmp_path):
    results = tmp_path / "results"
    arguments = ("run", "--method", "ridge", *shared_tiny.options, *shared_tiny.quick_protocol)
    more = ("--set", "pca=3", "--preset", "quick", "--seed", "5", "--folds", "2")
    answer = call(*arguments, *more, "--tracking", "none", "--results", results)
    assert answer.status == 0, answer.stderr
    answer = verify(results, "--device", "cpu")
    assert answer.status == 0, answer.stdout + answer.stderr
    assert ", the same now" in answer.stdout
    assert "fold 2" in answer.stdout


def test_what_cannot_be_made_again_is_one_line(verify, own_results, tmp_path):
    assert_refused(verify(tmp_path / "none"), "no runs here")
    assert_refused(verify(own_results, "zzz"), "no run has a key that begins with 'zzz'")
    assert_refused(verify(own_results), "3 runs; write more of the key of one")
    assert_refused(verify(own_results, "--method", "men"), "did you mean mean")
    asked = ("--method", "mean")
    assert_refused(verify(own_results, *asked, "--fold", "9"), "fold 9 is not finished")
    assert_refused(verify(own_results, *asked, "--tolerance", "-1"), "--tolerance")
    run = found(own_results, "mean")
    for facts, words in (
        ({"aliases": {"sha256": "x", "renamed": {}}}, "--aliases"),
        ({"label": "released:mean"}, "--checkpoint"),
        ({"label": "mean:ridge+knn"}, "an ensemble averages other rows"),
    ):
        write_record(run.folder.path / "run.json", {**run.facts, **facts})
        assert_refused(verify(own_results, run.facts["key"][:12]), words)
    answer = call("verify", *asked, "--dataset", "tin", "--results", own_results)
    assert_refused(answer, "tin")
