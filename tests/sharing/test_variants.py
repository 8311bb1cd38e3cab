"""Runs with seeds, fewer training patients or other test data are exported and imported."""

import pytest

from tests.cli.tiny_dataset import call
from tests.cli.variants.made import make_other

VARIANTS = {
    "seeds": ("--seeds", "0,1"),
    "training patients": ("--train-patients", "1,all"),
    "permuted images": (),
    "mean of rows": (),
}
METHODS = {"permuted images": "shuffled:ridge", "mean of rows": "mean:mean+coordinates"}


def exchanged(results, tmp_path):
    """Export, import elsewhere; tables of both places."""
    out = tmp_path / "lab.spotbench.zip"
    answer = call("export", "--results", results, "--out", out)
    assert answer.status == 0, answer.stderr
    answer = call("import", out, "--results", tmp_path / "there")
    assert answer.status == 0, answer.stderr
    return [
        call("tables", "--dataset", "tiny", "--results", folder, "--format", "csv").stdout
        for folder in (results, tmp_path / "there")
    ]


@pytest.mark.parametrize("kind", VARIANTS)
def test_tables_of_variants_are_the_same_after_an_import(shared_tiny, tmp_path, kind):
    results = tmp_path / "results"
    where = (*shared_tiny.options, *shared_tiny.quick_protocol, "--tracking", "none")
    more = ("--preset", "quick", "--results", results)
    if kind == "mean of rows":
        assert call("run", "-m", "mean,coordinates", *where, *more).status == 0
    answer = call("run", "-m", METHODS.get(kind, "mean"), *VARIANTS[kind], *where, *more)
    assert answer.status == 0, answer.stderr
    here, there = exchanged(results, tmp_path)
    assert len(here.splitlines()) > 1
    assert there == here


def test_runs_on_another_dataset_are_imported(shared_tiny, tmp_path):
    other = make_other(tmp_path / "other")
    answer = call(
        *("run", "-m", "mean,coordinates", *shared_tiny.options, "--test-dataset", other.card),
        *("--test-data-root", other.root, "--tracking", "none", "--results", tmp_path / "results"),
    )
    assert answer.status == 0, answer.stderr
    here, there = exchanged(tmp_path / "results", tmp_path)
    assert len(here.splitlines()) == 3
    assert there == here
