"""The nine tasks of HEST-Benchmark under one name, on made folders of two of them."""

from __future__ import annotations

import json

import huggingface_hub
import numpy as np
import pytest

from tests.cli.tiny_dataset import assert_refused, call
from tests.datasets.hest_task import write_task

TASKS = {"SKCM": ("TENX115", "TENX117"), "LUNG": ("TENX118", "TENX141")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with two tasks; not to be changed."""
    folder = tmp_path_factory.mktemp("hest-bench")
    for task, samples in TASKS.items():
        write_task(folder / task, samples)
    return folder


def listed(*_, **__):
    raise ConnectionError("no route to host")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """A hub that is out of reach, and datasets in a folder of the test."""
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_tree", listed)
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of :func:`ran`; not to be changed."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def ran(copy, results, tmp_path_factory):
    """The answer of a run on the collection, of which two tasks are here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.HfApi, "list_repo_tree", listed)
        patch.setenv("SPOTBENCH_DATA", str(tmp_path_factory.mktemp("own")))
        return call(
            *("run", "--dataset", "hest", "--method", "mean,coordinates", "--protocol", "hest"),
            *("--data-root", copy, "--results", results, "--tracking", "none"),
        )


def test_every_task_that_is_here_is_run_and_the_others_are_named(ran, results):
    assert ran.status == 1
    done = {path.name for path in (results / "runs").iterdir()}
    assert done == {"hest-skcm", "hest-lung"}
    complaints = [line for line in ran.stderr.splitlines() if line.startswith("bench: hest-")]
    assert len(complaints) == 7
    assert all("CCRCC" in line for line in complaints if "hest-ccrcc" in line)


def test_the_table_has_a_column_a_task(bench, ran, results):
    assert ran.status == 1
    options = ("tables", "--dataset", "hest", "--protocol", "hest", "--results", results)
    rows = json.loads(bench(*options, "--format", "json").stdout)["rows"]
    depth = next(row for row in rows if row["method"] == "depth")
    assert depth["datasets"] == 2
    assert depth["mean"] is None
    for task in ("hest-skcm", "hest-lung"):
        assert np.isfinite(depth[task])
        assert np.isfinite(depth[f"{task}_sd"])
    shown = bench(*options, "--with-published")
    assert shown.status == 0, shown.stderr
    assert "ridge[uni]" in shown.stdout
    assert "the gene list was chosen over all samples" in " ".join(shown.stdout.split())
    assert_refused(bench(*options, "--pairs"), "hest is a collection")


def test_one_task_is_a_table_like_any_other(bench, ran, results):
    assert ran.status == 1
    options = ("tables", "--dataset", "hest:SKCM", "--results", results)
    shown = bench(*options)
    assert "PCC by fold" in shown.stdout
    assert "Two patients: all sections are of two patients" in shown.stdout
    beside = bench(*options, "--with-published")
    assert "ridge[virchow2]" in beside.stdout
    assert "coordinates" in beside.stdout


def test_the_audit_of_a_task_names_its_problems(bench, copy):
    audited = bench(
        *("audit", "--dataset", "hest:LUNG", "--protocol", "hest", "--data-root", copy / "LUNG")
    )
    assert audited.status == 0, audited.stderr
    assert "chosen over all samples" in audited.stdout
    assert "two patients" in audited.stdout
    coad = json.loads(bench("data", "show", "hest:COAD", "--json").stdout)["card"]
    assert any("TENX128 and TENX155" in one for one in coad["cautions"])


def test_the_audit_of_all_tasks_names_those_that_are_not_here(bench, copy):
    options = ("audit", "--dataset", "hest", "--protocol", "hest", "--data-root", copy)
    audited = bench(*options, "--json")
    assert audited.status == 1
    assert [one["dataset"] for one in json.loads(audited.stdout)] == ["hest-lung", "hest-skcm"]
    assert len(audited.stderr.splitlines()) == 7


def test_a_protocol_without_runs_is_refused(bench, ran, results):
    assert ran.status == 1
    options = ("tables", "--dataset", "hest", "--results", results)
    assert_refused(bench(*options, "--protocol", "strict"), "strict")


def test_tables_need_runs_or_published_numbers(bench, tmp_path):
    assert_refused(bench("tables"), "--dataset", "--published")
    assert_refused(bench("tables", "--dataset", "hest", "--results", tmp_path), "no runs on hest")
    assert_refused(bench("tables", "--published", "hest", "--dataset", "hest"), "alone")
    assert bench("tables", "--published", "hest").status == 0


def test_commands_on_one_dataset_refuse_the_collection(bench):
    for command in (("ceiling", "--dataset", "hest"), ("data", "show", "hest")):
        assert_refused(bench(*command), "hest stands for 9 datasets")
