"""The paper's layout: its rows and columns, the best marked, published numbers, its files."""

from __future__ import annotations

import csv
import io
import json
import re

import pandas as pd
import pytest

from bench.errors import BenchError, UnknownNameError
from bench.report.citations import MARK, printed_method, read_citation
from bench.report.paper import paper_table, row_names
from bench.report.paper_formats import citations, write_paper
from bench.report.published import read_published
from bench.report.views import View
from tests.cli.tiny_dataset import call
from tests.report.test_tables import store  # noqa: F401 - a fixture

FORMATS = ("text", "markdown", "latex", "html", "csv", "json")


def scores(**values):
    """Changes that give every section these scores."""
    return {f"{patient}{number}": values for patient in "ABC" for number in (1, 2)}


def cells(text):
    """Cells of the rows of a Markdown table by the name of the row."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def several(store):  # noqa: F811
    """Two methods, a control and an oracle that beat both."""
    return [
        store("mclstexp", changes=scores(pcc_acg=0.31, pcc_heg=0.40004, mse=0.5, mae=0.2))[0],
        store("ridge", changes=scores(pcc_acg=0.29, pcc_heg=0.40001, mse=0.4, mae=0.3))[0],
        store("mean", "control", changes=scores(pcc_acg=0.9, pcc_heg=0.9, mse=0.1, mae=0.1))[0],
        store("depth", "oracle", changes=scores(pcc_acg=0.99, pcc_heg=0.9, mse=0.1, mae=0.1))[0],
    ]


def markdown(runs, **view):
    view = View(spread="none", **view)
    return cells(write_paper(paper_table({"tiny": runs}, view=view), "markdown", view=view))


def test_the_best_is_marked_by_the_direction_of_the_score_and_ties_share(several):
    rows = markdown(several)
    assert rows["method"] == ["PCC(ACG) ↑", "PCC(HEG) ↑", "MSE ↓", "MAE ↓"]
    assert rows["mclSTExp"] == ["**0.3100**", "**0.4000**", "<u>0.5000</u>", "**0.2000**"]
    assert rows["ridge"] == ["<u>0.2900</u>", "**0.4000**", "**0.4000**", "<u>0.3000</u>"]


def test_controls_and_oracles_are_last_and_never_marked(several):
    rows = markdown(several)
    assert list(rows)[-2:] == ["mean (control)", "depth (oracle)"]
    assert rows["mean (control)"] == ["0.9000", "0.9000", "0.1000", "0.1000"]


def test_an_incomplete_run_is_shown_with_a_reason_and_does_not_win(several, store):  # noqa: F811
    part, _ = store("knn", done=(0, 1), changes=scores(pcc_acg=0.8, mse=0.0))
    text = write_paper(paper_table({"tiny": [*several, part]}), "text")
    assert "0.8000† ± 0.0000" in text or re.search(r"0\.8000 ± 0\.0000†", text)
    assert "only 2 of 3 folds" in text
    assert "*0.3100*" in text


def test_rows_on_other_folds_are_not_compared(several, store):  # noqa: F811
    other, _ = store("knn", folds_hash="g" * 64, changes=scores(pcc_acg=0.8))
    text = write_paper(paper_table({"tiny": [*several, other]}), "markdown")
    assert "**0." not in text
    assert "different folds" in text


def test_ranks_are_means_over_the_columns(several):
    table = paper_table({"tiny": several})
    rank = {row.label: row.rank for row in table.rows}
    # Ranks in the columns: 1, 1, 2, 1 and 2, 2, 1, 2.
    assert rank["mclstexp"] == pytest.approx(5 / 4)
    assert rank["ridge"] == pytest.approx(7 / 4)
    assert rank["mean"] != rank["mean"]
    assert "mean rank" in write_paper(table, "text", ranks=True)


def test_a_method_is_one_row_over_datasets_unless_its_settings_differ(store):  # noqa: F811
    one, _ = store("ridge", preset="authors")
    two, _ = store("ridge", preset="authors", protocol="b")
    quick, _ = store("ridge", preset="quick", protocol="c")
    table = paper_table({"a": [one], "b": [two, quick]})
    assert sorted(row_names(table.rows)) == ["ridge", "ridge (quick)"]
    assert table.columns[0] == ("a", "pcc_acg")
    assert {dataset for dataset, _ in table.columns} == {"a", "b"}


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("preset", ["quick", "tiny", "changed"])
def test_every_format_says_that_a_preset_is_not_the_authors(store, how, preset):  # noqa: F811
    changed = {"epochs": [90, 1]} if preset == "changed" else None
    run, _ = store("mclstexp", preset="authors" if changed else preset, changed=changed)
    text = write_paper(paper_table({"tiny": [run]}), how)
    assert ("authors*" if changed else preset) in text
    if how != "csv":
        assert ("epochs 1 (authors: 90)" if changed else f"Preset {preset}: small") in text


def test_spread_and_decimals_are_those_asked_for(several):
    text = write_paper(paper_table({"tiny": several}), "text", view=View(decimals=2))
    assert "*0.31* ± 0.00" in text
    view = View(spread="interval", decimals=3)
    assert "*0.310* [0.310, 0.310]" in write_paper(
        paper_table({"tiny": several}), "text", view=view
    )


def test_columns_are_scores_by_name_or_heading(several):
    rows = markdown(several, columns=("MSE", "pcc_acg"))
    assert rows["method"] == ["MSE ↓", "PCC(ACG) ↑"]
    with pytest.raises(UnknownNameError, match="unknown score 'mes'; did you mean mse"):
        paper_table({"tiny": several}, view=View(columns=("mes",)))
    with pytest.raises(UnknownNameError, match="unknown row 'rigde'; did you mean ridge"):
        paper_table({"tiny": several}, view=View(methods=("rigde",)))


def test_methods_are_rows_in_the_order_asked_for(several):
    table = paper_table({"tiny": several}, view=View(methods=("mean", "ridge")))
    assert [row.label for row in table.rows] == ["mean", "ridge"]


# -------------------------------------------------------------------------------- published


def published(*names, protocol="published"):
    table = pd.concat([read_published(name) for name in names])
    return table[table["protocol"] == protocol]


def test_published_numbers_alone_are_the_papers_table():
    numbers = published("her2st", "cscc", "alex10x")
    numbers = numbers[numbers["source"].str.contains("CHRep")]
    text = write_paper(paper_table({}, numbers), "markdown", view=View(spread="none"))
    row = cells(text)["mclSTExp [1]"]
    assert len(row) == 12
    assert row[0] == "**0.2304**"
    assert row[4] == "**0.3235**"
    assert "Published numbers; none was run here." in text
    # Errors on another scale are shown and do not win.
    assert cells(text)["THItoGene [1]"][2] == "0.5012†"
    assert "another scale" in text


def test_published_rows_stand_below_ours_and_share_its_method(store):  # noqa: F811
    ours = [store(name, preset="authors")[0] for name in ("mclstexp", "stnet")]
    table = paper_table({"her2st": ours}, published("her2st"))
    names = row_names(table.rows)
    assert set(names) == {"mclSTExp", "ST-Net", "HisToGene", "Hist2ST", "THItoGene", "BLEEP"}
    kinds = [row.kind for row in table.rows if row.label == "mclstexp"]
    assert kinds == ["method", *["published"] * (len(kinds) - 1)]
    assert len(kinds) > 1


def test_not_comparable_published_numbers_never_beat_ours(store):  # noqa: F811
    ours, _ = store("ridge", changes=scores(mse=0.9))
    better, _ = store("knn", changes=scores(mse=0.8))
    numbers = read_published("her2st").query("method == 'histogene' and score == 'mse'")
    numbers = numbers[numbers["protocol"] == "published"]
    text = write_paper(paper_table({"her2st": [ours, better]}, numbers), "text")
    assert "*0.8000*" in text
    assert "0.5202†" in text


# ------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("label", "name", "key"),
    [
        ("mclstexp", "mclSTExp", "min2024multimodal"),
        ("tuned:stnet", "tuned:ST-Net", "he2020integrating"),
        ("ridge[uni]", "ridge [uni]", "jaume2024hest1k"),
        ("mean", "mean", None),
        ("nobody's", "nobody's", None),
    ],
)
def test_names_and_keys_are_read_from_the_methods(label, name, key):
    printed = printed_method(label)
    assert printed.name == name
    assert (printed.citation.key if printed.citation else None) == key


def test_a_hostile_reference_cannot_write_an_entry_of_its_own():
    text = 'x: y.\n\nEvil} E., "A } @misc{other, title={", Journal % $ 1 (2024).'
    entry = read_citation("x", text).citation.entry()
    assert len(re.findall(r"(?<!\\)@", entry.replace("A \\} @misc", ""))) == 1
    unescaped = re.sub(r"\\[{}]", "", entry)
    assert unescaped.count("{") == unescaped.count("}")


def test_every_method_with_a_paper_has_a_reference():
    for name in ("bleep", "stnet", "histogene", "hist2st", "thitogene", "mclstexp", "triplex"):
        citation = printed_method(name).citation
        assert citation is not None, name
        assert citation.year in citation.key


def test_citations_are_those_of_methods_alone(several):
    keys = [citation.key for citation in citations(paper_table({"tiny": several}))]
    assert sorted(keys) == ["jaume2024hest1k", "min2024multimodal"]


# ---------------------------------------------------------------------------------- command


def test_the_command_writes_a_table_and_its_bibliography(several, tmp_path):
    path = tmp_path / "paper" / "table.tex"
    options = ("--dataset", "tiny", "--layout", "paper", "--results", tmp_path)
    answer = call("tables", *options, "--out", path)
    assert answer.status == 0, answer
    assert answer.stdout.split() == [str(path), str(path.with_suffix(".bib"))]
    text, entries = path.read_text(), path.with_suffix(".bib").read_text()
    cited = set(re.findall(r"\\cite\{([^}]+)\}", text))
    assert cited == set(re.findall(r"@misc\{([^,]+),", entries))
    assert "table.bib" in text.splitlines()[1]
    assert call("tables", *options, "--out", path).status == 0, "our own file is replaced"


def test_a_bibliography_of_the_users_own_is_kept(several, tmp_path):
    mine = tmp_path / "table.bib"
    mine.write_text("@article{mine}")
    path = tmp_path / "table.tex"
    options = ("--dataset", "tiny", "--layout", "paper", "--results", tmp_path, "--out", path)
    answer = call("tables", *options)
    assert answer.status == 2
    assert "is not a bibliography of this program" in answer.stderr
    assert mine.read_text() == "@article{mine}"
    assert not path.exists()
    mine.write_text(f"{MARK}\nold")
    assert call("tables", *options).status == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ranks",), "--ranks belongs to --layout paper"),
        (("--layout", "paper", "--pairs"), "two tables"),
        (("--out", "table.docx"), "name a file ending in"),
        (("--format", "csv", "--decimals", "2"), "full precision"),
        (("--columns", ","), "write names with commas"),
        (("--columns", "nonsense"), "unknown column 'nonsense'"),
        (("--methods", "rigde"), "did you mean ridge"),
        (("--layout", "paper", "--dataset", "tiny,other"), "no run on other"),
        (("--layout", "paper", "--protocol", "x"), "unknown protocol with runs"),
        (("--pairs", "--decimals", "2"), "does not belong to --pairs"),
    ],
)
def test_what_cannot_be_met_is_said_in_a_line(several, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    answer = call("tables", "--dataset", "tiny", "--results", tmp_path, *options)
    assert answer.status == 2
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""
    assert not list(tmp_path.glob("table*"))


def test_datasets_of_a_collection_without_runs_are_left_out_and_named(several, tmp_path):
    (tmp_path / "runs" / "tiny").rename(tmp_path / "runs" / "hest-idc")
    options = ("--dataset", "hest", "--results", tmp_path)
    answer = call("tables", "--layout", "paper", *options)
    assert answer.status == 0, answer
    assert answer.stdout.startswith("hest-idc, protocol strict")
    assert "no run on hest-ccrcc, hest-coad" in answer.stderr
    drawn = call("figures", *options, "--out", tmp_path / "out", "--format", "png")
    assert drawn.stdout.split() == [str(tmp_path / "out" / "summary.png")]


def test_machines_get_a_row_for_each_value(several, tmp_path):
    options = ("--dataset", "tiny", "--layout", "paper", "--results", tmp_path, "--format")
    rows = list(csv.DictReader(io.StringIO(call("tables", *options, "csv").stdout)))
    assert len(rows) == 4 * 4
    (row,) = [r for r in rows if (r["method"], r["score"]) == ("ridge", "mse")]
    assert float(row["value"]) == pytest.approx(0.4, rel=1e-14)
    content = json.loads(call("tables", *options, "json").stdout)
    assert {row["kind"] for row in content["rows"]} == {"method", "control", "oracle"}


def test_nothing_to_show_is_refused():
    with pytest.raises(BenchError, match="no row has any of the scores"):
        paper_table({}, published("her2st"), View(columns=("ssim",)))


# ------------------------------------------------------------------------------ other layouts


@pytest.mark.parametrize("how", ["text", "markdown", "latex", "html"])
def test_a_row_without_preset_column_names_its_preset(store, tmp_path, how):  # noqa: F811
    store("ridge", preset="quick")
    store("knn", preset="authors")
    options = ("--dataset", "tiny", "--results", tmp_path, "--columns", "mse,PCC(ACG)")
    answer = call("tables", *options, "--format", how)
    assert "ridge (quick)" in answer.stdout
    assert "knn (authors)" not in answer.stdout
    assert answer.stdout.index("MSE") < answer.stdout.index("PCC(ACG)")
    assert "MAE" not in answer.stdout


def test_all_columns_are_shown_however_narrow(several, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    options = ("tables", "--dataset", "tiny", "--results", tmp_path)
    assert "Hidden in 60 characters" in call(*options).stdout
    whole = call(*options, "--columns", "all").stdout
    assert "Hidden" not in whole
    assert "pooled PCC(ACG)" in whole


def test_rows_digits_and_spread_of_the_plain_table(several, tmp_path):
    options = ("tables", "--dataset", "tiny", "--results", tmp_path, "--methods", "ridge")
    text = call(*options, "--decimals", "2", "--spread", "none").stdout
    assert "mclstexp" not in text
    assert "±" not in text
    assert " 0.29 " in text
    assert "0.2900 [0.2900, 0.2900]" in call(*options, "--spread", "interval").stdout


def test_in_markdown_a_source_has_the_number_that_rows_name_it_by():
    published = read_published("her2st").query("protocol == 'published'")
    table = paper_table({}, published)
    text = write_paper(table, "markdown")
    listed = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    for row, line in zip(table.rows, [x for x in text.splitlines() if "[" in x], strict=False):
        number = re.search(r"\[(\d+)\]", line)[1]
        assert listed[number] == f"{row.source}."
