"""MLflow: what is uploaded, that it is uploaded once, and that a dead server costs a warning."""
# ruff: noqa: F811 - fixtures of tests.tracked

from __future__ import annotations

import json
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.files import canonical_hash
from bench.registry import dataset_card
from bench.report.tables import render
from bench.store import RunFolder
from bench.stored_runs import StoredRun, stored_runs
from bench.tracking.pages import dataset_input, experiment_note, mean_curves
from bench.tracking.upload import newest_page
from tests.cli.tiny_dataset import call, call_process, fold_folders, write_plugin
from tests.tracked import (  # noqa: F401 - fixtures
    client_of,
    empty_database,
    no_server_from_outside,
    results,
    run,
    runs_of,
    tiny,
)

NOWHERE = "http://127.0.0.1:9"

BLOCK_MLFLOW = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mlflow":
            raise ImportError("mlflow is blocked")


sys.meta_path.insert(0, Blocker())
from bench.cli import main

arguments = list(sys.argv)
for more in (["--tracking", "none"], []):
    sys.argv = [*arguments, *more]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    print("----")
    print("----", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, tiny):
    """Results folder of a call with the default tracking, and what the call printed."""
    results = tmp_path_factory.mktemp("tracked") / "results"
    printed = run(tiny, results, "--json", methods="coordinates,depth")
    return results, printed


def test_no_tracking_needs_no_mlflow(tiny, tmp_path):
    program = tmp_path / "blocked.py"
    program.write_text(BLOCK_MLFLOW)
    arguments = ("run", "--method", "mean", *tiny.options, "--results", tmp_path / "results")
    answer = call_process(*arguments, program=(str(program),))
    assert answer.status == 0
    without, with_tracking, _ = answer.stderr.split("----\n")
    assert "warning" not in without
    assert "3/3" in answer.stdout.split("----\n")[0]
    assert with_tracking.count("warning: tracking at") == 1
    assert "mlflow is blocked" in with_tracking
    assert not list((tmp_path / "results").glob("mlflow*"))


def test_tracking_prints_nothing_of_its_own(tracked):
    _, printed = tracked
    assert printed.status == 0
    for line in printed.stderr.splitlines():
        assert re.match(r"tiny: |(coordinates|depth) fold \d: done in", line), line


def test_run_is_the_parent_of_its_folds(tracked):
    results, _ = tracked
    parents, children = runs_of(client_of(results))
    assert set(parents) == {"coordinates", "depth"}
    assert set(children) == {(name, fold) for name in parents for fold in range(3)}
    for (name, _), child in children.items():
        assert child.data.tags["mlflow.parentRunId"] == parents[name].info.run_id
    assert {run.info.status for run in (*parents.values(), *children.values())} == {"FINISHED"}
    experiment = client_of(results).get_experiment_by_name("tiny-strict")
    assert experiment.artifact_location.startswith((results / "mlartifacts").as_uri())


def test_parent_has_settings_scores_and_identity(tracked):
    results, printed = tracked
    rows = {row["method"]: row for row in json.loads(printed.stdout)["rows"]}
    parents, _ = runs_of(client_of(results))
    for path in results.glob("runs/*/*/*/run.json"):
        facts = json.loads(path.read_text())
        data = parents[facts["label"]].data
        for name in ("label", "kind", "preset", "seed", "dataset", "protocol"):
            assert data.params[name] == str(facts[name])
        for name, value in facts["config"].items():
            assert data.params[f"config.{name}"] == str(value)
        for name in ("protocol_hash", "folds_hash", "dataset_hash", "protocol", "dataset"):
            assert data.tags[name] == facts[name]
        assert data.tags["git_commit"] == (facts["git_commit"] or "none")
        for name, version in facts["packages"].items():
            assert data.tags[f"version.{name}"] == version
        assert data.tags["folds_done"] == "3/3"
        row = rows[facts["label"]]
        for name in ("pcc_acg", "pcc_acg_sd", "pcc_heg", "mse", "mae", "pooled_pcc_acg"):
            if row[name] is None:
                assert name not in data.metrics
            else:
                assert data.metrics[name] == pytest.approx(row[name], rel=1e-12)
        assert data.metrics["system/fit_seconds"] == pytest.approx(row["fit_seconds"])
        assert data.tags["sections"] == "6"
        assert data.tags["level"] == "run"


def test_child_has_scores_timings_and_memory(tracked):
    results, _ = tracked
    _, children = runs_of(client_of(results))
    for folder in fold_folders(results):
        label, fold = folder.parent.name.rsplit("-", 1)[0], int(folder.name[-1])
        metrics = children[label, fold].data.metrics
        scores = pd.read_parquet(folder / "scores.parquet")
        of_sections = scores[(scores["section"] != "") & (scores["score"] == "pcc_acg")]
        assert metrics["pcc_acg"] == pytest.approx(of_sections["value"].mean(), rel=1e-12)
        for row in of_sections.itertuples():
            assert metrics[f"sections/{row.section} pcc_acg"] == pytest.approx(row.value)
        facts = json.loads((folder / "fold.json").read_text())
        for name, seconds in facts["timings"].items():
            assert metrics[f"system/{name}"] == pytest.approx(seconds)
        if label != "depth":  # an oracle fits nothing
            assert metrics["system/peak_memory_mb"] > 50
        assert children[label, fold].data.params["test"] == ",".join(facts["test"])
        assert children[label, fold].data.tags["level"] == "fold"


def test_a_run_took_as_long_as_its_folds(tracked):
    results, _ = tracked
    parents, children = runs_of(client_of(results))
    for folder in fold_folders(results):
        label, fold = folder.parent.name.rsplit("-", 1)[0], int(folder.name[-1])
        info = children[label, fold].info
        seconds = sum(json.loads((folder / "fold.json").read_text())["timings"].values())
        assert info.end_time - info.start_time == pytest.approx(1000 * seconds, abs=2)
        assert abs(info.end_time / 1000 - time.time()) < 3600
    for label, parent in parents.items():
        spent = [
            c.info.end_time - c.info.start_time for (of, _), c in children.items() if of == label
        ]
        assert parent.info.end_time - parent.info.start_time == sum(spent)


def test_artifacts_are_tables_and_maps(tracked):
    results, _ = tracked
    client = client_of(results)
    parents, children = runs_of(client)
    for run_ in parents.values():
        names = {item.path for item in client.list_artifacts(run_.info.run_id)}
        assert {"table.csv", "table.md"} <= names
    for run_ in children.values():
        names = {item.path for item in client.list_artifacts(run_.info.run_id)}
        assert "prediction_maps.png" in names
    for path in results.rglob("prediction_maps.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    tables = [pd.read_csv(path) for path in results.rglob("table.csv")]
    assert sorted(table["method"].item() for table in tables) == ["coordinates", "depth"]


def test_a_run_has_a_picture_of_every_fold_for_the_row_of_pictures(tracked):
    results, _ = tracked
    client = client_of(results)
    parents, _ = runs_of(client)
    assert images_of(client, parents["coordinates"]) == [(0, 1), (1, 1), (2, 1)]
    assert parents["coordinates"].data.tags["mlflow.loggedImages"] == "True"
    assert images_of(client, parents["depth"]) == [], "an oracle has a scale of its own"
    shown = results.rglob("images/maps*.png")
    pictures = {tuple(np.asarray(Image.open(path)).shape): path.read_bytes() for path in shown}
    ((height, width, _),) = pictures
    assert 400 < width < height < 1200


def images_of(client, run_):
    """Steps of a run's row of pictures, each with how many pictures it has."""
    names = [item.path for item in client.list_artifacts(run_.info.run_id, "images")]
    steps = [int(re.search(r"\+step\+(\d+)\+", name)[1]) for name in names if name.endswith("png")]
    return sorted((step, steps.count(step)) for step in set(steps))


def test_the_dataset_is_an_input_with_its_hash(tracked):
    results, _ = tracked
    parents, children = runs_of(client_of(results))
    (path, *_) = results.glob("runs/*/*/*/run.json")
    wanted = json.loads(path.read_text())["dataset_hash"]
    for run_ in (*parents.values(), *children.values()):
        (given,) = run_.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("tiny", wanted[:36])
        assert json.loads(given.dataset.profile) == {"sections": 6, "folds": 3}
        assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "evaluation"}


def test_the_dataset_of_a_card_of_ours_has_its_source(tracked):
    results, _ = tracked
    (run_, *_) = stored_runs(results, "tiny", "strict")
    given = dataset_input(run_, dataset_card("her2st")).dataset
    assert given.source_type == "http"
    assert json.loads(given.source) == {"url": dataset_card("her2st").source}
    demo = dataset_input(run_, dataset_card("demo")).dataset
    assert json.loads(demo.source) == {"source": dataset_card("demo").source}


# ---------------------------------------------------------------------------- descriptions


def note_of(client, name="tiny-strict"):
    return client.get_experiment_by_name(name).tags["mlflow.note.content"]


def rows_of(note):
    """First two cells of the rows of a Markdown table."""
    plain = note.replace("&emsp;", " ")
    lines = [line.split("|")[1:-1] for line in plain.splitlines() if line.startswith("|")]
    return [(cells[0].strip(), cells[1].strip()) for cells in lines[2:]]


def test_the_experiment_shows_the_table_with_its_footnotes(tracked):
    results, _ = tracked
    note = note_of(client_of(results))
    assert note.startswith("### tiny, protocol strict\n")
    assert rows_of(note) == [("coordinates (control)", "-"), ("depth (oracle)", "-")]
    assert "PCC(ACG)" in note
    wanted = render(stored_runs(results, "tiny", "strict"), "markdown")
    footnotes = [line for line in wanted.splitlines() if re.match(r"\d+\. ", line)]
    assert len(footnotes) > 2
    assert [line for line in note.splitlines() if line in footnotes] == footnotes
    assert "  " not in note


@pytest.mark.slow
def test_the_table_grows_with_every_upload_and_has_the_newest_runs_alone(tiny, results):
    run(tiny, results, "--folds", "0", methods="mean")
    assert rows_of(note_of(client_of(results))) == [("mean (control)", "-")]
    run(tiny, results, "--folds", "0", methods="coordinates")
    run(tiny, results, "--folds", "0", "--set", "neighbours=3", methods="coordinates")
    assert [name for name, _ in rows_of(note_of(client_of(results)))] == [
        *["coordinates (control)"] * 2,
        "mean (control)",
    ]
    # The same run by older code: it has another key, and gives way to the newer one.
    (folder,) = results.glob("runs/*/*/mean-*")
    older = folder.with_name("mean-000000000000")
    shutil.copytree(folder, older)
    facts = json.loads((older / "run.json").read_text())
    facts |= {"key": "0" * 64, "created": "2020-01-01T00:00:00.000000+00:00"}
    (older / "run.json").write_text(json.dumps(facts))
    manifest = json.loads((older / "fold-0" / "manifest.json").read_text())
    manifest["key"] = canonical_hash([facts["key"], 0])
    (older / "fold-0" / "manifest.json").write_text(json.dumps(manifest))
    (older / "tracking.json").unlink()
    assert call("sync", "--results", results).status == 0
    names = [name for name, _ in rows_of(note_of(client_of(results)))]
    assert sorted(names) == [*["coordinates (control)"] * 2, "mean (control)"]


def test_a_description_is_as_short_as_every_server_takes(tracked, monkeypatch):
    results, _ = tracked
    runs = stored_runs(results, "tiny", "strict")
    whole = experiment_note(runs)
    monkeypatch.setattr("bench.tracking.pages.NOTE_LENGTH", len(whole))
    assert experiment_note(runs) == whole
    monkeypatch.setattr("bench.tracking.pages.NOTE_LENGTH", len(whole) - 300)
    short = experiment_note(runs)
    assert len(short) <= len(whole) - 300
    assert rows_of(short) == rows_of(whole)
    assert short.endswith("\n\nThe rest: `bench tables`.")
    assert whole.startswith(short.removesuffix("\n\nThe rest: `bench tables`."))


def test_a_run_says_what_it_is(tracked):
    results, _ = tracked
    parents, _ = runs_of(client_of(results))
    notes = {name: run_.data.tags["mlflow.note.content"] for name, run_ in parents.items()}
    assert (
        "**depth**, an oracle, seed 0, on tiny under protocol strict: 3 of 3 fold" in notes["depth"]
    )
    assert rows_of(notes["depth"]) == [("depth (oracle)", "-")]
    assert "Oracle (depth)" in notes["depth"]
    assert "**coordinates**, a control" in notes["coordinates"]


def test_a_saved_view_sorts_the_runs_and_stays_as_the_user_changes_it(tiny, results):
    run(tiny, results, "--folds", "0")
    client = client_of(results)
    experiment = client.get_experiment_by_name("tiny-strict")
    view = json.loads(experiment.tags["mlflow.sharedViewState.spotbench"])
    state = json.loads(view["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`pcc_acg`", False)
    found = client.search_runs([experiment.experiment_id], state["searchFilter"])
    assert [run_.data.tags["level"] for run_ in found] == ["run"]
    client.set_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.spotbench", "mine")
    run(tiny, results, "--folds", "1")
    experiment = client.get_experiment_by_name("tiny-strict")
    assert experiment.tags["mlflow.sharedViewState.spotbench"] == "mine"
    assert "2/3" in experiment.tags["mlflow.note.content"]


def test_the_page_of_the_newest_run_is_named(tiny, tracked, tmp_path):
    results, _ = tracked
    uri = f"sqlite:///{results / 'mlflow.db'}"
    number = client_of(results).get_experiment_by_name("tiny-strict").experiment_id
    assert newest_page(results, uri).startswith(f"/#/experiments/{number}/runs?")
    assert newest_page(results, "http://elsewhere") is None
    assert newest_page(tmp_path, uri) is None


def test_a_fold_that_stopped_early_is_left_out_of_later_epochs(tracked, tmp_path):
    results, _ = tracked
    (stored, *_) = stored_runs(results, "tiny", "strict")
    folder = RunFolder(tmp_path, stored.folder.key)
    for index, losses in enumerate(([4.0, 2.0], [2.0], [])):
        table = pd.DataFrame({"epoch": range(len(losses)), "loss": losses})
        folder.fold(index).write_table("curves.parquet", table if losses else pd.DataFrame())
    means = mean_curves(StoredRun(folder, stored.facts, (0, 1, 2)))
    assert means.to_dict("list") == {
        "name": ["loss", "loss"],
        "epoch": [0, 1],
        "value": [3.0, 2.0],
    }


# ------------------------------------------------------------------------- once, and again


@pytest.mark.slow
def test_unfinished_run_says_so_until_it_is_finished(tiny, results):
    run(tiny, results, "--folds", "0,1")
    parent = runs_of(client_of(results))[0]["mean"]
    assert parent.info.status == "RUNNING"
    assert parent.data.tags["folds_done"] == "2/3"
    run(tiny, results)
    parents, children = runs_of(client_of(results))
    assert parents["mean"].info.run_id == parent.info.run_id
    assert parents["mean"].info.status == "FINISHED"
    assert parents["mean"].data.tags["folds_done"] == "3/3"
    assert set(children) == {("mean", fold) for fold in range(3)}


@pytest.mark.slow
def test_run_with_a_failed_fold_has_failed(tiny, results, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(
        write_plugin(
            tmp_path / "plugin",
            "fragile",
            fit="if data.train[0].name.startswith('A'): raise ValueError('no luck')",
        )
    )
    assert run(tiny, results, "--folds", "0,1", methods="fragile").status == 1
    parents, children = runs_of(client_of(results))
    assert parents["fragile"].info.status == "FAILED"
    assert parents["fragile"].data.tags["folds_done"] == "1/3"
    assert len(children) == 1


def test_same_call_again_uploads_nothing(tracked, tiny):
    results, _ = tracked

    def everything():
        parents, children = runs_of(client_of(results))
        runs = [*parents.values(), *children.values()]
        return sorted((r.info.run_id, r.info.end_time, len(r.data.metrics)) for r in runs)

    before = everything()
    assert run(tiny, results, methods="coordinates,depth").status == 0
    assert everything() == before


@pytest.mark.slow
def test_forced_fold_takes_the_place_of_the_old_one(tiny, results):
    run(tiny, results, "--folds", "0,1")
    before = runs_of(client_of(results))
    assert run(tiny, results, "--folds", "0", "--force").status == 0
    client = client_of(results)
    parents, children = runs_of(client)
    assert parents["mean"].info.run_id == before[0]["mean"].info.run_id
    assert children["mean", 0].info.run_id != before[1]["mean", 0].info.run_id
    assert children["mean", 1].info.run_id == before[1]["mean", 1].info.run_id
    assert children["mean", 0].data.metrics["mse"] == before[1]["mean", 0].data.metrics["mse"]
    experiment = parents["mean"].info.experiment_id
    owners = {model.source_run_id for model in client.search_logged_models([experiment])}
    assert owners == {children["mean", fold].info.run_id for fold in (0, 1)}


@pytest.mark.slow
def test_lost_record_does_not_double_the_runs(tiny, results):
    run(tiny, results, "--folds", "0")
    (record,) = results.rglob("tracking.json")
    for text in (None, "{", "[]", '{"sqlite": 3}'):
        record.unlink() if text is None else record.write_text(text)
        assert run(tiny, results, "--folds", "0").status == 0
        parents, children = runs_of(client_of(results))
        assert (len(parents), len(children)) == (1, 1)


@pytest.mark.slow
def test_upload_that_broke_off_is_done_anew_and_once(tiny, results, monkeypatch):
    from mlflow import MlflowClient

    parts = ("set_terminated", "log_image", "log_batch", "finalize_logged_model")
    for times, part in enumerate(parts, 1):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, part, broken)
            answer = run(tiny, results, "--folds", "0", "--seed", str(times))
            assert answer.status == 0
            assert "warning: tracking at" in answer.stderr
        assert call("sync", "--results", results).stdout.startswith("tiny strict mean: uploaded")
        client = client_of(results)
        found = client.search_runs(["1"], "tags.level = 'run'")
        folds = client.search_runs(["1"], "tags.level = 'fold'")
        assert len(found) == len(folds) == times
        assert {run_.info.status for run_ in folds} == {"FINISHED"}
        assert [images_of(client, run_) for run_ in found] == [[(0, 1)]] * times
        models = client.search_logged_models(["1"])
        assert {model.source_run_id for model in models} == {run_.info.run_id for run_ in folds}
        assert {str(model.status) for model in models} == {"READY"}


def broken(*_, **__):
    raise OSError("the line is dead")


@pytest.mark.slow
def test_dead_server_costs_one_warning_and_later_everything_is_uploaded(tiny, results):
    begin = time.monotonic()
    answer = run(tiny, results, "--tracking", NOWHERE, methods="mean,depth")
    assert time.monotonic() - begin < 60
    assert answer.status == 0
    assert "folds are done" not in answer.stdout
    assert re.search(r"^ +mean .*^ +depth |^ +depth .*^ +mean ", answer.stdout, re.M | re.S)
    (warning,) = (line for line in answer.stderr.splitlines() if "tracking" in line)
    assert warning.startswith("warning: ")
    assert NOWHERE in warning
    assert "the results on disk are complete" in warning
    assert "Traceback" not in answer.stderr
    assert len(fold_folders(results)) == 6

    later = run(tiny, results, methods="mean,depth")
    assert later.status == 0
    assert later.stderr.count("kept, it is done") == 6
    assert "warning" not in later.stderr
    parents, children = runs_of(client_of(results))
    assert set(parents) == {"mean", "depth"}
    assert set(children) == {(name, fold) for name in parents for fold in range(3)}


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/nowhere/mlflow.db"])
def test_uri_that_cannot_work_costs_one_warning(tiny, tmp_path, uri):
    answer = run(tiny, tmp_path / "results", "--folds", "0", "--tracking", uri)
    assert answer.status == 0
    (warning,) = (line for line in answer.stderr.splitlines() if line.startswith("warning: "))
    assert f"tracking at {uri} failed" in warning
    assert answer.stderr.splitlines()[-1] == warning or "fold 0: done" in answer.stderr


@pytest.mark.slow
def test_every_store_gets_what_it_has_not_seen(
    tiny, results, tmp_path, monkeypatch, empty_database
):
    from mlflow import MlflowClient

    stores = [f"sqlite:///{tmp_path / name}.db" for name in ("option", "environment")]
    for uri in stores:
        shutil.copy(empty_database, uri.removeprefix("sqlite:///"))
    run(tiny, results, "--folds", "0")
    run(tiny, results, "--folds", "0", "--tracking", stores[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stores[1])
    run(tiny, results, "--folds", "0")
    for client in (client_of(results), *(MlflowClient(tracking_uri=uri) for uri in stores)):
        parents, children = runs_of(client)
        assert (set(parents), set(children)) == ({"mean"}, {("mean", 0)})
