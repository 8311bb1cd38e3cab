"""Published numbers, and ours beside them."""

import json

import numpy as np
import pandas as pd
import pytest

from bench.errors import BenchError, DataError
from bench.registry import find_datasets, find_methods
from bench.report.published import COLUMNS, beside_published, read_published, render_published
from tests.report.test_tables import score, store  # noqa: F401 - a fixture

DATASETS = ("her2st", "cscc", "alex10x", "stnet")


LITERATURE = ("dkan", "egn", "sgn", "m2ost")
"""Methods that have published rows and are not of the project."""


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_files_are_tables_with_a_source_for_every_number(dataset):
    table = read_published(dataset)
    assert tuple(table.columns) == COLUMNS
    assert len(table)
    assert (table["dataset"] == dataset).all()
    assert table["source"].str.len().min() > 10
    assert table["obtained"].str.contains("re-tabulated|re-run|read in").all()
    marked = table["comparable"] == "no"
    assert (table.loc[marked, "reason"].str.len() > 10).all()
    assert (table.loc[~marked, "reason"] == "").all()
    correlations = table["score"].str.startswith("pcc")
    assert table.loc[correlations, "value"].between(-1, 1).all()
    assert set(table["method"]) <= {*find_methods(), *LITERATURE}


@pytest.mark.parametrize(("dataset", "pcc"), [("her2st", 0.330), ("cscc", 0.407), ("stnet", 0.219)])
def test_what_the_project_does_not_have_stands_beside_what_it_has(store, dataset, pcc):  # noqa: F811
    run, _ = store("triplex", protocol="triplex", preset="quick", changes=score(0.3))
    table = beside_published([run], read_published(dataset), "triplex")
    rows = table[table["score"] == "pcc_acg"].set_index("method")
    assert rows.loc["dkan", "published"] == pcc
    assert rows.loc["dkan", "preset"] == "not run"
    assert rows.loc["triplex", "ours"] == pytest.approx(0.3)
    assert set(LITERATURE) <= set(rows.index)


def test_the_papers_main_rows_are_there():
    table = read_published("her2st")
    row = table[(table["method"] == "mclstexp") & (table["score"] == "pcc_heg")].iloc[0]
    assert (row["value"], row["sd"], row["protocol"]) == (0.3866, 0.021, "published")
    assert read_published("demo").empty
    assert "her2st" in find_datasets()


def test_errors_of_methods_scored_on_another_scale_are_marked():
    table = read_published("her2st")
    first = table[table["source"].str.contains("CHRep")]
    errors = first[first["score"].isin(["mse", "mae"])].set_index(["method", "score"])["comparable"]
    assert (errors["mclstexp"] == "yes").all()
    assert (errors["bleep"] == "yes").all()
    for name in ("stnet", "histogene", "hist2st", "thitogene"):
        assert (errors[name] == "no").all()


def test_ours_stand_beside_theirs_with_the_difference(store):  # noqa: F811
    run, _ = store("mclstexp", protocol="published", preset="quick", changes=score(0.3))
    published = read_published("her2st")
    table = beside_published([run], published, "published")
    assert len(table) == (published["protocol"] == "published").sum()
    row = table[(table["method"] == "mclstexp") & (table["score"] == "pcc_acg")].iloc[0]
    assert row["ours"] == pytest.approx(0.3)
    assert row["difference"] == pytest.approx(0.3 - row["published"])
    other = table[table["method"] == "bleep"]
    assert (other["preset"] == "not run").all()
    assert other["difference"].isna().all()


def test_what_cannot_be_compared_is_marked_with_the_reason_in_a_footnote(store):  # noqa: F811
    run, _ = store("stnet", protocol="published", preset="quick")
    text = render_published([run], "her2st", "published", "text", title="t")
    (line,) = [line for line in text.splitlines() if line.split()[:3] == ["stnet", "quick", "mse"]]
    assert "no [1]" in line
    assert "\n1. Not comparable: another scale" in text
    assert "Preset quick is not the authors' setting" in text
    content = json.loads(render_published([run], "her2st", "published", "json"))
    assert not next(
        row["comparable"]
        for row in content["rows"]
        if (row["method"], row["score"]) == ("stnet", "mse")
    )


def test_a_dataset_without_published_numbers_is_refused(store):  # noqa: F811
    run, _ = store("mean")
    with pytest.raises(BenchError, match="no published number on demo"):
        render_published([run], "demo", "strict", "text")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        ",".join(COLUMNS) + "\nd,p,m,s,high,,x,y,yes,\n",
        ",".join(COLUMNS) + "\nd,p,m,s,0.1,,x,y,maybe,\n",
        b"\xff\xfe\x00\x01",
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "d.csv").write_bytes(data)
    with pytest.raises(DataError, match=r"d\.csv"):
        read_published("d", tmp_path)


def test_deviations_that_are_not_known_are_undefined():
    table = read_published("her2st")
    assert table["sd"].isna().any()
    assert pd.api.types.is_float_dtype(table["sd"])
    assert np.isfinite(table["value"]).all()
