"""Presets whose settings were changed: the mark, the footnote, and every format."""

from __future__ import annotations

import csv
import io
import json

import pytest

from bench.report.footnotes import footnotes
from bench.report.pairs import render_pairs
from bench.report.presets import preset_note, shown_preset, used_values
from bench.report.tables import render, score_table
from tests.report.test_tables import store  # noqa: F401

CHANGED = {
    "preset": "authors",
    "config": {"epochs": 1, "encoder": "lcnet_050", "lr": 0.1},
    "changes": {"encoder": ["densenet121", "lcnet_050"], "epochs": [90, 1]},
}
STORED = {"changed" if name == "changes" else name: value for name, value in CHANGED.items()}
NOTE = (
    "mclstexp: authors* = preset authors with encoder lcnet_050 (authors: densenet121), epochs 1"
    " (authors: 90)."
)


@pytest.mark.parametrize(
    ("facts", "shown", "used", "note"),
    [
        ({"preset": "authors"}, "authors", {}, ""),
        ({"preset": "authors", "changes": {}}, "authors", {}, ""),
        ({"preset": "authors", "changes": None}, "authors", {}, ""),
        (CHANGED, "authors*", {"epochs": 1, "encoder": "lcnet_050"}, NOTE),
        (
            {"preset": "quick", "changes": {"patience": [None, 3]}},
            "quick*",
            {"patience": 3},
            "mclstexp: quick* = preset quick with patience 3 (quick: none).",
        ),
        (
            {"preset": "-", "changes": {"neighbours": [6, 3]}},
            "default*",
            {"neighbours": 3},
            "mclstexp: default* = default settings with neighbours 3 (default: 6).",
        ),
        (
            {
                "preset": "authors",
                "config": {"epochs": 5, "lr": 0.1, "k": 2},
                "changes": {"epochs": [90, 5]},
                "tuned": {
                    "0": {"epochs": 5, "lr": 0.2, "k": 2},
                    "2": {"epochs": 5, "lr": 0.3, "k": 2},
                },
            },
            "authors*",
            {"epochs": 5, "lr": {"0": 0.2, "2": 0.3}},
            "mclstexp: authors* = preset authors, tuned in each fold: epochs 5 (authors: 90),"
            " lr by fold (authors: 0.1).",
        ),
        (
            {"preset": "authors", "config": {"lr": 0.1}, "tuned": {"0": {"lr": 0.1}}},
            "authors",
            {},
            "",
        ),
    ],
)
def test_a_changed_preset_has_a_star_and_a_footnote(facts, shown, used, note):
    facts = {"label": "mclstexp", "key": "k" * 64, **facts}
    assert shown_preset(facts) == shown
    assert used_values(facts) == used
    assert preset_note(facts) == note


def test_a_long_list_of_changes_is_cut():
    changes = {f"setting_{n}": [None, "x" * 1000] for n in range(40)}
    note = preset_note({"label": "m", "preset": "quick", "changes": changes, "key": "k"})
    assert "and 28 more" in note
    assert len(note) < 1500


def test_every_format_shows_the_changes(store):  # noqa: F811
    run, _ = store("mclstexp", **STORED)
    plain, _ = store("ridge", preset="authors")
    runs = [run, plain]
    table = score_table(runs)
    assert dict(zip(table["method"], table["preset"], strict=True)) == {
        "mclstexp": "authors*",
        "ridge": "authors",
    }
    assert NOTE in footnotes(runs, table)
    for how in ("text", "markdown", "latex", "html"):
        text = render(runs, how)
        assert "authors*" in text
        assert NOTE.replace("_", r"\_" if how == "latex" else "_") in text
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(render(runs, "csv")))}
    assert rows["mclstexp"]["preset"] == "authors*"
    assert json.loads(rows["mclstexp"]["changes"]) == {"epochs": 1, "encoder": "lcnet_050"}
    assert json.loads(rows["ridge"]["changes"]) == {}
    content = json.loads(render(runs, "json"))
    found = {row["method"]: (row["preset"], row["changes"]) for row in content["rows"]}
    assert found == {
        "mclstexp": ("authors*", {"epochs": 1, "encoder": "lcnet_050"}),
        "ridge": ("authors", {}),
    }
    assert NOTE in content["footnotes"]


@pytest.mark.slow
def test_pairs_name_the_changed_row(store):  # noqa: F811
    run, _ = store("mclstexp", **STORED)
    plain, _ = store("ridge", preset="authors")
    for how in ("text", "markdown", "csv"):
        assert "mclstexp (authors*)" in render_pairs([run, plain], how)
    assert NOTE in render_pairs([run, plain], "text")
    assert NOTE in json.loads(render_pairs([run, plain], "json"))["footnotes"]


def test_changed_rows_of_one_method_are_told_apart_by_their_runs(store):  # noqa: F811
    runs = [
        store("mclstexp", preset="authors", config={"epochs": n}, changed={"epochs": [90, n]})[0]
        for n in (1, 2)
    ]
    table = score_table(runs)
    notes = [note for note in footnotes(runs, table) if "authors* =" in note]
    assert len(notes) == 2
    for row, note in zip(table.to_dict("records"), notes, strict=True):
        assert note.startswith(f"mclstexp (run {row['key']}): authors*")
    assert "run" in render(runs, "text").splitlines()[0].split()


def test_quick_rows_are_told_even_when_changed(store):  # noqa: F811
    run, _ = store("mclstexp", preset="quick", changed={"epochs": [4, 1]})
    assert any(note.startswith("Preset quick: ") for note in footnotes([run], score_table([run])))
