"""Every command of README and docs works as printed.

The id of a test says how far it goes. ``ran``: the command itself, in a folder that holds what the
page assumes. ``planned``: the command is parsed and every name and value in it looked up, where it
needs data, weights or a cluster that are not here; the table of treatments gives the reason.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from bench.cli import program as parser_of_bench
from bench.cli.options import names, settings_of
from bench.execute.executors.options import LOCAL, RAY, SLURM
from bench.execute.executors.profile import read_profile
from bench.protocol.rules import find_protocol
from bench.registry import collection, dataset_card, find_methods, load_method, method_class
from benchmarks.speed import parser as speed_parser
from tests.cli.tiny_dataset import (
    PLUGIN,
    call,
    write_tiny_dataset,
)
from tests.conftest import REPOSITORY
from tests.documented import write_shown
from tests.documented_commands import block, commands, spans, words
from tests.documented_treatments import COMMANDS, GPU, PATIENTS

NETWORK = ("--preset", "quick", "--set", "epochs=1", "--set", "input_size=32")


def cases(planned: bool) -> list:
    return [
        pytest.param(command, id=command, marks=[pytest.mark.slow] if how.slow else [])
        for command, how in COMMANDS.items()
        if bool(how.planned) == planned
    ]


def test_every_command_has_a_treatment():
    assert list(COMMANDS) == sorted(commands(), key=list(COMMANDS).index)
    assert set(COMMANDS) == set(commands())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Results of quick runs on a small dataset that is named her2st, under two protocols."""
    folder = tmp_path_factory.mktemp("stored")
    small = write_tiny_dataset(folder / "small", "her2st")
    for protocol, methods in (("strict", "mclstexp,mean"), ("published", "mean")):
        network = NETWORK if "mclstexp" in methods else ()
        answer = call(
            *("run", "--method", methods, *small.options, *network),
            *("--protocol", protocol, "--folds", "0", "--tracking", "none"),
            *("--results", folder / "results"),
        )
        assert answer.status == 0, answer
    return folder / "results"


def write_slides(folder: Path) -> None:
    """Three sections in the legacy layout, and the page's table of their patients."""
    small = write_tiny_dataset(folder / "source")
    slides = folder / "slides"
    slides.mkdir()
    for ours, theirs in zip(("A1", "B1", "C1"), ("A1", "B1", "A1"), strict=True):
        slide = "V10A-124" if ours == "C1" else "V10A-123"
        cells = small.read_counts(ours)
        cells[0][1] = "ERBB2"
        small.write_counts(ours, cells)
        name = f"{slide}_{theirs}"
        shutil.copy(small.counts(ours), slides / f"{name}.tsv.gz")
        shutil.copy(small.spots(ours), slides / f"{name}_selection.tsv")
        shutil.copy(small.image(ours), slides / f"{name}.jpg")


def write_slide(folder: Path) -> None:
    """An image without expression, and its spots."""
    small = write_tiny_dataset(folder / "small")
    shutil.copy(small.image("A1"), folder / "slide.jpg")
    spots = [f"spot{x}x{y},{x},{y}" for x in (40, 80, 120) for y in (40, 80)]
    (folder / "spots.csv").write_text("\n".join(["barcode,x,y", *spots, ""]))


@pytest.fixture
def place(stored, tmp_path, monkeypatch):
    """The folder a reader of the pages would be in; home and datasets lie in it too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "datasets"))
    shutil.copytree(stored, tmp_path / "results")
    write_slide(tmp_path)
    write_shown(tmp_path)
    text = PLUGIN.format(summary="Tilted mean", name="my_method", needs_image=False, before="",
                         fit="pass", predict="pass")  # fmt: skip
    Path("my_method.py").write_text(text.strip() + "\n")
    return tmp_path


@pytest.fixture
def mine(place):
    """The same folder with a dataset of the reader's own slides, as the page adds it."""
    write_slides(place)
    table = block(PATIENTS).text
    for name in ("map.csv", "patients.csv"):
        Path(name).write_text(table)
    return place


@pytest.mark.parametrize("command", cases(planned=False))
def test_ran(command, place, request):
    if "mine" in command:
        folder = request.getfixturevalue("mine")
        if " add " not in command:
            add = "data add ~/slides --name mine --patients patients.csv"
            assert call(*words(add, folder)).status == 0
    answer = call(*words(command, place)[1:])
    assert answer.status == 0, answer
    assert COMMANDS[command].prints in answer.stdout, answer


def parsed(arguments: list[str]) -> dict:
    """Values of a command's parameters, as its function would be given them."""
    command = parser_of_bench()
    name = "bench"
    context = command.make_context(name, [], resilient_parsing=True)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    context = command.make_context(name, arguments, parent=context)
    return context.params


def look_up(params: dict, folder: Path) -> None:
    """Look up what a command names: dataset, sections, genes' file, methods, rules, settings."""
    for dataset in names(params.get("dataset")):
        if dataset == "mine" or collection(dataset):
            continue
        card = dataset_card(dataset)
        for section in names(params.get("sections")) or filter(None, [params.get("section")]):
            card.section(section)
    chosen = []
    for label in names(params.get("method")):
        if label.endswith(".py"):
            chosen.append(load_method(str(folder / label)))
        elif label not in {"shuffled", "pls"}:
            assert label in find_methods()
            chosen.append(method_class(label))
    if params.get("protocol"):
        find_protocol(params["protocol"])
    assert params.get("executor", LOCAL) in {LOCAL, SLURM, RAY}
    if params.get("profile"):
        read_profile(params["profile"])
    for name, value in settings_of(params.get("settings")).items():
        fields = [method.Config.model_fields for method in chosen]
        assert any(name in known for known in fields), f"no method has the setting {name}"
        assert value is not None
    for method in chosen:
        if params.get("preset", "authors") != "authors":
            assert params["preset"] in method.presets


@pytest.mark.parametrize("command", cases(planned=True))
def test_planned(command, tmp_path, monkeypatch):
    assert COMMANDS[command].planned
    monkeypatch.chdir(tmp_path)
    Path("gpu.yaml").write_text(block(GPU).text)
    program, *arguments = words(command, tmp_path)
    CHECKS[program](arguments, tmp_path)


def check_bench(arguments, folder):
    look_up(parsed(arguments), folder)


def check_make(arguments, folder):
    target, *variables = arguments
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for variable in variables:
        name, _, text = variable.partition("=")
        assert name == "ARGS"
        if "--help" not in text:
            speed_parser().parse_args(shlex.split(text))


def check_pip(arguments, folder):
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert arguments[0] == "install"
    if arguments[1].endswith(".whl"):
        assert arguments[1:] == [f"{project['name']}-*.whl"]
    elif arguments[1:] != ["--editable", "."]:
        name, extra = re.fullmatch(r"(\w+)\[(\w+)\]", arguments[1]).groups()
        assert name == project["name"]
        assert extra in project["optional-dependencies"]


def check_mlflow(arguments, folder):
    from mlflow.cli import cli

    name, *options = arguments
    cli.commands[name].make_parser(cli.make_context("mlflow", [name])).parse_args(options)


CHECKS = {"bench": check_bench, "make": check_make, "pip": check_pip, "mlflow": check_mlflow}
STAND_INS = {"N": "2", "FILE": "file.yaml", "NAME": "demo", "D": "demo", "M": "mclstexp"}


OF_OTHERS = {
    "--gres": "sbatch",
    "--requeue": "sbatch",
    "--object-store-memory": "ray start",
}
"""Options in the pages that are another program's."""


def options_of_bench() -> dict[str, list]:
    """Options of all commands, with the parameters that have them."""
    found: dict[str, list] = {}
    waiting = [parser_of_bench()]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for parameter in command.params:
            for option in parameter.opts:
                found.setdefault(option, []).append(parameter)
    return found


def accepts(parameter, value: str | None) -> bool:
    if value is None or value.isupper() or value in STAND_INS:
        return True
    context = parser_of_bench().make_context("bench", [], resilient_parsing=True)
    try:
        parameter.process_value(context, [value] if parameter.multiple else value)
    except typer.TyperException:
        return False
    return not parameter.is_flag


@pytest.mark.parametrize(("page", "text"), [(p, t) for p, t in spans() if t.startswith("--")])
def test_an_option_within_a_sentence_is_one(page, text):
    option, *values = text.replace("=--", " --").split()
    if option in OF_OTHERS:
        assert option not in options_of_bench()
        return
    ours = options_of_bench().get(option, [])
    speed = speed_parser()._option_string_actions
    assert ours or (page == "performance.md" and option in speed), f"{page}: {option}"
    if ours:
        assert any(accepts(parameter, values[0] if values else None) for parameter in ours)


@pytest.mark.parametrize(("page", "text"), [(p, t) for p, t in spans() if not t.startswith("--")])
def test_a_command_within_a_sentence_is_one(page, text, tmp_path):
    program, *arguments = words(text, tmp_path)
    arguments = [STAND_INS.get(word, word) for word in arguments]
    if program != "bench":
        CHECKS[program]([word.replace("spots N", "spots 2") for word in arguments], tmp_path)
        return
    whole = parser_of_bench()
    command = whole
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    assert command is not whole, f"{page}: {text}"
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("-")} <= known, f"{page}: {text}"
