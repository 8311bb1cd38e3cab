"""Tables: the numbers in them, their order, their formats, and what they have to admit."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from bench.evaluate.scores import SCORES as SCORES_DECLARED
from bench.evaluate.uncertainty import bootstrap_interval
from bench.files import canonical_hash, write_json
from bench.report.footnotes import footnotes
from bench.report.tables import for_people, newest, render, score_table
from bench.store import run_folder
from bench.stored_runs import stored_run, stored_runs
from tests.cli.tiny_dataset import call_process

SCORES = ("pcc_acg", "pcc_heg", "mse", "mae")


def scores_of_fold(label, fold, sections, generator, changes):
    rows = []
    for section in sections:
        values = dict(zip(SCORES, generator.normal(size=4), strict=True))
        values |= {"undefined_acg": 0.0, "undefined_heg": 0.0, **changes.get(section, {})}
        rows += [(label, fold, section, section[0], 30, 40, *pair) for pair in values.items()]
    for score in ("pooled_pcc_acg", "pooled_pcc_heg"):
        rows.append((label, fold, "", "", 60, 40, score, generator.normal()))
    columns = ("method", "fold", "section", "patient", "spots", "genes", "score", "value")
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def store(tmp_path):
    """Stores runs with made-up scores; gives the run and all its scores."""

    def make(
        label,
        kind="method",
        *,
        done=(0, 1, 2),
        changes=None,
        notes=None,
        key=None,
        seed=0,
        changed=None,
        **facts,
    ):
        facts = {
            **({} if changed is None else {"changes": changed}),
            "label": label,
            "kind": kind,
            "preset": "-",
            "seed": seed,
            "config": {},
            "dataset": "tiny",
            "protocol": "strict",
            "protocol_hash": "p" * 64,
            "folds_hash": "f" * 64,
            "n_folds": 3,
            "left_out": {},
            "created": "2020-01-01",
            **facts,
        }
        key = key or canonical_hash(facts)
        folder = run_folder(tmp_path, "tiny", facts["protocol"], label, key)
        folder.describe(facts)
        tables = []
        for index in done:
            generator = np.random.default_rng([seed, index, *label.encode()])
            fold = folder.fold(index)
            sections = [f"{'ABC'[index]}{number}" for number in (1, 2)]
            tables.append(scores_of_fold(label, index, sections, generator, changes or {}))
            fold.path.mkdir(parents=True)
            fold.write_table("scores.parquet", tables[-1])
            timings = {"timings": {"fit_seconds": 1.5 + index}, "notes": (notes or {}).get(index)}
            write_json(fold.path / "fold.json", {**timings, "notes": timings["notes"] or []})
            fold.finish("fit", "score")
        return stored_run(folder), pd.concat(tables) if tables else pd.DataFrame()

    return make


def score(value):
    """Changes that give every section this PCC(ACG)."""
    return {f"{patient}{number}": {"pcc_acg": value} for patient in "ABC" for number in (1, 2)}


# -------------------------------------------------------------------------------- numbers


def test_means_and_deviations_are_those_over_sections(store):
    run, scores = store("method")
    row = score_table([run]).iloc[0]
    for name in SCORES:
        values = scores.loc[(scores["score"] == name) & (scores["section"] != ""), "value"]
        assert len(values) == 6
        assert row[name] == pytest.approx(sum(values) / 6, rel=1e-14)
        mean = sum(values) / 6
        by_hand = (sum((value - mean) ** 2 for value in values) / 5) ** 0.5
        assert row[f"{name}_sd"] == pytest.approx(by_hand, rel=1e-12)
    assert (row["folds"], row["n_folds"], row["sections"]) == (3, 3, 6)
    assert row["fit_seconds"] == pytest.approx(1.5 + 2.5 + 3.5)


def test_sections_count_alike_however_they_lie_in_folds(store):
    changes = {"A1": {"mse": 6.0}, "A2": {"mse": 0.0}, "B1": {"mse": 0.0}, "B2": {"mse": 0.0}}
    run, _ = store("method", done=(0, 1), changes=changes)
    assert score_table([run])["mse"].item() == pytest.approx(1.5)


def test_pooled_correlation_stands_under_its_own_name(store):
    run, scores = store("method")
    row = score_table([run]).iloc[0]
    for name in ("pooled_pcc_acg", "pooled_pcc_heg"):
        values = scores.loc[scores["score"] == name, "value"]
        assert row[name] == pytest.approx(values.mean(), rel=1e-14)
    assert row["pcc_acg"] != pytest.approx(row["pooled_pcc_acg"])


def test_correlations_are_shown_as_a_share_of_their_ceiling(store):
    ceilings = {f"{p}{n}": {"ceiling_acg": 0.8, "ceiling_heg": 0.0} for p in "ABC" for n in (1, 2)}
    changes = {name: {"pcc_acg": 0.2, **ceiling} for name, ceiling in ceilings.items()}
    run, _ = store("method", changes=changes)
    row = score_table([run]).iloc[0]
    assert row["pcc_acg_share"] == pytest.approx(0.25)
    assert np.isnan(row["pcc_heg_share"])
    assert " 25 % " in render([run], "text")
    assert any(note.startswith("Ceiling") for note in footnotes([run], score_table([run])))


def test_intervals_are_those_of_the_bootstrap_over_patients(store):
    run, scores = store("method")
    row = score_table([run]).iloc[0]
    part = scores[(scores["score"] == "mse") & (scores["section"] != "")]
    wanted = bootstrap_interval(part["value"].to_numpy(), part["patient"].to_list())
    assert (row["mse_low"], row["mse_high"]) == wanted
    (note,) = [n for n in footnotes([run], score_table([run])) if n.startswith("95 % interval")]
    assert "fewer than 6 patients" in note


def test_undefined_scores_are_left_out_of_means_and_counted(store):
    changes = {"A1": {"pcc_acg": np.nan, "undefined_acg": 40.0}, "C2": {"undefined_acg": 2.0}}
    run, scores = store("method", changes=changes)
    row = score_table([run]).iloc[0]
    values = scores.loc[(scores["score"] == "pcc_acg") & (scores["section"] != ""), "value"]
    assert values.isna().sum() == 1
    assert row["pcc_acg"] == pytest.approx(np.nanmean(values))
    assert row["undefined"] == 42


def test_one_section_has_no_deviation(store):
    run, scores = store("method", done=(0,))
    fold = run.folder.fold(0)
    one = scores[scores["section"].isin(["A1", ""])]
    (fold.path / "manifest.json").unlink()
    fold.write_table("scores.parquet", one)
    fold.finish("fit", "score")
    table = score_table([stored_run(run.folder)])
    assert table["sections"].item() == 1
    assert np.isnan(table["mse_sd"].item())
    assert "nan" not in render([run], "text").lower()


def test_run_without_a_finished_fold_is_an_empty_row(store):
    run, _ = store("method", done=())
    table = score_table([run])
    assert table["folds"].item() == 0
    assert np.isnan(table["pcc_acg"].item())
    for how in ("text", "markdown", "latex", "csv", "json"):
        assert "method" in render([run], how)
    assert "0/3" in render([run], "text")


def test_no_run_gives_an_empty_table():
    table = score_table([])
    assert table.empty
    assert {"method", "pcc_acg", "mse_sd"} <= set(table.columns)
    for how in ("text", "markdown", "latex", "csv", "json"):
        assert isinstance(render([], how), str)


# ---------------------------------------------------------------------------------- order


def test_best_method_comes_first_and_oracles_last(store):
    runs = [
        store("depth", "oracle", changes=score(0.9))[0],
        store("mean", "control", changes=score(np.nan))[0],
        store("worse", changes=score(0.1))[0],
        store("best", changes=score(0.5))[0],
        store("shuffled:best", "control", changes=score(-0.1))[0],
    ]
    wanted = ["best", "worse", "shuffled:best", "mean", "depth"]
    assert score_table(runs)["method"].tolist() == wanted
    assert score_table(runs[::-1])["method"].tolist() == wanted
    shown = [line.split()[0] for line in render(runs, "text").splitlines()[2:7]]
    assert shown == wanted


def test_ties_are_ordered_by_name(store):
    runs = [store(name, changes=score(0.25))[0] for name in ("b", "c", "a")]
    assert score_table(runs)["method"].tolist() == ["a", "b", "c"]


def test_oracles_and_controls_are_marked(store):
    runs = [store("depth", "oracle")[0], store("mean", "control")[0], store("mine")[0]]
    for how in ("text", "markdown", "latex"):
        text = render(runs, how)
        assert "depth (oracle)" in text
        assert "mean (control)" in text
        assert "mine (" not in text
    assert any(note.startswith("Oracle (depth)") for note in _notes(runs))


def test_rows_on_other_data_are_told_apart(store):
    runs = [store("mine", key=40 * letter)[0] for letter in "ab"]
    for run, of in zip(runs, "ab", strict=True):
        run.facts["tables_hash"] = 40 * of
    assert newest(runs) == runs
    text = render(runs, "text")
    assert "data hash" in text
    assert 12 * "a" in text
    assert 12 * "b" in text
    assert any(note.startswith("Rows with different data") for note in _notes(runs))
    runs[1].facts["tables_hash"] = runs[0].facts["tables_hash"]
    assert len(newest(runs)) == 1


def test_a_score_of_the_page_is_in_no_narrow_table_and_in_machine_formats(store):
    run, _ = store("mine", changes={name: {"ccc_acg": 0.25} for name in score(0)})
    table = score_table([run])
    assert (table["ccc_acg"].item(), table["ccc_acg_sd"].item()) == (0.25, 0.0)
    assert "CCC" not in render([run], "text") + render([run], "markdown")
    assert list(for_people(table, "page")["CCC(ACG)"]) == ["0.2500 ± 0.0000"]
    told = json.loads(render([run], "json"))
    assert told["rows"][0]["ccc_acg"] == 0.25
    assert any(note.startswith("CCC(ACG): Lin's") for note in told["footnotes"])
    assert not any("CCC" in note for note in footnotes([run], table))


def test_every_declared_place_is_kept(store):
    table = score_table([store("mine")[0]])
    for declared in SCORES_DECLARED:
        assert (declared.shown_as in table) == declared.is_in("machine")
        for place in ("text", "page"):
            shown = for_people(table, place)
            assert (declared.heading in shown) == declared.is_in(place)


def test_a_share_that_rounds_to_nothing_has_no_sign(store):
    sections = score(0)
    tiny = {name: {"pcc_acg": -0.001, "ceiling_acg": 0.5} for name in sections}
    assert "-0 %" not in render([store("mine", changes=tiny)[0]], "text")


def _notes(runs):
    """Footnotes without the two that explain columns every table has."""
    notes = footnotes(runs, score_table(runs))
    return [note for note in notes if not note.startswith(("95 % interval", "Ceiling"))]


# -------------------------------------------------------------------------------- formats


@pytest.fixture
def several(store):
    """Runs of every kind."""
    return [
        store("one_two", changes={"A1": {"undefined_acg": 3.0}})[0],
        store("depth", "oracle", changes={s: {"mse": np.nan, "mae": np.nan} for s in score(0)})[0],
        store("unfinished", done=(0, 2), preset="quick")[0],
    ]


def test_csv_keeps_every_bit(several):
    table = score_table(several)
    found = pd.read_csv(io.StringIO(render(several, "csv")), float_precision="round_trip")
    assert list(found.columns) == list(table.columns)
    for name in table.columns:
        if table[name].dtype == np.float64:
            np.testing.assert_array_equal(found[name].to_numpy(), table[name].to_numpy())
        else:
            assert found[name].astype(str).tolist() == table[name].astype(str).tolist()


def test_json_keeps_every_bit(several):
    table = score_table(several)
    content = json.loads(render(several, "json"))
    assert set(content) == {"rows", "footnotes"}
    assert content["footnotes"] == footnotes(several, score_table(several))
    for row, (_, wanted) in zip(content["rows"], table.iterrows(), strict=True):
        assert list(row) == list(table.columns)
        for name, value in row.items():
            assert value == (None if pd.isna(wanted[name]) else wanted[name]), name


def test_markdown_is_a_table(several):
    lines = render(several, "markdown", title="tiny").splitlines()
    assert lines[0] == "### tiny"
    rows = [line for line in lines if line.lstrip().startswith("|")]
    assert len(rows) == 2 + len(several)
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    assert len({len(row) for row in cells}) == 1
    assert cells[0][0] == "method"
    assert all(re.fullmatch(r":?-+:?", cell) for cell in cells[1])
    start = lines.index(rows[0])
    assert lines[start : start + len(rows)] == rows, "no line may stand between the rows"
    assert lines[start - 1] == ""
    assert lines[start + len(rows)] == ""


def test_latex_is_balanced_and_escaped(several):
    text = render(several, "latex", title="tiny, protocol strict_2")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    begun = re.findall(r"\\begin\{(\w+)\}", body)
    assert sorted(begun) == sorted(re.findall(r"\\end\{(\w+)\}", body))
    assert "tabular" in begun
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", body)[1]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(several)
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    outside_maths = re.sub(r"\$[^$]*\$", "", body)
    assert not re.search(r"(?<!\\)[_%#]", outside_maths)
    assert r"one\_two" in body
    assert body.isascii()
    notes = re.findall(r"^\d+\.~.*\\par$", text, re.MULTILINE)
    assert len(notes) == 1 + len(footnotes(several, score_table(several)))


def test_text_has_one_line_a_run_and_numbered_notes(several):
    lines = render(several, "text", title="tiny").splitlines()
    assert lines[0] == "tiny"
    for run in several:
        assert sum(line.startswith(f"  {run.facts['label']}") for line in lines) == 1
    numbers = [re.match(r"(\d+)\. ", line) for line in lines]
    notes = footnotes(several, score_table(several))
    assert [int(m[1]) for m in numbers if m] == list(range(1, len(notes) + 2))
    assert any(line.startswith("1. Scores: mean over test sections ±") for line in lines)
    assert max(map(len, lines[:8])) < 300


def test_long_names_are_not_cut(store):
    label = "a_method_with_a_name_" + "x" * 60
    run, _ = store(label, folds_hash="f" * 64)
    other, _ = store(label, seed=7, folds_hash="e" * 64)
    for how in ("text", "markdown", "latex"):
        text = render([run, other], how).replace("\\", "")
        assert text.count(label) >= 2
        assert "…" not in text


@pytest.mark.parametrize("how", ["text", "markdown", "latex", "csv", "json"])
def test_rendering_twice_gives_the_same(several, how):
    first = render(several, how, title="tiny")
    assert render(several, how, title="tiny") == first
    assert render(several[::-1], how, title="tiny") == first
    assert "\x1b" not in first


# ------------------------------------------------------------------------------ footnotes


def test_what_the_audit_found_and_what_the_protocol_says_stand_under_the_table(store):
    found = [{"kind": "patient", "message": "some patient is on both sides"}]
    published, _ = store("method", audit=found, footnotes=["A word of the protocol."])
    strict, _ = store("other", audit=[], footnotes=[])
    wanted = ["Same-patient leak: some patient is on both sides.", "A word of the protocol."]
    assert _notes([published, strict])[:2] == wanted
    assert _notes([strict]) == []
    for how in ("text", "markdown", "latex", "json"):
        text = render([published], how)
        for note in wanted:
            assert note in text


def test_missing_folds_are_named(store):
    run, _ = store("method", done=(0, 2))
    (note,) = _notes([run])
    assert "method" in note
    assert "2 of 3 folds" in note
    assert re.search(r"fold 1\b", note)


def test_undefined_genes_are_explained_only_where_there_are_any(store):
    with_some, _ = store("some", changes={"A1": {"undefined_acg": 1.0}})
    without, _ = store("none")
    assert any(note.startswith("Undefined") for note in _notes([with_some]))
    assert _notes([without]) == []


@pytest.mark.parametrize(
    ("presets", "words"),
    [(("quick",), "not the authors'"), (("quick", "authors"), "not comparable"), (("-",), None)],
)
def test_quick_preset_is_told(store, presets, words):
    runs = [store("method", preset=preset)[0] for preset in presets]
    notes = [note for note in _notes(runs) if "quick" in note]
    assert len(notes) == (words is not None)
    if words:
        assert words in notes[0]
    if len(presets) > 1:
        text = render(runs, "text")
        assert "authors" in text
        assert "quick" in text


def test_rows_on_different_folds_are_told_apart(store):
    runs = [store("method", folds_hash=letter * 64)[0] for letter in "ab"]
    text = render(runs, "text")
    assert "aaaaaaaaaaaa" in text
    assert "bbbbbbbbbbbb" in text
    (note,) = [note for note in _notes(runs) if "different folds" in note]
    heading = re.search(r"see the (.+) column", note)[1]
    assert text.splitlines()[0].strip().endswith(heading)
    shown = next(line for line in text.splitlines() if "aaaaaaaaaaaa" in line)
    assert shown.split()[-1] == "aaaaaaaaaaaa"


def test_rows_of_different_seeds_are_told_apart(store):
    runs = [store("method", seed=3)[0], store("other", seed=4)[0]]
    lines = render(runs, "text").splitlines()
    assert "seed" in lines[0]
    assert sorted(line.split()[-1] for line in lines[2:4]) == ["3", "4"]


def test_rows_of_different_settings_are_told_apart(store):
    runs = [store("method", config={"epochs": epochs})[0] for epochs in (1, 2)]
    lines = render(runs, "text").splitlines()
    keys = {run.facts["key"][:12] for run in runs}
    assert {line.split()[-1] for line in lines[2:4]} == keys


def test_notes_of_a_fit_reach_the_table(store):
    run, _ = store("method", notes={1: ["training ended at chance"]})
    assert "method, fold 1: training ended at chance." in _notes([run])


def test_left_out_sections_are_told(store):
    left_out = {f"S{number}": f"image S{number}.jpg is missing" for number in range(12)}
    run, _ = store("method", left_out=left_out)
    (note,) = _notes([run])
    assert note.startswith("12 sections were left out (S0, S1")
    assert "S11" in note
    assert "S0.jpg is missing" in note


# --------------------------------------------------------------------------- stored runs


def test_newest_of_runs_that_differ_in_code_alone(store, tmp_path):
    store("method", created="2020-01-02", key="a" * 64)
    store("method", created="2020-01-03", key="b" * 64)
    store("method", created="2020-01-01", key="c" * 64)
    store("method", created="2019-01-01", key="d" * 64, config={"epochs": 3})
    kept = newest(stored_runs(tmp_path, "tiny", "strict"))
    assert sorted(run.facts["key"][0] for run in kept) == ["b", "d"]


FORMATS = ("text", "csv", "markdown", "latex", "html", "json")
PROGRAM = """
import sys
from bench.cli import main

arguments = sys.argv[1:]
for how in {formats}:
    sys.argv = ["bench", *arguments, "--format", how]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    print("----")
heavy = {{"torch", "lightning", "scanpy", "mlflow", "timm"}} & set(sys.modules)
print("heavy:", sorted(heavy), file=sys.stderr)
"""


def test_command_prints_the_table_without_loading_torch(store, tmp_path):
    runs = [store("mine")[0], store("depth", "oracle")[0]]
    program = tmp_path / "modules.py"
    program.write_text(PROGRAM.format(formats=FORMATS))
    answer = call_process(
        *("tables", "--dataset", "tiny", "--results", tmp_path),
        env={"COLUMNS": "100"},
        program=(str(program),),
    )
    assert answer.status == 0
    assert answer.stderr == "heavy: []\n"
    *printed, rest = answer.stdout.split("----\n")
    assert rest == ""
    for how, text in zip(FORMATS, printed, strict=True):
        width = {"text": 100, "latex": 130}.get(how, 0)
        wanted = render(runs, how, title="tiny, protocol strict", width=width)
        assert text.strip() == wanted.strip()


def test_a_narrow_terminal_gets_what_fits_and_the_names_of_what_does_not(several):
    whole = render(several, "text")
    for width in (80, 110, 150):
        text = render(several, "text", width=width)
        table = text.split("\n\n")[0]
        assert max(map(len, table.splitlines())) <= width
        if max(map(len, whole.split("\n\n")[0].splitlines())) > width:
            assert f"Hidden in {width} characters: pooled PCC(ACG)" in text
            assert "'bench tables --columns all' shows all" in " ".join(text.split())
    assert "Hidden" not in whole


def test_deviations_give_way_and_then_the_last_columns(several):
    for width in (50, 60, 70):
        text = render(several, "text", width=width)
        table = text.split("\n\n")[0]
        assert max(map(len, table.splitlines())) <= width
        assert "PCC(ACG)" in table
        assert "±" not in text
        assert "standard deviations; 'bench tables" in " ".join(text.split())


def test_missing_folds_are_shown_however_narrow_the_terminal_is(several):
    assert "2/3" in render(several, "text", width=60)
    whole = [run for run in several if len(run.done) == 3]
    assert "3/3" not in render(whole, "text", width=60)


def test_what_the_data_left_out_is_said_once_for_all_methods(several, monkeypatch):
    counts = {"dropped_spots": {"A1": 2}, "unmeasured_genes": {"B1": 3, "B2": 1}}
    monkeypatch.setattr("bench.store.FoldFolder.facts", lambda self: counts)
    text = render(several, "text")
    assert text.count("Spots outside the image were left out (A1 2).") == 1
    assert text.count("did not measure count as zero there (B1 3, B2 1).") == 1
