"""Tables, lines and bars of a terminal."""

import pytest

from bench.cli.display import ProgressDisplay
from bench.cli.terminal import print_rows, say_wrapped


def test_numbers_are_aligned_to_the_right(capsys):
    rows = [
        {"name": "a", "spots": "7", "size": "2.0 MB", "from": "1 place"},
        {"name": "b", "spots": "1,234", "size": "985.2 kB", "from": "2"},
        {"name": "c", "spots": "-", "size": "-", "from": "3"},
    ]
    print_rows("", rows, 80)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line[:34].rstrip() for line in lines if line.lstrip()[0] in "abc"] == [
        "  a          7     2.0 MB   1 plac",
        "  b      1,234   985.2 kB   2",
        "  c          -          -   3",
    ]


def test_long_lines_are_broken_between_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    say_wrapped("ok    packages: " + ", ".join(f"long-name{n} 1.2" for n in range(12)), 6)
    first, *others = capsys.readouterr().out.splitlines()
    assert len(others) > 1
    assert max(map(len, [first, *others])) <= 60
    assert all(line.startswith("      ") and line[6] != " " for line in others)
    assert not any(line.endswith("-") for line in [first, *others])


@pytest.mark.parametrize("style", ["progress.elapsed", "progress.remaining", "progress.download"])
def test_numbers_beside_bars_have_the_colour_of_text(style):
    colour = ProgressDisplay().console.get_style(style).color
    assert colour is None or colour.is_default


@pytest.mark.parametrize("width", [20, 80])
def test_no_heading_is_cut_however_narrow_the_terminal(capsys, width):
    print_rows("", [{"section": "S" * 30, "pitch\npx": "50.0", "missing": "image, labels"}], width)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["section", "px", "missing"] for line in lines)
    assert any("S" * 30 in line for line in lines)
