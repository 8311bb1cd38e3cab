"""YAML of plain values: what is read, and what is refused in one line."""

import re

import pytest

from bench.errors import DataError
from bench.yaml_files import parse_yaml, read_yaml


def growing(levels):
    """Aliases of aliases: 10 to the power of `levels` scalars in a few hundred characters."""
    lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
    ten = [", ".join([f"*a{level}"] * 10) for level in range(levels)]
    lines += [f"a{level}: &a{level} [{ten[level - 1]}]" for level in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "key 'a' appears twice, in lines 1 and 3"),
        ("x:\n- {k: 1,\n   k: 1}", "key 'k' appears twice, in lines 2 and 3"),
        ("yes: 1\ntrue: 2", "appears twice"),
        ("a: &a {k: 1, k: 2}\nb: *a", "key 'k' appears twice"),
        ("<<: {a: 1}\n<<: {b: 2}", "key '<<' appears twice"),
        (growing(9), "line 6: aliases repeat more than 1,000,000 characters"),
        ("a: &a [1, *a]", "contains itself"),
        ("a: *a", "undefined alias at line 1"),
        ("\n".join(["a0: &a0 []", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 90))]), "nested"),
        ("[" * 60 + "]" * 60, "nested more than 50 levels"),
        ("[" * 100_000, "nested more than 50 levels"),
        ('a: "\\e[2J"', r"line 1: control character \x1b"),
        ('a: "\\ud800"', "invalid Unicode"),
        ("a: \udcff", "surrogates not allowed"),
        ("a: \x1b", "not allowed"),
        ("{a: [}", "line 1"),
        ("!!bool x", "malformed value"),
        ("!!timestamp 2020-01-01", "could not determine a constructor"),
        ("!!binary eA==", "could not determine a constructor"),
        ("!!set {a, b}", "could not determine a constructor"),
        ("[[1]: 2]", "unhashable key"),
        ("!!python/object/apply:os.getcwd []", "constructor"),
        ("9" * 5000, "digits"),
        ("a: 1\n---\nb: 2", "single document"),
    ],
)
def test_a_yaml_text_that_is_refused(text, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        parse_yaml(text)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: [1.5, x, null]", {"a": 1, "b": [1.5, "x", None]}),
        ("a: &a {x: 1}\nb: *a", {"a": {"x": 1}, "b": {"x": 1}}),
        (
            "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}",
            {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}},
        ),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("a: 2020-01-31\nb: 2020-13-45", {"a": "2020-01-31", "b": "2020-13-45"}),
        ("'1': a\n1: b", {"1": "a", 1: "b"}),
        ("[" * 50 + "]" * 50, None),
    ],
)
def test_a_yaml_text_that_is_read(text, value):
    found = parse_yaml(text)
    assert value is None or found == value


def test_a_yaml_file_that_is_refused_is_named(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(
        DataError, match=r"card\.yaml: not a readable .*'a' appears twice, in lines"
    ):
        read_yaml(path)
