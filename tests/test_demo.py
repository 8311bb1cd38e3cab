"""The embedded dataset: what must win does win."""

import pytest

import bench
from bench.evaluate.names import ORACLE_SUMMARIES
from bench.evaluate.oracles import ORACLES


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return bench.run(
        ["mclstexp", "shuffled", "coordinates", "mean", "depth"],
        "demo",
        preset="quick",
        folds=[0],
        results=tmp_path_factory.mktemp("results"),
        tracking="none",
    ).set_index("method")


@pytest.mark.slow
def test_mclstexp_beats_its_shuffled_twin_and_the_coordinates(table):
    scores = table["pcc_acg"]
    assert scores["mclstexp"] > 0.3
    assert abs(scores["shuffled:mclstexp"]) < 0.15
    assert abs(scores["coordinates"]) < 0.15


@pytest.mark.slow
def test_mclstexp_has_a_smaller_error_than_the_mean(table):
    assert table.loc["mclstexp", "mse"] < table.loc["mean", "mse"]


def test_every_oracle_has_a_summary_to_be_listed_by():
    assert set(ORACLE_SUMMARIES) == set(ORACLES)


@pytest.mark.slow
def test_the_oracle_stands_below_the_contestants(table):
    assert table.index[-1] == "depth"
    assert table.loc["depth", "kind"] == "oracle"
