"""Odd names in tables of every format: whole, on one line, escaped where the format asks for it."""

import csv
import io
import json

import pandas as pd
import pytest

from bench.cli.terminal import say
from bench.files import printable
from bench.report.formats import write_table

ODD = [
    *("GO [/x]", "[bold]red", ":smile:", "a|b", "<b>", r"$\frac{$", "Größe_λ", "a" * 300),
    *("two\nlines", "tab\there", "\x1b[31mred", "\u202egnirts", "\ud800", "a_b & \\input{x} ^~ #%"),
]
FORMULAS = ["=1+1", "+1", "-x", "@SUM(1)", "\t=1"]


def written(name, how):
    table = pd.DataFrame({"gene": [name], "pcc": [0.5]})
    return write_table(table, table.astype(str), [f"note of {name}"], how, title=f"for {name}")


@pytest.mark.parametrize("name", [*ODD, *FORMULAS])
@pytest.mark.parametrize("how", ["text", "markdown"])
def test_text_shows_a_name_as_it_is(name, how):
    shown = printable(name)
    if how == "markdown":
        shown = shown.replace("|", r"\|").replace("<", r"\<")
    assert shown in written(name, how)


def test_markdown_has_no_element_of_a_name():
    text = written("<script>a</script>", "markdown")
    assert text.count(r"\<script>a\</script>") == 3  # in title, cell and note
    assert text.count("<") == 6


@pytest.mark.parametrize("name", ODD)
def test_csv_holds_a_name_as_it_is(name):
    _, row = csv.reader(io.StringIO(written(name, "csv")))
    assert row == [printable(name), "0.5"]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_in_csv_is_a_text(name):
    _, row = csv.reader(io.StringIO(written(name, "csv")))
    assert row == [f"'{printable(name)}", "0.5"]


@pytest.mark.parametrize("value", ["-", "", "a=1", -1.5])
def test_what_is_no_formula_in_csv_stays(value):
    _, row = csv.reader(io.StringIO(written(value, "csv")))
    assert row[0] == str(value)


@pytest.mark.parametrize("name", ODD)
def test_json_holds_a_name_exactly(name):
    assert json.loads(written(name, "json"))["rows"][0]["gene"] == name


@pytest.mark.parametrize("name", [*ODD, *FORMULAS])
def test_latex_has_a_name_on_one_line_and_no_command_of_it(name):
    lines = written(name, "latex").split("\n")
    (row,) = [line for line in lines if line.endswith(r"0.5 \\")]
    assert not any("\\input" in line for line in lines)
    assert sum(line.startswith("1.~note of") for line in lines) == 1
    assert all(line.isprintable() for line in lines)
    assert row.count("&") - row.count(r"\&") == 1


@pytest.mark.parametrize("name", ODD)
def test_a_line_on_the_terminal_holds_no_control_characters(name, capsys):
    say(f"gene {name}: found")
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"gene {printable(name)}: found"
