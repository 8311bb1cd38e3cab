"""Results go from one folder to another and stay what they are; sources stay apart."""

from __future__ import annotations

import getpass
import json
import platform
import shutil
from pathlib import Path

import pytest

from bench.records import read_record
from bench.report.tables import newest
from bench.sharing.portable import has_path, portable_fold, portable_run
from bench.store import RunFolder
from bench.stored_runs import stored_runs
from tests.cli.tiny_dataset import assert_nothing_half_written, assert_refused, call
from tests.sharing.archives import edited, members, rekeyed, sealed

WHERE = ("--dataset", "tiny", "--protocol", "patients")


def table(results, how):
    answer = call("tables", *WHERE, "--format", how, "--results", results)
    assert answer.status == 0, answer.stderr
    return answer.stdout


@pytest.fixture
def imported(archive, tmp_path):
    answer = call("import", archive, "--results", tmp_path / "a" / "b")
    assert answer.status == 0, answer.stderr
    return tmp_path / "a" / "b"


@pytest.mark.parametrize("how", ["json", "csv", "markdown", "text", "latex"])
def test_tables_of_imported_results_are_the_same_to_the_byte(shared_results, imported, how):
    text = table(shared_results, how)
    assert "coordinates" in text
    assert table(imported, how) == text


def test_names_that_rows_were_given_travel_with_them(shared_results, tmp_path):
    named = shutil.copytree(shared_results, tmp_path / "named")
    (key,) = {path.parent.name[-12:] for path in named.glob("runs/*/*/coordinates-*/run.json")}
    assert call("runs", "label", key, "our neighbours", "--results", named).status == 0
    out = tmp_path / "named.spotbench.zip"
    assert call("export", "--results", named, "--out", out).status == 0
    assert call("import", out, "--results", tmp_path / "there").status == 0
    text = table(named, "text")
    assert "our neighbours" in text
    assert table(tmp_path / "there", "text") == text


def test_other_pages_of_imported_results_are_made(imported, tmp_path, monkeypatch):
    answer = call("genes", *WHERE, "--method", "coordinates", "--results", imported)
    assert answer.status == 0, answer.stderr
    assert "GENE" in answer.stdout
    # Drawing takes long and needs no predictions.
    monkeypatch.setattr("bench.report.page.comparison_figures", lambda runs: {})
    monkeypatch.setattr("bench.report.drawing.comparison_figures", lambda runs: {})
    answer = call("report", *WHERE, "--results", imported, "--out", tmp_path / "page.html")
    assert answer.status == 0, answer.stderr
    assert "coordinates" in (tmp_path / "page.html").read_text()
    refused = call("figures", *WHERE, "--section", "A1", "--results", imported)
    assert_refused(refused, "section with predictions")


def test_an_archive_names_no_path_no_host_and_no_user(archive, shared_results):
    content = members(archive)
    text = b"".join(value for name, value in content.items() if name.endswith(".json"))
    assert b"coordinates" in text
    for private in (str(shared_results.parent), str(Path.home()), platform.node()):
        assert private.encode() not in text
    records = [json.loads(value) for name, value in content.items() if name.endswith(".json")]
    assert not [record for record in records if has_path(record)]
    assert not [n for n in content if n.endswith((".h5ad", ".npy")) or "model" in n]


def test_the_same_results_give_the_same_archive(archive, shared_results, tmp_path):
    again = tmp_path / "again.spotbench.zip"
    assert call("export", "--results", shared_results, "--out", again).status == 0
    assert again.read_bytes() == archive.read_bytes()


def test_paths_are_shortened_and_other_texts_are_kept():
    user = getpass.getuser()
    config = {
        "features": f"/home/{user}/my features/uni.h5",
        "encoder": f"local:/data/{user}/weights",
        "url": "https://host.org/a/b",
        "ratio": "PCC/MSE of 3/4",
        "windows": rf"C:\Users\{user}\x.pt",
        "deep": [{"home": "~/x/y.csv"}],
    }
    notes = [f"read /home/{user}/data/a.tsv; 3 spots of P1/P2"]
    run = portable_run({"config": config, "footnotes": notes})
    assert user not in json.dumps(run["config"])
    assert run["config"]["features"] == "uni.h5"
    assert run["config"]["encoder"] == "local:weights"
    assert run["config"]["windows"] == "x.pt"
    assert run["config"]["deep"] == [{"home": "y.csv"}]
    assert run["config"]["url"] == config["url"]
    assert run["config"]["ratio"] == config["ratio"]
    assert run["footnotes"] == ["read a.tsv; 3 spots of P1/P2"]
    assert portable_fold({"machine": {"host": "mine", "python": "3"}}) == {
        "machine": {"python": "3"}
    }


def test_chosen_runs_alone_are_exported_with_predictions_and_study(
    shared_results, tmp_path, archive
):
    study = tmp_path / "study.yaml"
    study.write_text("title: one method\n")
    out = tmp_path / "one.spotbench.zip"
    more = ("--method", "mean", "--with-predictions", "--study", study)
    answer = call("export", "--results", shared_results, *WHERE, *more, "--out", out)
    assert answer.status == 0, answer.stderr
    content = members(out)
    assert {name.split("/")[3].rpartition("-")[0] for name in content if "/run.json" in name} == {
        "mean"
    }
    assert sum(name.endswith("predictions.h5ad") for name in content) == 3
    results = tmp_path / "results"
    assert call("import", out, "--results", results).status == 0
    kept = list((results / "imports").glob("*-study.yaml"))
    assert [path.read_text() for path in kept] == ["title: one method\n"]
    (run,) = stored_runs(results, "tiny", "patients", "run")
    assert run.done == (0, 1, 2)
    study.write_text("data: /home/me/x\n")
    refused = call("export", "--results", shared_results, *more, "--out", out)
    assert_refused(refused, "absolute path")


def test_two_sources_of_one_key_are_one_row_and_their_difference_is_said(
    own_results, archive, tmp_path
):
    def higher(scores):
        scores.loc[scores["section"] == "B1", "value"] += 0.25
        return scores

    (run,) = [r for r in stored_runs(own_results, "tiny", "patients") if label(r) == "coordinates"]
    fold = run.folder.fold(1)
    state = fold.state()
    fold.write_table("scores.parquet", higher(fold.read_table("scores.parquet")))
    fold.finish(state.fit_key, state.score_key)
    answer = call("import", archive, "--name", "Lab B", "--results", own_results)
    assert answer.status == 0, answer.stderr
    said = [line for line in answer.stdout.splitlines() if line.startswith("coordinates")]
    assert len(said) == 1
    assert "here and Lab B: largest difference of a section's score 0.25" in said[0]
    assert "section B1" in said[0]
    assert "here and Lab B: 2 runs with equal scores in all sections" in answer.stdout
    text = table(own_results, "text")
    assert "coordinates (run" in text
    assert "also from Lab B; largest difference of a section's score 0.25" in " ".join(text.split())
    assert "also from Lab B; all" in " ".join(text.split()), "the mean is equal"
    assert len(json.loads(table(own_results, "json"))["rows"]) == 3


def label(run):
    return run.facts["label"]


def test_rows_of_several_sources_say_where_they_come_from(own_results, archive, tmp_path):
    other = sealed(tmp_path / "other.spotbench.zip", rekeyed(members(archive), {"coordinates"}))
    assert "from" not in json.loads(table(own_results, "json"))["rows"][0]
    assert call("import", other, "--name", "Lab C", "--results", own_results).status == 0
    rows = json.loads(table(own_results, "json"))["rows"]
    assert sorted(row["origin"] for row in rows) == ["", "", "", "Lab C"]
    assert "Lab C" in table(own_results, "markdown")
    assert " here " in table(own_results, "markdown")
    assert "Lab C" in table(own_results, "csv")
    answer = call("tables", *WHERE, "--pairs", "--results", own_results)
    assert answer.status == 0, answer.stderr


def test_the_run_record_keeps_name_and_hash_of_the_file(archive, imported):
    (run, *_) = stored_runs(imported, "tiny", "patients")
    assert run.origin["name"] == "lab"
    assert run.origin["file"] == "lab.spotbench.zip"
    (path,) = (imported / "imports").glob("*.json")
    assert read_record(path)["file_sha256"] == run.origin["sha256"]
    assert len(read_record(path)["runs"]) == 3


def test_bench_run_takes_no_imported_run_for_its_own(shared_tiny, imported):
    keys = {run.facts["key"] for run in stored_runs(imported, "tiny", "patients")}
    arguments = ("run", "--method", "mean", *shared_tiny.options, *shared_tiny.quick_protocol)
    answer = call(*arguments, "--tracking", "none", "--results", imported)
    assert answer.status == 0, answer.stderr
    assert answer.stderr.count("done in") == 3
    runs = stored_runs(imported, "tiny", "patients")
    own = [run for run in runs if not run.origin]
    assert [label(run) for run in own] == ["mean"]
    assert own[0].facts["key"] in keys
    assert [label(run) for run in newest(runs) if run.repeats] == ["mean"]


def test_imported_runs_are_not_exported_again(imported, own_results, archive, tmp_path):
    out = tmp_path / "again.spotbench.zip"
    refused = call("export", "--results", imported, "--out", out)
    assert_refused(refused, "all 3 runs were imported; export them where they were made")
    assert not out.exists()
    assert call("import", archive, "--results", own_results).status == 0
    answer = call("export", "--results", own_results, "--out", out)
    assert answer.status == 0
    assert "3 imported runs" not in answer.stderr, "rows of one key are one row"
    assert out.read_bytes() == archive.read_bytes()


def test_importing_twice_changes_nothing_and_mends_what_is_damaged(archive, imported):
    before = sorted(path.name for path in imported.glob("runs/tiny/patients/*"))
    answer = call("import", archive, "--results", imported)
    assert answer.status == 0
    assert "0 runs imported from lab, 3 were here already" in answer.stdout
    scores = next(imported.glob("runs/tiny/patients/mean-*/fold-0/scores.parquet"))
    scores.write_bytes(b"x" * scores.stat().st_size)
    assert "import it again" in table(imported, "text")
    answer = call("import", archive, "--results", imported)
    assert "1 run imported from lab, 2 were here already" in answer.stdout
    assert "import it again" not in table(imported, "text")
    assert sorted(path.name for path in imported.glob("runs/tiny/patients/*")) == before
    assert_nothing_half_written(imported)


def test_a_method_that_is_not_installed_is_said_and_kept(archive, tmp_path):
    def change(facts):
        facts["method"] = "weird"

    path = edited(archive, tmp_path / "weird.spotbench.zip", "run.json", change)
    answer = call("import", path, "--results", tmp_path / "results")
    assert answer.status == 0, answer.stderr
    assert "weird: is not installed here; its rows are kept" in answer.stdout
    assert len(json.loads(table(tmp_path / "results", "json"))["rows"]) == 3


def test_a_damaged_run_is_not_exported(own_results, tmp_path):
    path = next(own_results.glob("runs/tiny/patients/mean-*/fold-0/genes.parquet"))
    path.write_bytes(b"x" * path.stat().st_size)
    out = tmp_path / "x.spotbench.zip"
    assert_refused(call("export", "--results", own_results, "--out", out), "genes.parquet")
    assert not out.exists()


def test_export_says_what_is_wrong_in_one_line(shared_results, tmp_path):
    zipped = ("--out", tmp_path / "x.spotbench.zip", "--results")
    assert_refused(call("export", *zipped, tmp_path / "none"), "no runs here")
    assert_refused(call("export", *zipped, shared_results, "--method", "men"), "did you mean mean")
    assert_refused(call("export", *zipped, shared_results, "--dataset", "tin"), "tiny")
    answer = call("export", "--out", tmp_path / "x.spotbench", "--results", shared_results)
    assert_refused(answer, "--dataset and --method")
    answer = call("export", *zipped, shared_results, "--study", tmp_path / "none.yaml")
    assert_refused(answer, "missing")


def test_results_of_the_first_layout_are_shared_as_well(tmp_path, monkeypatch):
    # Generating the demo, to compare with it, takes long.
    monkeypatch.setattr("bench.sharing.same_data.is_here", lambda card, root: False)
    fixture = Path(__file__).parents[1] / "fixtures" / "results-layout-1"
    shutil.copytree(fixture, tmp_path / "old")
    out = tmp_path / "old.spotbench.zip"
    assert call("export", "--results", tmp_path / "old", "--out", out).status == 0
    where = ("tables", "--dataset", "demo", "--format", "json", "--results")
    answer = call("import", out, "--results", tmp_path / "new", "--other-data")
    assert answer.status == 0, answer.stderr
    assert call(*where, tmp_path / "new").stdout == call(*where, tmp_path / "old").stdout


def test_a_run_folder_is_read_by_its_own_key(imported):
    for run in stored_runs(imported, "tiny", "patients"):
        assert isinstance(run.folder, RunFolder)
        assert run.folder.path.name.endswith(f"-{run.origin['sha256'][:8]}")
