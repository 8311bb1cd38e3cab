"""Published numbers without a run of one's own."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest

from bench.errors import UnknownNameError
from bench.registry import collection
from bench.report.literature import published_datasets, published_rows, render_literature
from bench.report.published import beside_published, read_published, render_published
from tests.report.test_tables import store  # noqa: F401 - a fixture

TASKS = collection("hest")


def test_the_board_of_hest_has_all_its_rows():
    means = read_published("hest")
    board = means[means["source"].str.contains("2026-03-04")]
    assert len(board) == board["method"].nunique() == 25
    complete = {
        name: read_published(name).query("source.str.contains('2026-03-04')") for name in TASKS
    }
    assert {len(table) for table in complete.values()} == {19}
    tasks = pd.concat(complete.values()).groupby("method")["value"].mean()
    both = board.set_index("method")["value"].loc[tasks.index]
    # The published means are of the published values, to their last digit.
    np.testing.assert_allclose(tasks, both, atol=0.51e-4)


@pytest.mark.parametrize("name", [*TASKS, "hest"])
def test_the_files_of_hest_are_tables_with_a_source_for_every_number(name):
    table = read_published(name)
    assert (table["dataset"] == name).all()
    assert set(table["protocol"]) == {"hest"}
    assert set(table["score"]) == {"pooled_pcc_acg"}
    assert table["value"].between(0, 1).all()
    assert table["source"].str.contains("github.com/mahmoodlab/HEST").all()
    assert table["obtained"].str.startswith("read in").all()


def test_a_collection_is_a_table_of_tasks_and_their_mean():
    text = render_literature("hest", "text", title="t")
    heading = next(line for line in text.splitlines() if "method" in line).split()
    assert heading == ["method", *(name.removeprefix("hest-") for name in TASKS), "mean", "source"]
    rows = [line.split() for line in text.splitlines() if line.startswith("  ridge[")]
    assert len(rows) == 29
    means = [float(row[-2]) for row in rows]
    assert means == sorted(means, reverse=True)
    musk = next(row for row in rows if row[0] == "ridge[musk]")
    assert musk[1:-2] == ["–"] * 9


@pytest.mark.parametrize("name", published_datasets())
@pytest.mark.parametrize("how", ["text", "markdown", "latex", "csv", "json"])
def test_every_published_table_is_written_in_every_format(name, how):
    text = render_literature(name, how, title="t")
    number = len(published_rows(name))
    if how == "csv":
        assert len(pd.read_csv(io.StringIO(text))) == number
    elif how == "json":
        assert len(json.loads(text)["rows"]) == number
    else:
        assert published_rows(name)["method"].iloc[0].partition("[")[0] in text


@pytest.mark.parametrize("name", ["mclstexp-2024", "mclSTExp", "chrep", "CHRep-2026", "gr2st"])
def test_a_paper_is_found_by_its_name(name):
    word = name.lower().partition("-")[0]
    rows = published_rows(name)
    assert len(rows)
    assert rows["source"].str.lower().str.contains(word).all()


@pytest.mark.parametrize("name", ["", "2024", "of", "nothing-like-this", "x" * 500])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(UnknownNameError):
        published_rows(name)


def test_what_is_not_comparable_has_a_star_and_its_reason():
    text = render_literature("her2st", "text")
    (line,) = [
        line
        for line in text.splitlines()
        if line.split()[:2] == ["stnet", "published"] and "*" in line and "0.5312" in line
    ]
    assert "0.5312*" in line
    assert "* not comparable with runs of this program: another scale" in text


def test_a_run_without_a_published_number_keeps_its_row(store):  # noqa: F811
    run, _ = store("mean", protocol="published")
    table = beside_published([run], read_published("her2st"), "published")
    (row,) = table[table["method"] == "mean"].to_dict("records")
    assert row["score"] == "pcc_acg"
    assert np.isfinite(row["ours"])
    assert np.isnan(row["published"])
    text = render_published([run], "her2st", "published", "text")
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["mean"]]
    assert line.split()[-4:] == ["–", "–", "–", "–"]


def test_an_encoder_finds_the_number_published_for_it(store):  # noqa: F811
    chosen = {"encoder": ["densenet121", "resnet50-layer3"]}
    run, _ = store("ridge", protocol="hest", changed=chosen)
    other, _ = store("ridge[uni]", protocol="hest", seed=3)
    table = beside_published([run, other], read_published("hest-idc"), "hest")
    for name in ("ridge[resnet50-layer3]", "ridge[uni]"):
        mine = table[(table["method"] == name) & table["ours"].notna()]
        assert len(mine) == 2, name  # both boards have it
        np.testing.assert_allclose(mine["difference"], mine["ours"] - mine["published"])
        assert mine["ours_sd"].notna().all()
