"""The study of the embedded data, as a new user calls it."""

import json
import math
import re

import pandas as pd
import pytest

from tests.cli.tiny_dataset import call
from tests.conftest import REPOSITORY

SHOWN = {"PCC(ACG)": "pcc_acg", "PCC(HEG)": "pcc_heg", "MSE": "mse"}
"""Headings of README's table, and the columns of the study's."""


def readme_scores():
    """Rows of README's table: label, then the cells by column of the study's table."""
    table = re.search(r"^\| method \|.*?\n\n", (REPOSITORY / "README.md").read_text(), re.M | re.S)
    heading, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table[0].split("\n")[:-2]
    )
    assert heading == ["method", *SHOWN]
    return {
        re.sub(r" \(.*\)$", "", label): dict(zip(SHOWN.values(), cells, strict=True))
        for label, *cells in rows
    }


def assert_shown(cell, mean, deviation):
    """A cell of README holds what was computed, as far as processors agree on a small network."""
    if cell == "–":
        assert math.isnan(mean)
    else:
        shown, spread = map(float, cell.split(" ± "))
        assert shown == pytest.approx(mean, abs=0.03)
        assert spread == pytest.approx(deviation, abs=0.05)


@pytest.mark.slow
def test_the_demo_study_makes_its_report_and_marks_its_runs_in_mlflow(tmp_path):
    from mlflow import MlflowClient

    results = tmp_path / "results"
    said = call("study", "run", "demo", "--device", "cpu", "--results", results, "--json")
    assert said.status == 0, said.stderr
    told = json.loads(said.stdout)
    assert (told["done"], told["missing"]) == (told["fits"], 0)
    made = results / "studies" / "demo"
    table = pd.read_csv(made / "tables" / "methods-demo.csv").set_index("method")
    assert table.loc["mclstexp", "pcc_acg"] > 0.3 > table.loc["depth", "pcc_acg"]
    assert abs(table.loc["shuffled:mclstexp", "pcc_acg"]) < 0.1
    shown = readme_scores()
    assert len(shown) == 6
    for label, cells in shown.items():
        for column, cell in cells.items():
            assert_shown(cell, table.loc[label, column], table.loc[label, f"{column}_sd"])
    assert (made / "report.html").stat().st_size > 100_000
    assert (made / "figures" / "methods-demo" / "scores.pdf").read_bytes().startswith(b"%PDF")
    client = MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo-strict")
    runs = client.search_runs([experiment.experiment_id], "tags.`study.demo` != ''")
    labels = {run.data.tags["study.demo"] for run in runs}
    assert {"mclstexp", "no position", "ridge", "depth"} <= labels
    views = [name for name in experiment.tags if name.startswith("mlflow.sharedViewState.study")]
    assert views == ["mlflow.sharedViewState.study.demo"]
