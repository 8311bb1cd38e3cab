"""Ensembles of stored runs: mean predictions, fold by fold, without fitting."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest

from bench.method_references import absolute, ensemble_of, is_file, split_ensemble
from tests.cli.tiny_dataset import assert_refused

NAME = "mean:coordinates+mean"
FOLDER = "mean-coordinates-mean"


@pytest.fixture(scope="module")
def call(bench, tiny):
    """Runs rows on the tiny dataset, with results in a folder."""

    def run(results, rows, *more, tracking="none"):
        where = (*tiny.options, *tiny.quick_protocol, "--results", results)
        return bench("run", "-m", rows, *where, "--tracking", tracking, *more)

    return run


@pytest.fixture(scope="module")
def stored(call, tmp_path_factory):
    """Results of two rows and, after another call, of their ensemble; and that call."""
    folder = tmp_path_factory.mktemp("ensembles")
    results = folder / "results"
    assert call(results, "coordinates,mean").status == 0
    answer = call(results, NAME, "--json", tracking=f"sqlite:///{folder}/runs.db")
    assert answer.status == 0, answer.stderr
    return results, answer


def predictions(results, folder):
    """Predictions by fold of the row whose folder begins so."""
    return {
        path.parent.name: anndata.read_h5ad(path).X
        for path in results.glob(f"runs/*/*/{folder}-????????????/fold-*/predictions.h5ad")
    }


def test_it_is_the_mean_of_what_is_stored(stored):
    results, answer = stored
    (row,) = json.loads(answer.stdout)["rows"]
    assert (row["method"], row["folds"], row["kind"]) == (NAME, 3, "method")
    one, two = predictions(results, "coordinates"), predictions(results, "mean")
    mean = predictions(results, FOLDER)
    assert set(mean) == {"fold-0", "fold-1", "fold-2"}
    for fold, values in mean.items():
        np.testing.assert_allclose(values, (one[fold] + two[fold]) / 2, rtol=1e-6, atol=1e-7)


def test_nothing_is_fitted_for_it(stored, call):
    results, answer = stored
    assert answer.stderr.count("done in") == 3
    assert answer.stderr.count(f"{NAME} fold") == 3
    assert call(results, NAME).stderr.count("kept, it is done") == 3
    assert call(results, NAME, "--force").stderr.count("done in") == 3


def test_it_stands_in_tables_and_pairs(stored, bench):
    results, _ = stored
    table = bench("tables", "-d", "tiny", "--results", results, "--format", "json")
    assert NAME in [row["method"] for row in json.loads(table.stdout)["rows"]]
    pairs = bench("tables", "-d", "tiny", "--results", results, "--pairs", "--format", "csv")
    assert pairs.status == 0, pairs.stderr
    assert NAME in pairs.stdout


def test_it_is_tracked(stored):
    results, _ = stored
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{results.parent}/runs.db")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert any(NAME in name for name in names)


def test_members_of_other_settings_do_not_count(stored, call):
    results, _ = stored
    answer = call(results, NAME, "--set", "coordinates.neighbours=3", "--folds", "0")
    assert answer.status == 1
    assert f"{NAME} fold 0: failed, no stored predictions of coordinates for" in answer.stderr


def test_members_that_are_not_stored_are_named(call, results):
    answer = call(results, f"{NAME},coordinates", "--folds", "0")
    assert answer.status == 1
    assert f"{NAME} fold 0: failed, no stored predictions of mean for this" in answer.stderr
    assert "run it first, or name it beside the ensemble" in answer.stderr
    assert predictions(results, FOLDER) == {}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("mean:coordinates+depth", "depth cannot be averaged"),
        ("mean:ridge+shuffled:ridge", "shuffled:ridge cannot be averaged"),
        ("mean:coordinates+coordinates", "names a member twice"),
        ("mean:coordinates+rigde", "did you mean ridge"),
        ("mean:mean+histogene[uni]", "histogene has no encoder"),
    ],
)
def test_what_cannot_be_averaged_is_refused(call, results, rows, said):
    assert_refused(call(results, rows), said)
    assert not list(results.rglob("fold-*"))


def test_members_are_read_from_the_name():
    assert split_ensemble("mean:ridge[hf-hub:a/b+c]+mlp") == ("ridge[hf-hub:a/b+c]", "mlp")
    assert split_ensemble("mean") == split_ensemble("mean:ridge") == split_ensemble("a+b") == ()
    assert ensemble_of(["a", "b"]) == "mean:a+b"
    assert not is_file("mean:ridge+./a.py")
    assert absolute("mean:ridge+./a.py").startswith("mean:ridge+/")
