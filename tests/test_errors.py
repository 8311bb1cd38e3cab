"""Messages of errors."""

import pytest

from bench.cli.terminal import complain
from bench.errors import UnknownNameError, near_names

GENES = [f"GENE{number}" for number in range(20_000)]


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("erbb2", ["ERBB2", "ACTB"], "did you mean ERBB2?"),
        ("ERBB2", ["erbb2", "actb"], "did you mean erbb2?"),
        ("xyz", ["mean", "ridge"], "known: mean, ridge"),
        ("xyz", [], "none is known"),
        ("xyz", GENES, "none of the 20,000 known names is similar"),
    ],
)
def test_an_unknown_name_is_answered_by_the_nearest_names(name, known, words):
    assert str(UnknownNameError("gene", name, known)) == f"unknown gene '{name}'; {words}"


def test_at_most_five_names_are_offered():
    assert len(near_names("gene123", GENES)) == 5
    assert near_names("gene123", GENES)[0] == "GENE123"


def test_the_command_that_lists_the_names_is_named():
    message = str(UnknownNameError("method", "zzzz", [f"method_{n}" for n in range(30)]))
    assert message.endswith("is similar; 'bench list methods' lists them")


def test_a_long_name_is_cut():
    assert len(str(UnknownNameError("gene", "x" * 10_000, GENES))) < 200


def test_complaints_are_one_printable_line(capsys):
    complain("bad \udcff name \x1b[2J\nsecond  line")
    assert capsys.readouterr().err == "bench: bad \\udcff name \\x1b[2J second  line\n"
    complain("x" * 100_000)
    assert len(capsys.readouterr().err) < 5000
