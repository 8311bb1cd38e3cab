"""Runs that succeed: from a card to a table, and what lies on disk afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from tests.cli.tiny_dataset import (
    GENES,
    SECTIONS,
    TINY_NETWORK,
    assert_refused,
    environment,
    fold_folders,
    scores_of,
    write_plugin,
)

CONTROLS = "mean,coordinates,depth"
ESCAPE = "\x1b"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny, bench_process):
    """Results folder of one call with the controls, and what the call printed."""
    folder = tmp_path_factory.mktemp("finished") / "results"
    arguments = ("run", "--method", CONTROLS, *tiny.options, "--tracking", "none")
    return folder, bench_process(*arguments, "--results", folder)


@pytest.fixture
def run(bench, tiny, results):
    """Runs on the tiny dataset in this process, without tracking."""

    def run_tiny(*arguments, folder=results):
        call = ("run", *tiny.options, "--tracking", "none", "--results", folder, *arguments)
        return bench(*call)

    return run_tiny


def rows_of(result):
    assert result.status == 0, result.stderr
    return {row["method"]: row for row in json.loads(result.stdout)["rows"]}


def run_names(results):
    return sorted(path.name for path in results.glob("runs/*/*/*"))


def test_table_goes_to_stdout_and_progress_to_stderr(finished):
    _, printed = finished
    assert printed.status == 0
    for name in ("mean (control)", "coordinates (control)", "depth (oracle)", "PCC(ACG)", "MSE"):
        assert name in printed.stdout
        assert name not in printed.stderr
    assert "fold 0" not in printed.stdout
    for method in CONTROLS.split(","):
        for fold in range(3):
            assert re.search(rf"^{method} fold {fold}: done in [\d.]+ s$", printed.stderr, re.M)


def test_first_line_says_what_is_run(finished):
    _, printed = finished
    first = printed.stderr.splitlines()[0]
    for words in ("tiny", "6 sections", "3 patients", "3 folds", "protocol strict", "9 jobs"):
        assert words in first


def test_no_escape_codes_when_piped(finished):
    _, printed = finished
    assert ESCAPE not in printed.stdout
    assert ESCAPE not in printed.stderr


def test_fold_folder_holds_what_was_promised(finished):
    results, _ = finished
    assert len(fold_folders(results)) == 9
    for folder in fold_folders(results):
        names = {path.name for path in folder.iterdir()}
        wanted = {"manifest.json", "scores.parquet", "genes.parquet", "curves.parquet"}
        wanted |= {"predictions.h5ad", "fold.json"}
        if "depth" not in folder.parent.name:
            wanted.add("model")
        assert names == wanted


def test_manifest_lists_every_file_with_its_size_and_hash(finished):
    results, _ = finished
    for folder in fold_folders(results):
        listed = json.loads((folder / "manifest.json").read_text())["files"]
        present = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
        assert set(listed) == set(present)
        for name, path in present.items():
            content = path.read_bytes()
            assert listed[name]["size"] == len(content)
            assert listed[name]["sha256"] == hashlib.sha256(content).hexdigest()


def test_scores_are_long_form(finished):
    results, _ = finished
    folder = next(path for path in fold_folders(results) if path.parent.name.startswith("coord"))
    scores = pd.read_parquet(folder / "scores.parquet")
    columns = ["method", "fold", "section", "patient", "spots", "genes", "score", "value"]
    assert list(scores.columns) == columns
    assert not scores.duplicated(["section", "score"]).any()
    of_sections = scores[scores["section"] != ""]
    assert sorted(of_sections["section"].unique()) == ["A1", "A2"]
    assert set(of_sections["score"]) == {
        *("ccc_acg", "spearman_acg"),
        *("pcc_acg", "pcc_heg", "mse", "mae", "undefined_acg", "undefined_heg"),
        *("pcc_acg_given_depth", "pcc_heg_given_depth", "ceiling_acg", "ceiling_heg"),
        *("ssim", "morans_i_agreement", "ari", "nmi", "ari_observed", "nmi_observed"),
    }
    assert set(scores.loc[scores["section"] == "", "score"]) == {
        *("pooled_pcc_acg", "pooled_pcc_heg")
    }
    assert (of_sections["patient"] == "A").all()
    assert (of_sections["spots"] == 30).all()


def test_genes_have_one_row_a_gene_and_section(finished):
    results, _ = finished
    for folder in fold_folders(results):
        genes = pd.read_parquet(folder / "genes.parquet")
        panel = json.loads((folder / "fold.json").read_text())["panel"]
        assert set(panel) <= set(GENES)
        for _, part in genes.groupby("section"):
            assert list(part["gene"]) == panel
        assert genes["section"].nunique() == 2


def test_predictions_are_anndata_with_truth_and_positions(finished):
    results, _ = finished
    for folder in fold_folders(results):
        stored = anndata.read_h5ad(folder / "predictions.h5ad")
        facts = json.loads((folder / "fold.json").read_text())
        assert stored.shape == (60, len(facts["panel"]))
        assert list(stored.var_names) == facts["panel"]
        assert stored.X.dtype == np.float32
        assert np.isfinite(stored.X).all()
        assert stored.layers["truth"].shape == stored.shape
        assert stored.obsm["spatial"].shape == (60, 2)
        assert {"section", "patient", "array_row", "array_col"} <= set(stored.obs.columns)
        assert sorted(stored.obs["section"].unique()) == sorted(facts["test"])
        assert stored.obs_names.is_unique


def test_stored_scores_follow_from_stored_predictions(finished):
    results, _ = finished
    folder = next(path for path in fold_folders(results) if path.parent.name.startswith("coord"))
    stored = anndata.read_h5ad(folder / "predictions.h5ad")
    scores = pd.read_parquet(folder / "scores.parquet").set_index(["section", "score"])["value"]
    for section in ("A1", "A2"):
        part = stored[stored.obs["section"] == section]
        truth = np.asarray(part.layers["truth"], dtype=np.float64)
        error = truth - np.asarray(part.X, dtype=np.float64)
        assert scores[section, "mse"] == pytest.approx((error**2).mean(), rel=1e-5)
        assert scores[section, "mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
        pcc = [np.corrcoef(t, p)[0, 1] for t, p in zip(truth.T, part.X.T, strict=True)]
        assert scores[section, "pcc_acg"] == pytest.approx(np.nanmean(pcc), abs=1e-6)


def test_run_json_identifies_the_run(finished):
    results, _ = finished
    for path in results.glob("runs/*/*/*/run.json"):
        facts = json.loads(path.read_text())
        wanted = {"key", "label", "kind", "method", "preset", "config", "seed", "dataset"}
        wanted |= {"dataset_hash", "protocol", "protocol_hash", "folds_hash", "packages"}
        wanted |= {"n_folds", "n_sections", "left_out", "git_commit", "created"}
        assert wanted <= set(facts)
        assert "spotbench" in facts["packages"]
        assert path.parent.name == f"{facts['label']}-{facts['key'][:12]}"
        assert (facts["n_folds"], facts["n_sections"]) == (3, 6)


def test_all_methods_of_a_call_have_the_same_folds(finished):
    results, _ = finished
    facts = [json.loads(path.read_text()) for path in results.glob("runs/*/*/*/run.json")]
    assert len(facts) == 3
    assert len({run["folds_hash"] for run in facts}) == 1
    (written,) = results.glob("folds/tiny/strict/*.json")
    assert written.stem == f"folds-{facts[0]['folds_hash'][:12]}"
    for fold in json.loads(written.read_text())["folds"]:
        patients = [{name[0] for name in fold[side]} for side in ("train", "validation", "test")]
        assert len(set.union(*patients)) == sum(map(len, patients))


def test_same_call_again_keeps_everything(finished, tiny, bench):
    results, first = finished
    files = {path: path.stat().st_mtime_ns for path in results.rglob("*.*") if path.is_file()}
    arguments = ("run", "--method", CONTROLS, *tiny.options, "--tracking", "none")
    second = bench(*arguments, "--results", results)
    assert second.status == 0
    assert second.stderr.count("kept, it is done") == 9
    assert "done in" not in second.stderr
    assert second.stdout == first.stdout
    after = {path: path.stat().st_mtime_ns for path in results.rglob("*.*") if path.is_file()}
    assert after == files


def test_the_oracle_stands_in_a_table_that_did_not_ask_for_it(bench, tiny, results):
    options = (
        "--method",
        "mean",
        *tiny.where,
        *tiny.quick_protocol,
        "--folds",
        "0",
        "--tracking",
        "none",
        "--json",
    )
    answer = bench("run", *options, "--results", results)
    assert answer.status == 0
    assert set(rows_of(answer)) == {"mean", "depth"}
    again = bench("run", *options, "--results", results, "--method", "depth")
    assert set(rows_of(again)) == {"depth"}, "named or not, it is there once"


def test_force_redoes_every_fold_with_the_same_scores(run, results):
    run("--method", "mean", "--folds", "0,1")
    before = scores_of(results)
    written = {path: path.stat().st_mtime_ns for path in results.rglob("manifest.json")}
    again = run("--method", "mean", "--folds", "0,1", "--force")
    assert again.status == 0
    assert "kept" not in again.stderr
    assert again.stderr.count("done in") == 2
    assert all(path.stat().st_mtime_ns > then for path, then in written.items())
    assert scores_of(results) == before
    assert len(run_names(results)) == 1


def test_one_fold_first_then_all(run, results):
    only = run("--method", "mean,depth", "--folds", "0")
    assert only.status == 0
    assert "1/3" in only.stdout
    assert {path.name for path in fold_folders(results)} == {"fold-0"}
    rest = run("--method", "mean,depth")
    assert rest.stderr.count("kept, it is done") == 2
    assert rest.stderr.count("done in") == 4
    assert "1/3" not in rest.stdout  # a column of folds is shown where some are missing
    assert {path.name for path in fold_folders(results)} == {"fold-0", "fold-1", "fold-2"}


def test_folds_may_be_named_in_any_order_and_twice(run, results):
    assert run("--method", "mean", "--folds", "2,0,2").status == 0
    assert {path.name for path in fold_folders(results)} == {"fold-0", "fold-2"}


def test_another_seed_or_setting_is_another_run(run, results):
    for extra in ((), ("--seed", "1"), ("--set", "neighbours=3")):
        assert run("--method", "coordinates", "--folds", "0", *extra).status == 0
    assert len(run_names(results)) == 3


def test_another_preset_is_another_run(tiny, results):
    from bench.execute.plan import make_plan
    from bench.execute.request import Request

    def folder(preset):
        request = Request(
            methods=("mclstexp",),
            dataset=str(tiny.card),
            data_root=tiny.root,
            preset=preset,
            results=results,
        )
        return make_plan(request).runs[0].folder

    assert folder("quick") == folder("quick")
    assert folder("quick").key != folder("authors").key


def test_setting_with_and_without_method_name_mean_the_same(run, results):
    run("--method", "coordinates", "--folds", "0", "--set", "neighbours=3")
    again = run("--method", "coordinates", "--folds", "0", "--set", "coordinates.neighbours=3")
    assert "kept, it is done" in again.stderr
    (path,) = results.glob("runs/*/*/*/run.json")
    assert json.loads(path.read_text())["config"] == {"neighbours": 3}


def test_json_output_parses_and_has_full_precision(finished, tiny, bench):
    results, _ = finished
    arguments = ("run", "--method", CONTROLS, *tiny.options, "--tracking", "none")
    answer = bench(*arguments, "--results", results, "--json")
    content = json.loads(answer.stdout)
    assert set(content) == {"rows", "footnotes", "failures", "left_out"}
    assert content["failures"] == []
    assert content["left_out"] == {}
    rows = {row["method"]: row for row in content["rows"]}
    assert set(rows) == set(CONTROLS.split(","))
    assert len({row["folds_hash"] for row in rows.values()}) == 1
    assert rows["mean"]["pcc_acg"] is None
    assert rows["depth"]["mse"] is None
    values = pd.concat(
        pd.read_parquet(path / "scores.parquet")
        for path in fold_folders(results)
        if path.parent.name.startswith("coordinates")
    )
    mse = values.loc[(values["score"] == "mse") & (values["section"] != ""), "value"]
    assert rows["coordinates"]["mse"] == pytest.approx(mse.mean(), rel=1e-13)
    assert rows["coordinates"]["mse_sd"] == pytest.approx(mse.std(ddof=1), rel=1e-13)


def test_footnotes_of_a_protocol_file_are_shown(run, bench, results, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "{name: mine, version: 1, title: t, split: section, panel_size: 10,"
        " footnotes: ['Mine: same-patient sections are in training.']}"
    )
    answer = run("--method", "mean", "--protocol", path, "--folds", "0")
    assert answer.status == 0
    assert "Mine: same-patient sections are in training." in answer.stdout
    stored = bench("tables", "--dataset", "tiny", "--results", results, "--protocol", "mine")
    assert "Mine: same-patient sections are in training." in stored.stdout


def test_tables_of_two_protocols_are_one_json_document_or_refused(run, bench, tiny, results):
    run("--method", "mean", "--folds", "0")
    run("--method", "mean", "--folds", "0", *tiny.quick_protocol)
    answer = bench("tables", "--dataset", "tiny", "--results", results, "--format", "json")
    if answer.status == 2:
        assert "--protocol" in assert_refused(answer)
    else:
        json.loads(answer.stdout)


def test_what_a_method_prints_stays_out_of_the_table(run, plugins):
    write_plugin(plugins, "chatty", fit="print('fitting')", predict="print('predicting')")
    answer = run("--method", "chatty", "--folds", "0", "--json")
    assert set(rows_of(answer)) == {"chatty"}
    assert "fitting" not in answer.stderr


def test_left_out_sections_are_told(run, tiny, damaged, bench, results):
    for section in ("C1", "C2"):
        damaged.counts(section).unlink()
        damaged.spots(section).unlink()
    arguments = ("--method", "mean", "--tracking", "none", "--results", results)
    told = bench("run", *damaged.options, *arguments)
    assert told.status == 0
    assert "left out 2 sections" in told.stderr
    assert "2 sections were left out (C1, C2)" in told.stdout
    as_json = bench("run", *damaged.options, *arguments, "--json")
    assert set(json.loads(as_json.stdout)["left_out"]) == {"C1", "C2"}


@pytest.mark.slow
def test_no_color_on_a_terminal(results, tiny):
    arguments = ["run", "--method", "mean", *tiny.options, *tiny.quick_protocol, "--force"]
    arguments += ["--tracking", "none", "--folds", "0"]

    def bytes_on_terminal(**changes):
        control, terminal = pty.openpty()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench", *arguments, "--results", str(results)],
                stdout=subprocess.PIPE,
                stderr=terminal,
                env=environment(changes={"TERM": "xterm-256color", **changes}),
            )
            os.close(terminal)
            parts = []
            while True:
                try:
                    part = os.read(control, 65536)
                except OSError:  # the other side has been closed
                    break
                if not part:
                    break
                parts.append(part)
            out, _ = process.communicate(timeout=600)
        finally:
            os.close(control)
        assert process.returncode == 0
        return out.decode(), b"".join(parts).decode()

    coloured = bytes_on_terminal(COLORTERM="truecolor")
    plain = bytes_on_terminal(NO_COLOR="1")
    assert COLOUR.search(coloured[1]), "the terminal of this test takes colours"
    assert not COLOUR.search(plain[1])
    for out, _ in (coloured, plain):
        assert ESCAPE not in out


@pytest.mark.parametrize("kind", ["all", "methods", "datasets", "protocols", "encoders"])
def test_list_names_what_there_is(bench, kind):
    text = bench("list", kind)
    assert text.status == 0
    assert ESCAPE not in text.stdout
    listing = json.loads(bench("list", kind, "--json").stdout)
    assert set(listing) == (
        {"methods", "datasets", "protocols", "encoders"} if kind == "all" else {kind}
    )
    for rows in listing.values():
        for row in rows:
            assert row["name"] in text.stdout
            assert row["summary"]


def test_python_functions_give_what_the_command_gives(finished, tiny, bench):
    from bench import load_dataset, run, tables

    results, _ = finished
    printed = bench("tables", "--dataset", "tiny", "--results", results, "--format", "json")
    rows = json.loads(printed.stdout)["rows"]
    stored = tables("tiny", results=results)
    made = run(
        CONTROLS.split(","),
        str(tiny.card),
        data_root=tiny.root,
        results=results,
        tracking="none",
    )
    assert isinstance(stored, pd.DataFrame)
    assert list(made["method"]) == [row["method"] for row in rows]
    for frame in (stored, made):
        assert len(frame) == len(rows)
        for row, (_, found) in zip(rows, frame.iterrows(), strict=True):
            for name, value in row.items():
                if value is None:
                    assert pd.isna(found[name])
                elif isinstance(value, float):
                    assert found[name] == pytest.approx(value, rel=1e-13, abs=1e-15)
                else:
                    assert found[name] == value

    sections = load_dataset(str(tiny.card), data_root=tiny.root)
    assert list(sections) == list(SECTIONS)
    for name, adata in sections.items():
        cells = tiny.read_counts(name)
        wanted = np.array([row[1:] for row in cells[1:]], dtype=np.int64)
        assert isinstance(adata, anndata.AnnData)
        np.testing.assert_array_equal(adata.X.toarray(), wanted)


def test_python_run_raises_for_a_failed_fold(tiny, results, plugins):
    from bench import run
    from bench.errors import TrainingError

    write_plugin(plugins, "pyfails", fit="raise RuntimeError('out of luck')")
    with pytest.raises(TrainingError, match=r"3 folds failed.*pyfails fold 0.*out of luck"):
        run("pyfails", str(tiny.card), data_root=tiny.root, results=results, tracking="none")


def run_facts(results):
    (path,) = results.rglob("run.json")
    return json.loads(path.read_text())


def test_a_panel_of_ones_own_is_written_into_the_run(run, results, tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("GENE7\nGENE3\nGENE5\n")
    answer = run("--method", "mean", "--panel", path, "--folds", "0")
    assert answer.status == 0, answer.stderr
    facts = run_facts(results)
    assert facts["protocol"] == "strict-few"
    assert facts["rules"]["genes"] == ["GENE7", "GENE3", "GENE5"]
    (predictions,) = results.rglob("predictions.h5ad")
    assert list(anndata.read_h5ad(predictions).var_names) == ["GENE7", "GENE3", "GENE5"]


def test_aliases_are_off_unless_asked_for_and_then_counted(run, results, tmp_path):
    table, genes = tmp_path / "symbols.tsv", tmp_path / "genes.txt"
    table.write_text("alias\tsymbol\nGENE3\tNEW3\nGENE5\tNEW5\n")
    genes.write_text("NEW3\nGENE5\nGENE7\n")
    options = ("--method", "mean", "--panel", genes, "--folds", "0")
    refused = run(*options)
    assert refused.status == 2
    assert "no section measured 'NEW3' (GENE3?)" in refused.stderr
    answer = run(*options, "--aliases", table)
    assert answer.status == 0, answer.stderr
    assert run_facts(results)["aliases"]["renamed"] == dict.fromkeys(SECTIONS, 2)
    (predictions,) = results.rglob("predictions.h5ad")
    assert list(anndata.read_h5ad(predictions).var_names) == ["NEW3", "NEW5", "GENE7"]


def test_patches_are_asked_for_in_micrometres(run, results):
    network = [*TINY_NETWORK, "--set", "patch_size=50um", "--folds", "0", "--method", "mclstexp"]
    answer = run(*network)
    assert answer.status == 0, answer.stderr
    assert run_facts(results)["config"]["patch_size"] == "50um"


@pytest.mark.parametrize("method", ["hist2st", "histogene"])
def test_a_network_of_one_input_size_needs_it_beside_micrometres(run, method):
    options = ("--method", method, "--preset", "quick", "--folds", "0", "--device", "cpu")
    answer = run(*options, "--set", "patch_size=50um", "--set", "input_size=null")
    assert answer.status == 2
    assert "set input_size" in answer.stderr


@pytest.mark.parametrize("size", ["50 um", "-5um", "um", "5", "9000"])
def test_a_size_that_is_none_is_refused_before_anything_runs(run, results, size):
    answer = run(*TINY_NETWORK, "--method", "mclstexp", "--set", f"patch_size={size}")
    assert_refused(answer, "patch_size")
    assert not list(results.rglob("run.json"))
