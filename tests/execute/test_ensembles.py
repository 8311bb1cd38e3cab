"""Ensembles of stored runs: mean predictions, fold by fold, without fitting."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest

from bench.method_references import absolute, ensemble_of, is_file, split_ensemble
from tests.cli.tiny_dataset import assert_refused, write_plugin

NAME = "mean:coordinates+drawn"
FOLDER = "mean-coordinates-drawn"


@pytest.fixture
def drawn(plugins):
    """A method that predicts too much, and counts its fits in a file."""
    counter = plugins / "fits"
    counter.write_text("")
    write_plugin(
        plugins,
        "drawn",
        fit=f"open({str(counter)!r}, 'a').write('x')",
        predict="predictions = [p + len(p) % 7 for p in predictions]",
    )
    return counter


@pytest.fixture
def run(bench, tiny, results, drawn):
    """Runs rows on the tiny dataset without oracles."""
    options = (*tiny.options, *tiny.quick_protocol)

    def call(rows, *more, tracking="none"):
        call = ("run", "-m", rows, *options, "--tracking", tracking, "--results", results)
        return bench(*call, *more)

    return call


def predictions(results, label):
    """Predictions by fold of the row whose folder begins so."""
    return {
        path.parent.name: anndata.read_h5ad(path).X
        for path in results.glob(f"runs/*/*/{label}-????????????/fold-*/predictions.h5ad")
    }


def test_it_is_the_mean_of_what_is_stored(run, results, drawn):
    answer = run(f"{NAME},coordinates,drawn", "--json")
    assert answer.status == 0, answer.stderr
    rows = {row["method"]: row for row in json.loads(answer.stdout)["rows"]}
    assert rows[NAME]["folds"] == 3
    assert rows[NAME]["kind"] == "method"
    one, two = predictions(results, "coordinates"), predictions(results, "drawn")
    mean = predictions(results, FOLDER)
    assert set(mean) == {"fold-0", "fold-1", "fold-2"}
    for fold, values in mean.items():
        np.testing.assert_allclose(values, (one[fold] + two[fold]) / 2, rtol=1e-6, atol=1e-7)
    assert rows[NAME]["mse"] < rows["drawn"]["mse"]


def test_nothing_is_fitted_for_it(run, results, drawn):
    assert run("coordinates,drawn").status == 0
    assert drawn.read_text() == "xxx"
    first = run(NAME, "--json")
    assert first.status == 0, first.stderr
    assert [row["method"] for row in json.loads(first.stdout)["rows"]] == [NAME]
    assert first.stderr.count("done in") == 3
    assert drawn.read_text() == "xxx"
    assert run(NAME).stderr.count("kept, it is done") == 3


def test_members_that_are_not_stored_are_named(run, results):
    assert run("coordinates", "--folds", "0,1").status == 0
    answer = run(f"{NAME},coordinates", "--folds", "0")
    assert answer.status == 1
    assert f"{NAME} fold 0: failed, no stored predictions of drawn for this" in answer.stderr
    assert "run it first, or name it beside the ensemble" in answer.stderr
    assert predictions(results, FOLDER) == {}


def test_members_of_other_settings_do_not_count(run):
    assert run("coordinates,drawn", "--set", "coordinates.neighbours=3").status == 0
    answer = run(NAME)
    assert answer.status == 1
    assert "no stored predictions of coordinates for this" in answer.stderr
    assert run(NAME, "--set", "coordinates.neighbours=3").status == 0


def test_a_new_fit_of_a_member_makes_it_anew(run, results):
    assert run(f"coordinates,drawn,{NAME}").status == 0
    again = run(f"coordinates,drawn,{NAME}", "--force")
    assert again.status == 0
    assert again.stderr.count("done in") == 9


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
def test_what_cannot_be_averaged_is_refused(run, results, rows, said):
    assert_refused(run(rows), said)
    assert not list(results.rglob("fold-*"))


def test_it_stands_in_tables_pairs_and_tracking(run, bench, results, tmp_path):
    database = f"sqlite:///{tmp_path}/runs.db"
    answer = run(f"coordinates,drawn,{NAME}", tracking=database)
    assert answer.status == 0, answer.stderr
    table = bench("tables", "-d", "tiny", "--results", results, "--format", "json")
    assert NAME in [row["method"] for row in json.loads(table.stdout)["rows"]]
    pairs = bench("tables", "-d", "tiny", "--results", results, "--pairs", "--format", "csv")
    assert pairs.status == 0, pairs.stderr
    assert NAME in pairs.stdout


def test_members_are_read_from_the_name():
    assert split_ensemble("mean:ridge[hf-hub:a/b+c]+mlp") == ("ridge[hf-hub:a/b+c]", "mlp")
    assert split_ensemble("mean") == split_ensemble("mean:ridge") == split_ensemble("a+b") == ()
    assert ensemble_of(["a", "b"]) == "mean:a+b"
    assert not is_file("mean:ridge+./a.py")
    assert absolute("mean:ridge+./a.py").startswith("mean:ridge+/")
