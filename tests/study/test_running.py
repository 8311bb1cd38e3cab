"""A study from its file to its report, on a tiny dataset."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml

from bench.stored_runs import stored_run
from bench.study.declaration import find_study
from bench.study.report import REPORT, write_report
from bench.study.running import read_record
from tests.cli.tiny_dataset import SECTIONS, assert_refused, call, write_tiny_dataset

PROTOCOL = "{name: patients, version: 1, title: t, split: patient, panel: published}"
ROWS = [
    "mean",
    {"method": "coordinates", "label": "Ort & <b>"},
    {"method": "ridge", "label": "ridge, α 1", "settings": {"alpha": 1.0}},
    {"method": "ridge", "settings": {"encoder": "lcnet_050", "weights": "none", "input_size": 32}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Study file, protocol, two datasets in one data folder, one of them without images."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("tiny", "blind"):
        dataset = write_tiny_dataset(folder / name, name=name)
        dataset.card.rename(folder / f"{name}.yaml")
        (folder / "data").mkdir(exist_ok=True)
        dataset.root.rename(folder / "data" / name)
    for image in (folder / "data" / "blind" / "images").iterdir():
        image.unlink()
    (folder / "patients.yaml").write_text(PROTOCOL)
    part = {
        "name": "all",
        "title": "All of it",
        "datasets": ["tiny.yaml", "blind.yaml"],
        "protocol": "patients.yaml",
        "preset": "quick",
        "rows": ROWS,
        "make": ["table", "pairs", "genes"],
        "genes": ["GENE3", "GENE999"],
    }
    seeds = part | {"name": "seeds", "datasets": "tiny.yaml", "rows": ["mean"], "seeds": "0-1"}
    seeds["make"] = ["table"]
    study = {"name": "mine", "title": "Mine", "parts": [part, seeds], "page": False}
    (folder / "mine.yaml").write_text(yaml.safe_dump(study, allow_unicode=True))
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    """Results folder of the study, and what the call printed."""
    results = folder / "results"
    return results, study_call(folder, "run", "--results", results, "--tracking", "none")


def study_call(folder, command, *arguments):
    root = () if command == "report" else ("--data-root", folder / "data", "--device", "cpu")
    return call("study", command, folder / "mine.yaml", *root, *arguments)


def test_what_can_be_run_is_run_and_the_rest_is_named(folder, ran):
    results, said = ran
    assert said.status == 0, said.stderr
    record = read_record(results, "mine")
    places = {(row.part, row.dataset, row.label, row.seed) for row in record.rows}
    controls = {"mean", "Ort & <b>", "depth"}
    images = {"ridge, α 1", "ridge[lcnet_050]"}
    assert places == {
        *(("all", dataset, label, 0) for dataset in ("tiny", "blind") for label in controls),
        *(("all", "tiny", label, 0) for label in images),
        *(("seeds", "tiny", "mean", seed) for seed in (0, 1)),
        ("seeds", "tiny", "depth", 0),
    }
    assert {row.label for row in record.missing} == images
    for row in record.missing:
        assert row.dataset == "blind"
        assert "A1.jpg is missing" in row.reason
        assert row.reason in said.stderr
    for row in record.rows:
        run = stored_run(row.run_folder(results))
        assert len(run.done) == run.facts["n_folds"] == 3


def test_the_report_has_the_labels_and_numbers_of_the_runs(folder, ran):
    results, _ = ran
    made = results / "studies" / "mine"
    text = (made / REPORT).read_text(encoding="utf-8")
    shown = ("# Mine", "## All of it", "### Missing", "Not in the panel: GENE999.")
    for one in (*shown, "| ridge, α 1 ", "- blind: ridge, α 1, ridge[lcnet_050]: "):
        assert one in text
    table = pd.read_csv(made / "tables" / "all-tiny.csv").set_index("method")
    record = read_record(results, "mine")
    for row in (one for one in record.rows if (one.part, one.dataset) == ("all", "tiny")):
        scores = stored_run(row.run_folder(results)).scores()
        errors = scores[(scores["score"] == "mse") & (scores["section"] != "")]
        if row.label != "depth":
            assert table.loc[row.label, "mse"] == pytest.approx(errors["value"].mean(), rel=1e-12)
    genes = pd.read_csv(made / "tables" / "all-tiny-genes.csv")
    assert set(genes["gene"]) == {"GENE3"}


@pytest.mark.slow
def test_labels_are_text_on_the_page(folder, ran, tmp_path):
    results, _ = ran
    study = find_study(str(folder / "mine.yaml")).model_copy(update={"page": True})
    written = write_report(study, results, tmp_path)
    assert written[-1] == tmp_path / "report.html"
    page = written[-1].read_text(encoding="utf-8")
    assert "Ort &amp; &lt;b&gt;" in page
    assert "Ort & <b>" not in page


@pytest.mark.slow
def test_the_same_call_resumes_and_changes_nothing(folder, ran):
    results, _ = ran
    before = (results / "studies" / "mine" / REPORT).read_bytes()
    status = study_call(folder, "status", "--results", results, "--json")
    told = json.loads(status.stdout)
    assert (told["done"], told["open"]) == (told["fits"], 0)
    again = study_call(folder, "run", "--results", results, "--tracking", "none")
    assert again.status == 0
    assert " jobs" not in again.stderr
    assert (results / "studies" / "mine" / REPORT).read_bytes() == before


@pytest.mark.slow
def test_a_part_of_a_study_leaves_the_record_of_the_rest(folder, ran, tmp_path):
    results, _ = ran
    before = read_record(results, "mine")
    some = study_call(folder, "run", "--only", "seeds", "--results", results, "--tracking", "none")
    assert some.status == 0
    after = read_record(results, "mine")
    assert {*after.rows} == {*before.rows}
    assert {*after.missing} == {*before.missing}
    empty = tmp_path / "results"
    only = study_call(
        folder, "run", "--only", "mean,tiny", "--results", empty, "--tracking", "none"
    )
    rows = read_record(empty, "mine").rows
    assert {(row.part, row.dataset, row.label) for row in rows} == {
        ("all", "tiny", "mean"),
        ("seeds", "tiny", "mean"),
    }
    assert only.status == 0


def test_a_plan_starts_nothing_and_tells_the_cost(folder, ran, tmp_path):
    results, _ = ran
    fresh = study_call(folder, "run", "--plan", "--results", tmp_path / "new", "--json")
    told = json.loads(fresh.stdout)
    assert told["open"] == told["fits"] > 0
    assert not (tmp_path / "new" / "studies").exists()
    assert not [*tmp_path.rglob("run.json")]
    assert all(part["cost"]["unknown"] for part in told["plan"] if part["fits"])
    # Runs of another study tell what these will take.
    more = yaml.safe_load((folder / "mine.yaml").read_text())
    more["parts"][1]["seeds"] = "0-3"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(more, allow_unicode=True))
    for name in ("tiny.yaml", "blind.yaml", "patients.yaml"):
        (tmp_path / name).write_text((folder / name).read_text())
    beside = call(
        *("study", "run", tmp_path / "mine.yaml", "--plan", "--json", "--results", results),
        *("--data-root", folder / "data", "--device", "cpu"),
    )
    opened = [part for part in json.loads(beside.stdout)["plan"] if part["fits"] > part["done"]]
    assert [(part["part"], part["fits"] - part["done"]) for part in opened] == [("seeds", 2 * 3)]
    assert all(part["cost"]["basis"] == ["stored folds"] for part in opened)
    assert all(part["cost"]["hours"] > 0 and not part["cost"]["unknown"] for part in opened)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["maen"], "unknown method 'maen'; did you mean mean?"),
        ([{"method": "ridge", "settings": {"alpah": 1}}], "unknown setting"),
        ([{"method": "ridge", "settings": {"alpha": "much"}}], "alpha"),
    ],
)
def test_a_study_that_cannot_be_met_starts_nothing(folder, tmp_path, rows, message):
    content = yaml.safe_load((folder / "mine.yaml").read_text())
    content["parts"][1]["rows"] = rows
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    for name in ("tiny.yaml", "blind.yaml", "patients.yaml"):
        (tmp_path / name).write_text((folder / name).read_text())
    results = tmp_path / "results"
    said = call(
        *("study", "run", tmp_path / "mine.yaml", "--data-root", folder / "data"),
        *("--results", results, "--tracking", "none"),
    )
    assert_refused(said, message)
    assert not results.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ["mena"]}, "unknown method 'mena'"),
        ({"datasets": "dmeo"}, "unknown dataset 'dmeo'"),
        ({"protocol": "strikt"}, "unknown protocol 'strikt'"),
        ({"panel": "zzz"}, "unknown panel 'zzz'"),
        ({"panel": "hvg:0"}, "panel 'hvg:0'"),
        ({"rows": ["mean"], "encoders": ["nonsense"]}, "no row has one"),
        ({"rows": ["ridge"], "encoders": ["nonsense"]}, "unknown encoder 'nonsense'"),
    ],
)
def test_what_a_part_has_wrong_is_told_with_its_name(tmp_path, change, message):
    part = {"name": "first", "title": "First", "datasets": "demo", "rows": ["mean"], **change}
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump({"name": "odd", "title": "Odd", "parts": [part]}))
    answer = call("study", "run", path, "--plan", "--results", tmp_path / "results")
    assert_refused(answer, "study odd, part first: ", message)
    assert not (tmp_path / "results").exists()


def test_bad_calls_are_one_line(folder, ran, tmp_path):
    results, _ = ran
    assert_refused(
        study_call(folder, "report", "--results", tmp_path), "nothing of study mine here"
    )
    only = study_call(folder, "run", "--only", "meen", "--results", results)
    assert_refused(only, "did you mean mean")
    path = results / "studies" / "mine" / "study.json"
    good = path.read_text()
    try:
        path.write_text(good.replace('"runs/', '"runs/../../'))
        assert_refused(study_call(folder, "report", "--results", results), "outside of the results")
        path.write_text("{}")
        assert_refused(study_call(folder, "report", "--results", results), "is damaged")
    finally:
        path.write_text(good)


def test_an_encoder_of_a_part_gives_each_row_its_own(folder, tmp_path):
    content = yaml.safe_load((folder / "mine.yaml").read_text())
    part = content["parts"][1] | {"rows": [{"method": "ridge", "label": "R"}, "mean"], "seeds": 0}
    content["parts"] = [part | {"encoders": ["test_resnet"], "random_encoders": True}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    for name in ("tiny.yaml", "patients.yaml"):
        (tmp_path / name).write_text((folder / name).read_text())
    said = call(
        *("study", "status", tmp_path / "mine.yaml", "--data-root", folder / "data", "--json"),
        *("--device", "cpu", "--results", tmp_path / "results"),
    )
    rows = {row for part in json.loads(said.stdout)["plan"] for row in part["rows"]}
    assert {"R[random-test_resnet]", "mean", "depth"} <= rows


def test_other_test_data_and_fewer_patients_are_parts_like_others(folder, tmp_path):
    # Counts follow from the place of a section in the list: equal ones are a leak.
    other = write_tiny_dataset(tmp_path / "other", "other", (*SECTIONS, "X1", "Y1"))
    sections = yaml.safe_load(other.card.read_text())["sections"][len(SECTIONS) :]
    other.edit_card(sections=sections, published_order=["X1", "Y1"])
    other.card.rename(tmp_path / "other.yaml")
    data = tmp_path / "data"
    data.mkdir()
    other.root.rename(data / "other")
    (data / "tiny").symlink_to(folder / "data" / "tiny")
    for name in ("tiny.yaml", "patients.yaml"):
        (tmp_path / name).write_text((folder / name).read_text())
    part = {
        "name": "transfer",
        "title": "Transfer",
        "datasets": "tiny.yaml",
        "protocol": "patients.yaml",
        "test_dataset": "other.yaml",
        "rows": ["mean"],
        "make": ["table"],
    }
    five = write_tiny_dataset(tmp_path / "five", "five", (*SECTIONS, "X1", "Y1"))
    five.card.rename(tmp_path / "five.yaml")
    five.root.rename(data / "five")
    fewer = part | {"name": "fewer", "title": "Fewer", "train_patients": [1, "all"], "folds": [0]}
    fewer = {**fewer, "datasets": "five.yaml", "test_dataset": None}
    study = {"name": "mine", "title": "Mine", "parts": [part, fewer], "page": False}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study))
    results = tmp_path / "results"
    said = call(
        *("study", "run", tmp_path / "mine.yaml", "--data-root", data, "--device", "cpu"),
        *("--results", results, "--tracking", "none"),
    )
    assert (said.status, read_record(results, "mine").missing) == (0, ()), said.stderr
    rows = {(row.part, row.label, row.patients) for row in read_record(results, "mine").rows}
    assert rows == {
        *(("transfer", label, None) for label in ("mean", "depth")),
        *(("fewer", "mean", patients) for patients in (1, None)),
        ("fewer", "depth", None),
    }
    text = (results / "studies" / "mine" / REPORT).read_text(encoding="utf-8")
    assert "### fitted on tiny, tested on other, protocol patients" in text
    table = pd.read_csv(results / "studies" / "mine" / "tables" / "fewer-five.csv")
    assert sorted(table["method"]) == ["depth", "mean", "mean"]
