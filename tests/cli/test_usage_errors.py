"""Calls that the parser or a command refuses: one line that names the thing, the place, the way."""

import sys

import pytest

from bench.cli import main

REFUSED = [
    ("rum", "unknown command 'bench rum'; did you mean run or runs?"),
    ("xyzzy", "unknown command 'bench xyzzy'; see 'bench --help'"),
    ("data sho demo", "unknown command 'bench data sho'; did you mean show?"),
    ("data list", "unknown command 'bench data list'; see 'bench data --help'"),
    ("--verson", "unknown option --verson of 'bench'; did you mean --version?"),
    (
        "list datsets",
        "KIND 'datsets': must be one of all, methods, datasets, protocols, encoders",
    ),
    ("run --presett quick", "unknown option --presett of 'bench run'; did you mean --preset"),
    ("run -q", "unknown option -q of 'bench run'; see 'bench run --help'"),
    ("run extra words", "'bench run' does not take 'extra words'; see 'bench run --help'"),
    ("run --set", "option --set needs a value"),
    ("run --force=yes", "option --force takes no value"),
    ("run --seed -1", "--seed '-1': must be greater than or equal to 0"),
    ("run --seed x", "--seed 'x': must be a whole number"),
    ("run --seed=1.5", "--seed '1.5': must be a whole number"),
    ("run -j 0", "--jobs '0': must be greater than or equal to 1"),
    ("run --ray-gpus x", "--ray-gpus 'x': must be a number"),
    ("run --device gpu", "--device 'gpu': must be one of auto, cpu, cuda, mps"),
    ("tune -m ridge -d demo --sampler tp", "--sampler 'tp': must be one of tpe, random, grid"),
    ("tune -d demo", "option --method of 'bench tune' is missing; see 'bench tune --help'"),
    ("tables -f cvs", "--format 'cvs': must be one of text, csv, markdown, latex, html, json"),
    ("tables --decimals 11", "--decimals '11': must be less than or equal to 10"),
    ("tables -d demo,stnet", "--dataset demo,stnet: 2 datasets in one table need --layout paper"),
    ("check", "argument METHOD of 'bench check' is missing; see 'bench check --help'"),
    ("data add", "argument FOLDER of 'bench data add' is missing; see 'bench data add --help'"),
    ("ui --port 0", "--port '0': must be greater than or equal to 1"),
    ("verify --tolerance x", "--tolerance 'x': must be a number"),
    ("run -m mean -d demo --aliases none.tsv", "none.tsv: no such file"),
    ("run -m mean -d demo --aliases .", ".: is a folder, not a file"),
    ("verify --aliases none.tsv", "none.tsv: no such file"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[call for call, _ in REFUSED])
def test_a_refused_call_says_what_is_wrong_and_where(call, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", *call.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    written = capsys.readouterr()
    assert ended.value.code == 2
    assert written.out == ""
    assert written.err.startswith(f"bench: {message}")
    assert written.err.count("\n") == 1


def test_a_hostile_name_stays_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "run\n\x1b[31mbad" * 30])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == 2
    assert shown.count("\n") == 1
    assert "\x1b" not in shown
    assert len(shown) < 200
