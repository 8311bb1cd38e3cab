"""Stored runs: listed, removed, named; what lies outside of the results folder is never touched."""

from __future__ import annotations

import json
import shutil

import pytest

import bench
from bench.claims import claim
from bench.inventory import GIVEN, list_runs, named_runs, without_replaced
from bench.report.tables import render
from bench.stored_runs import stored_run, stored_runs
from tests.cli.tiny_dataset import call
from tests.report.test_names_in_tables import ODD
from tests.report.test_tables import store  # noqa: F401 - a fixture


def fail(run, reason="out of memory"):
    for index in range(3):
        run.folder.fold(index).fail(reason, "details")
    return stored_run(run.folder)


@pytest.fixture
def several(store, tmp_path):  # noqa: F811
    """A finished run, one with two folds, one that failed, and one that was edited."""
    runs = {
        "done": store("ridge")[0],
        "partial": store("knn", done=(0, 1))[0],
        "failed": fail(store("mclstexp", done=())[0]),
        "damaged": store("mean")[0],
    }
    record = runs["damaged"].folder.path / "run.json"
    record.write_text(record.read_text().replace('"mean"', '"median"'))
    return runs


def runs_command(tmp_path, *arguments):
    return call("runs", arguments[0], "--results", tmp_path, *arguments[1:])


def listed(tmp_path, *options):
    return json.loads(runs_command(tmp_path, "list", "--json", *options).stdout)


def key(run):
    return run.folder.key[:12]


# ------------------------------------------------------------------------------------- list


def test_runs_are_listed_with_their_state_and_size(several, tmp_path):
    rows = {row["label"]: row for row in listed(tmp_path)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "ridge": "done",
        "knn": "partial",
        "mclstexp": "failed",
        "mean": "damaged",
    }
    assert (rows["knn"]["done"], rows["knn"]["folds"]) == (2, 3)
    files = [p for p in several["done"].folder.path.rglob("*") if p.is_file()]
    assert rows["ridge"]["size"] == sum(path.stat().st_size for path in files)
    assert rows["mclstexp"]["reason"] == "out of memory"
    text = runs_command(tmp_path, "list").stdout
    assert "out of memory" in text
    assert "4 runs" in text


def test_the_list_is_narrowed_by_method_and_state(several, tmp_path):
    assert {row["label"] for row in listed(tmp_path, "--state", "partial,done")} == {"ridge", "knn"}
    assert [row["label"] for row in listed(tmp_path, "--method", "ridge")] == ["ridge"]


def test_a_run_that_somebody_works_on_is_in_use(several, tmp_path):
    with claim(several["partial"].folder.fold(2).claim_file):
        assert {row["label"]: row["state"] for row in listed(tmp_path)}["knn"] == "in use"
        answer = runs_command(tmp_path, "rm", key(several["partial"]), "--yes")
    assert answer.status == 1
    assert "in use by process" in answer.stderr
    assert "removed 0 runs" in answer.stdout
    assert several["partial"].folder.fold(0).is_done()


# ----------------------------------------------------------------------------------- remove


def test_runs_are_removed_by_key_method_and_state(several, tmp_path):
    answer = runs_command(tmp_path, "rm", key(several["done"])[:6], "--yes")
    assert answer.status == 0, answer
    assert "removed 1 run and freed" in answer.stdout
    assert "MLflow" in answer.stdout
    assert not several["done"].folder.path.exists()
    assert runs_command(tmp_path, "rm", "--failed", "--yes").status == 0
    assert runs_command(tmp_path, "rm", "--method", "knn", "--yes").status == 0
    assert [row["label"] for row in listed(tmp_path)] == ["mean"]
    assert runs_command(tmp_path, "rm", "--state", "damaged", "--yes").status == 0
    assert list((tmp_path / "runs").iterdir()) == [], "no empty folder of a dataset is left"


def test_nothing_is_removed_unless_it_is_confirmed(several, tmp_path):
    answer = runs_command(tmp_path, "rm", "--failed")
    assert answer.status == 2
    assert "add --yes" in answer.stderr
    assert len(list_runs(tmp_path)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say which runs"),
        (("--dataset", "tiny"), "say which runs"),
        (("abc",), "at least its first 4"),
        (("zzzz",), "unknown key 'zzzz'"),
        (("../../..",), "unknown key"),
        (("--method", "rigde"), "did you mean ridge"),
        (("--state", "lost"), "unknown state of a run 'lost'"),
        (("--failed", "--dataset", "none"), "unknown dataset with runs"),
    ],
)
def test_a_choice_of_no_run_is_refused(several, tmp_path, arguments, message):
    answer = runs_command(tmp_path, "rm", "--yes", *arguments)
    assert answer.status == 2
    assert message in answer.stderr
    assert len(list_runs(tmp_path)) == 4


@pytest.mark.parametrize("what", ["run", "protocol"])
def test_a_link_out_of_the_results_folder_is_not_followed(several, tmp_path, what):
    results = tmp_path / "other"
    (results / "runs" / "tiny").mkdir(parents=True)
    if what == "protocol":
        (results / "runs" / "tiny" / "strict").symlink_to(tmp_path / "runs" / "tiny" / "strict")
    else:
        (results / "runs" / "tiny" / "strict").mkdir()
        folder = several["done"].folder.path
        (results / "runs" / "tiny" / "strict" / folder.name).symlink_to(folder)
    answer = runs_command(results, "rm", key(several["done"]), "--yes")
    assert answer.status == 1
    assert "outside" in answer.stderr
    assert several["done"].folder.fold(0).is_done()


def test_what_a_link_inside_of_a_run_points_to_is_kept(several, tmp_path):
    kept = tmp_path / "mine"
    kept.mkdir()
    (kept / "file").write_text("x")
    (several["done"].folder.path / "link").symlink_to(kept)
    (several["done"].folder.fold(0).path / "link").symlink_to(kept)
    assert runs_command(tmp_path, "rm", key(several["done"]), "--yes").status == 0
    assert (kept / "file").read_text() == "x"
    assert not several["done"].folder.path.exists()


# ------------------------------------------------------------------------------------- name


def test_a_name_is_shown_in_tables_and_changes_no_stored_file(several, tmp_path):
    run = several["done"]
    files = [p for p in run.folder.path.rglob("*") if p.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert runs_command(tmp_path, "label", key(run), "baseline").status == 0
    assert {path: path.read_bytes() for path in files} == before
    for options in ((), ("--layout", "paper"), ("--format", "csv")):
        text = call("tables", "--dataset", "tiny", "--results", tmp_path, *options).stdout
        assert "baseline" in text
        assert "ridge" not in text
    named = bench.tables("tiny", protocol=run.facts["protocol"], results=tmp_path)
    assert "baseline" in set(named["method"])
    assert runs_command(tmp_path, "label", key(run), "--clear").status == 0
    assert not (run.folder.path / GIVEN).exists()


def test_two_rows_have_no_name_in_common(several, tmp_path):
    assert runs_command(tmp_path, "label", key(several["done"]), "ours").status == 0
    for name in ("ours", "ridge"):
        answer = runs_command(tmp_path, "label", key(several["partial"]), name)
        assert answer.status == 2
        assert f"is named '{name}' already" in answer.stderr
    assert runs_command(tmp_path, "label", key(several["done"]), "ours").status == 0


@pytest.mark.parametrize("name", ["", "  ", "x" * 121])
def test_a_blank_or_endless_name_is_refused(several, tmp_path, name):
    answer = runs_command(tmp_path, "label", key(several["done"]), name)
    assert answer.status == 2
    assert not (several["done"].folder.path / GIVEN).exists()


@pytest.mark.parametrize("name", [name for name in ODD if len(name) < 120])
def test_an_odd_name_leaves_the_table_whole(several, tmp_path, name):
    assert runs_command(tmp_path, "label", key(several["done"]), name).status == 0
    runs = named_runs([several["done"], several["partial"]])
    for how in ("text", "latex", "html"):
        text = render(runs, how)
        assert "\x1b" not in text
        assert how != "html" or "<b>" not in text.partition("<table")[2]
    assert len(render(runs, "csv").splitlines()) == 3


def test_a_damaged_name_is_ignored(several):
    (several["done"].folder.path / GIVEN).write_text('{"label": 3}')
    (run,) = named_runs([several["done"]])
    assert run.facts["label"] == "ridge"


# -------------------------------------------------------------------------- replaced failures


def test_a_failed_run_is_left_out_once_a_later_one_has_finished(store, tmp_path):  # noqa: F811
    failed = fail(store("ridge", done=(), created="2020-01-01", config={"alpha": -1})[0])
    assert without_replaced([failed]) == [failed]
    later, _ = store("ridge", created="2020-01-02")
    assert without_replaced([failed, later]) == [later]
    answer = call("tables", "--dataset", "tiny", "--results", tmp_path)
    assert "1 failed runs that later ones replace are left out" in answer.stderr
    assert "0/3" not in answer.stdout


@pytest.mark.parametrize("other", ["earlier", "another", "unfinished"])
def test_a_failure_that_nothing_replaces_stays(store, other):  # noqa: F811
    failed = fail(store("ridge", done=(), created="2020-01-02", config={"alpha": -1})[0])
    beside = {
        "earlier": lambda: store("ridge", created="2020-01-01")[0],
        "another": lambda: store("knn", created="2020-01-03")[0],
        "unfinished": lambda: store("ridge", done=(), created="2020-01-03")[0],
    }[other]()
    assert without_replaced([failed, beside]) == [failed, beside]


def test_removing_a_dataset_leaves_no_name_of_it(several, tmp_path):
    shutil.rmtree(several["damaged"].folder.path)
    names = "ridge,knn,mclstexp"
    assert runs_command(tmp_path, "rm", "--method", names, "--yes").status == 0
    assert stored_runs(tmp_path, "tiny", "strict") == []
    answer = call("tables", "--dataset", "tiny", "--results", tmp_path)
    assert answer.status == 2
    assert "no runs here" in answer.stderr
