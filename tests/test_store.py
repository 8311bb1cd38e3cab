"""The result store: what counts as done, what is damaged, and results of the first layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.files import canonical_hash
from bench.store import FoldFolder, RunFolder, read_run
from bench.stored_runs import damaged_records, stored_run, stored_runs

LAYOUT_1 = Path(__file__).parent / "fixtures" / "results-layout-1"
FACTS = {"label": "mean", "kind": "control", "n_folds": 1, "folds_hash": "f", "dataset": "d"}


@pytest.fixture
def run(tmp_path):
    """A run with one finished fold."""
    folder = RunFolder(tmp_path / "runs" / "d" / "p" / "mean-k", "k")
    folder.describe({**FACTS, "created": "2026-01-01", "git_commit": None})
    fold = folder.fold(0)
    fold.clear()
    write(fold, 1.0)
    fold.finish("fit", "score")
    return folder


def write(fold, value):
    """The files of a fold."""
    table = pd.DataFrame({"value": [value]})
    for name in ("scores.parquet", "genes.parquet"):
        fold.write_table(name, table)
    (fold.path / "predictions.h5ad").write_text(str(value))
    (fold.path / "fold.json").write_text(json.dumps({"value": value}))


def edit(path, **changes):
    """Change fields of a JSON file, as a person would."""
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def test_a_finished_fold_is_done(run):
    state = run.fold(0).state()
    assert (state.done, state.fit_key, state.score_key, state.damage) == (True, "fit", "score", "")
    assert stored_run(run).done == (0,)


@pytest.mark.parametrize(
    "name", ["scores.parquet", "genes.parquet", "predictions.h5ad", "fold.json"]
)
@pytest.mark.parametrize(("how", "words"), [("gone", "missing"), ("changed", "damaged or was")])
def test_a_damaged_file_is_named(run, name, how, words):
    path = run.fold(0).path / name
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    state = run.fold(0).state()
    assert not state.done
    assert state.damage.startswith(name)
    assert words in state.damage
    stored = stored_run(run, "figures")
    assert (stored.done, set(stored.damaged)) == ((), {0})


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "other"},
        {"fold": 3},
        {"files": {}},
        {"score_key": "other"},
        {"sha256": None},
        {"key": canonical_hash(["k", 0]), "sha256": None},
    ],
)
def test_an_edited_manifest_is_called_so(run, changes):
    edit(run.fold(0).path / "manifest.json", **changes)
    state = run.fold(0).state()
    assert not state.done
    assert state.damage.startswith("manifest.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"label": "mclstexp"},
        {"preset": "authors"},
        {"kind": "method"},
        {"n_folds": 7},
        {"sha256": "0" * 64},
        {"label": "mclstexp", "sha256": None},
    ],
)
def test_an_edited_run_record_is_not_believed(run, changes):
    edit(run.path / "run.json", **changes)
    assert read_run(run.path) is None
    results = run.results
    assert stored_runs(results, "d", "p") == []
    assert damaged_records(results, "d", "p") == [run.path / "run.json"]


def test_a_run_record_without_its_hash_is_not_taken_for_one_of_the_first_layout(run):
    path = run.path / "run.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps({**content, "label": "mclstexp"}))
    assert read_run(run.path) is None


def test_a_damaged_run_record_is_written_again(run):
    edit(run.path / "run.json", label="mclstexp")
    run.describe({**FACTS, "created": "2026-02-02", "git_commit": None})
    assert read_run(run.path)["label"] == "mean"


def test_when_a_run_was_made_is_kept(run):
    run.describe({**FACTS, "created": "2026-02-02", "git_commit": "abc", "n_sections": 3})
    facts = read_run(run.path)
    assert (facts["created"], facts["git_commit"], facts["n_sections"]) == ("2026-01-01", None, 3)


# ----------------------------------------------------------------------- scoring again


def rescore(fold, value):
    with fold.rescoring("new") as staged:
        write(staged, value)


def value_of(fold):
    state = fold.state()
    assert state.done, state
    return state.score_key, float(fold.read_table("scores.parquet")["value"].iloc[0])


def test_new_scores_take_the_place_of_old_ones(run):
    fold = run.fold(0)
    rescore(fold, 2.0)
    assert value_of(fold) == ("new", 2.0)
    assert fold.state().fit_key == "fit"


def test_an_error_while_scoring_again_keeps_the_old_scores(run):
    fold = run.fold(0)

    def fail():
        with fold.rescoring("new") as staged:
            write(staged, 2.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert value_of(fold) == ("score", 1.0)
    assert not (fold.path / "rescored").exists()


STAGED = ("scores.parquet", "genes.parquet", "predictions.h5ad", "fold.json", "manifest.json")


@pytest.mark.parametrize("moved", range(len(STAGED)))
def test_a_kill_while_scores_are_moved_leaves_the_new_ones(run, moved, tmp_path):
    """Killed after `moved` of the files are in their place."""
    fold = run.fold(0)
    old = shutil.copytree(fold.path, tmp_path / "old")
    rescore(fold, 2.0)
    new = shutil.copytree(fold.path, tmp_path / "new")
    staged = fold.path / "rescored"
    staged.mkdir()
    for number, name in enumerate(STAGED):
        if number >= moved:
            shutil.copy(new / name, staged / name)
            shutil.copy(old / name, fold.path / name)
    assert value_of(fold) == ("new", 2.0)
    assert not staged.exists()


def test_a_kill_before_the_new_scores_are_complete_keeps_the_old_ones(run):
    fold = run.fold(0)
    staged = FoldFolder(fold.path / "rescored", fold.run_key, 0)
    staged.path.mkdir()
    staged.write_table("scores.parquet", pd.DataFrame({"value": [2.0]}))
    assert value_of(fold) == ("score", 1.0)
    rescore(fold, 3.0)
    assert value_of(fold) == ("new", 3.0)


# -------------------------------------------------------------------- the first layout


@pytest.fixture
def layout_1(tmp_path):
    """A copy of a results folder of the first layout."""
    return Path(shutil.copytree(LAYOUT_1, tmp_path / "results"))


def test_results_of_the_first_layout_are_read(layout_1):
    from bench.report.tables import for_people, render, score_table

    runs = stored_runs(layout_1, "demo", "strict-hvg-12")
    table = score_table(runs).set_index("method")
    assert list(table["folds"]) == [3, 3]
    assert table.loc["ridge", "pcc_acg"] == pytest.approx(0.5553, abs=5e-5)
    assert table["ccc_acg"].isna().all()  # a score that these results lack
    shown = for_people(score_table(runs), "page")
    assert set(shown["CCC(ACG)"]) == {"–"}
    assert json.loads(render(runs, "json"))["rows"][0]["ccc_acg"] is None
    assert all(run.damaged == {} for run in runs)
    assert damaged_records(layout_1, "demo", "strict-hvg-12") == []


def test_damage_in_the_first_layout_is_named(layout_1):
    (scores,) = layout_1.glob("runs/demo/*/ridge-*/fold-1/scores.parquet")
    scores.write_bytes(b"no table")
    runs = stored_runs(layout_1, "demo", "strict-hvg-12")
    (ridge,) = (run for run in runs if run.facts["label"] == "ridge")
    assert ridge.done == (0, 2)
    assert ridge.damaged == {1: "scores.parquet is damaged or was edited"}
