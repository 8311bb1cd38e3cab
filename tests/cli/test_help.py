"""Looks and words of the help: panels, examples, width, colours."""

import re
import shlex

import pytest
from typer import rich_utils
from typer.testing import CliRunner

from bench.cli import app, program
from bench.cli.help_pages import COMMANDS, WIDEST
from tests.cli.tiny_dataset import call

PROGRAM = program()


def commands(command=PROGRAM, path=()):
    """(path, command) of the program, its groups and commands, without hidden ones."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, (*path, name))


EVERY = dict(commands())
IDS = [" ".join(path) or "bench" for path in EVERY]


def shown(path, columns=80):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        result = call(*path, "--help")
    assert result.status == 0
    return result.stdout


def test_each_command_stands_in_one_panel():
    placed = [name for names in COMMANDS.values() for name in names]
    assert sorted(placed) == sorted(path[0] for path in EVERY if len(path) == 1)
    text = shown(())
    positions = [text.index(f"─ {panel} ─") for panel in COMMANDS]
    assert positions == sorted(positions)


def test_each_command_has_one_line_in_80_columns():
    lines = [line for line in shown(()).splitlines() if re.match(r"│ +[^ ]", line)]
    continued = [line for line in lines if line.startswith("│   ")]
    assert continued == []


@pytest.mark.parametrize("path", EVERY, ids=IDS)
def test_options_say_what_they_take_and_mean(path):
    for parameter in EVERY[path].params:
        assert parameter.help.endswith("."), parameter.name
        assert not parameter.help.startswith("Of "), parameter.name
        assert parameter.metavar is not None, parameter.name


@pytest.mark.parametrize("path", EVERY, ids=IDS)
def test_no_value_of_an_option_is_cut_in_80_columns(path):
    text = shown(path)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for parameter in EVERY[path].params:
        assert parameter.metavar in text, parameter.name
        assert all(name in text for name in parameter.opts if name.startswith("--"))


def test_lines_stay_readable_on_a_wide_terminal():
    assert max(map(len, shown(("run",), 200).splitlines())) == WIDEST


def examples():
    for path, command in EVERY.items():
        for line in (command.epilog or "").splitlines()[1:]:
            yield pytest.param(line.replace(r"\[", "["), id=line.strip())
            assert line.split()[1 : 1 + len(path)] == list(path)


@pytest.mark.parametrize("line", list(examples()))
def test_an_example_can_be_parsed(line):
    program, *words = shlex.split(line)
    assert program == "bench"
    if words == ["COMMAND", "--help"]:
        return
    command = PROGRAM
    context = command.make_context("bench", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    assert command.make_context(name, words, parent=context).params


def escapes(monkeypatch, path, **environment):
    monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", True)
    settings = {"TERM": "xterm-256color", "COLUMNS": "80", **environment}
    text = CliRunner().invoke(app, [*path, "--help"], color=True, env=settings).output
    return {code for found in re.findall(r"\x1b\[([\d;]*)m", text) for code in found.split(";")}


def test_colours_can_be_read_on_white_and_on_black(monkeypatch):
    """Bold and magenta alone; neither dim text nor yellow, cyan or white is used."""
    found = escapes(monkeypatch, ("run",), NO_COLOR="")
    assert {"1", "35"} <= found <= {"0", "1", "35"}


def test_no_color_is_respected(monkeypatch):
    assert escapes(monkeypatch, ("run",), NO_COLOR="1") <= {"0", "1"}


def test_help_in_a_pipe_has_no_escape():
    assert "\x1b" not in shown(("run",))
