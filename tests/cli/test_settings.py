"""Settings and requests as values: defaults, --set, --config, and what differs from a preset."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from types import NoneType
from typing import Annotated, Literal, get_args

import pytest
import yaml

import bench as package
from bench.cli import program
from bench.cli.config_file import _ConfigFile, read_config
from bench.cli.options import settings_of
from bench.errors import ConfigError
from bench.execute.request import Request
from bench.method import Method, MethodConfig
from bench.registry import find_methods, method_class
from bench.settings import as_none, changed_settings, own_settings
from bench.tune.request import TuneRequest
from tests.cli.tiny_dataset import assert_nothing_half_written, assert_refused, environment
from tests.conftest import REPOSITORY

# ------------------------------------------------------------------------------- defaults

FIELDS = {field.name: field for field in dataclasses.fields(Request)}
TUNE_FIELDS = {field.name: field for field in dataclasses.fields(TuneRequest)}
OF_OPTIONS = {"method": "methods", "compile_encoders": "compile"}
"""Parameters of commands that go by another name than the field they fill."""


def default_of(field):
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


@pytest.mark.parametrize("command", ["run", "tune", "import-weights"])
def test_options_have_the_defaults_of_a_request(command):
    options = {p.name: p for p in program().commands[command].params}
    checked = set()
    for name, option in options.items():
        if name == "no_oracles":
            assert option.default is not Request.oracles
            continue
        fields = FIELDS
        if command == "tune" and name in TUNE_FIELDS and name != "run":
            fields = TUNE_FIELDS
        field = fields.get(OF_OPTIONS.get(name, name))
        if field is not None:
            assert (option.default or None) == (default_of(field) or None), name
            checked.add(field.name)
    assert {"methods", "dataset", "protocol", "preset", "seed", "results", "device"} <= checked
    if command == "tune":
        assert {"trials", "inner_folds", "sampler", "pruner", "objective"} <= checked


def test_the_function_has_the_defaults_of_a_request():
    parameters = inspect.signature(package.run).parameters
    checked = 0
    for name, parameter in parameters.items():
        field = FIELDS.get(name)
        if field is not None and parameter.default is not inspect.Parameter.empty:
            assert (parameter.default or None) == (default_of(field) or None), name
            checked += 1
    assert checked >= 12
    assert inspect.signature(package.tables).parameters["protocol"].default == Request.protocol


# ----------------------------------------------------------------------------------- none


@pytest.mark.parametrize(
    ("annotation", "value", "wanted"),
    [
        (int | None, "none", None),
        (int | None, "None", None),
        (int | None, "null", None),
        (int | None, "~", None),
        (int | None, " ", None),
        (int | None, None, None),
        (int | None, "5", "5"),
        (int, "none", "none"),
        (str, "none", "none"),
        (str | None, "none", None),
        (str | None, "some", "some"),
        (Annotated[int | None, "metadata"], "none", None),
        (Annotated[int, "metadata"] | Annotated[str, "metadata"] | None, "none", None),
        (Literal["none", "some"], "none", "none"),
        (Literal["none", "some"] | None, "none", "none"),
        (Literal["none", "some"] | None, "null", None),
        (Literal["some", None], "none", None),
    ],
)
def test_spellings_of_none(annotation, value, wanted):
    assert as_none(annotation, value) == wanted


@pytest.mark.parametrize("name", sorted(find_methods()))
@pytest.mark.parametrize("spelled", ["none", "null", "None", "~", ""])
def test_none_can_be_set_wherever_a_method_allows_it(name, spelled):
    kind = method_class(name)
    for field, of in kind.Config.model_fields.items():
        settings = settings_of([f"{field}={spelled}"])
        (value,) = own_settings(kind, settings, set()).values()
        if NoneType in get_args(of.annotation):
            assert value is None
            assert kind.configure("demo", "authors", {field: value})
        elif spelled == "none" and of.annotation in {str, Literal["none"]}:
            assert value == "none"


def test_a_choice_named_none_remains_the_choice():
    kind = method_class("mclstexp")
    values = own_settings(kind, settings_of(["augment=none", "weights=none"]), set())
    assert values == {"augment": "none", "weights": "none"}


def test_settings_given_to_the_function_are_read_as_those_of_the_command_line():
    kind = method_class("ridge")
    assert own_settings(kind, {"pca": "none", "ridge.clip": "null"}, set()) == {
        "pca": None,
        "clip": None,
    }


def test_a_setting_of_one_method_takes_precedence_whatever_the_order():
    kind, used = method_class("coordinates"), set()
    for settings in (
        {"neighbours": 1, "coordinates.neighbours": 2},
        {"coordinates.neighbours": 2, "neighbours": 1},
    ):
        assert own_settings(kind, settings, used) == {"neighbours": 2}
    assert used == {"neighbours", "coordinates.neighbours"}


# -------------------------------------------------------------------------- --set as YAML


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("neighbours={a: 1, a: 2}", "key 'a' appears twice"),
        ("neighbours=[1", "cannot be read"),
        ("neighbours=\udcff", r"\udcff"),
        ('neighbours="\\e[2J"', "control character"),
        ("neighbours=" + "[" * 1000, "nested"),
    ],
)
def test_a_value_that_cannot_be_read(pair, words):
    with pytest.raises(ConfigError) as refused:
        settings_of([pair])
    assert words in str(refused.value)
    assert len(str(refused.value)) < 400


def test_the_last_of_equal_settings_holds():
    assert settings_of(["a=1", "b=[1, x]", "a=2"]) == {"a": 2, "b": [1, "x"]}


# ------------------------------------------------------------------- changes to a preset


class _Method(Method):
    name = "changing"

    class Config(MethodConfig):
        rate: float = 0.1
        size: int | None = 4
        parts: tuple[int, ...] = (1, 2)

    presets = {"quick": {"size": 2}, "tiny": {}}
    dataset_settings = {"demo": {"rate": 0.2}}


@pytest.mark.parametrize(
    ("dataset", "preset", "settings", "wanted"),
    [
        ("x", "authors", {}, {}),
        ("x", "quick", {}, {}),
        ("demo", "quick", {}, {}),
        ("x", "authors", {"rate": 0.1, "parts": [1, 2]}, {}),
        ("x", "authors", {"rate": "0.1"}, {}),
        ("x", "authors", {"rate": 0.3}, {"rate": [0.1, 0.3]}),
        ("demo", "authors", {"rate": 0.1}, {"rate": [0.2, 0.1]}),
        ("x", "quick", {"size": "none", "parts": [3]}, {"size": [2, None], "parts": [[1, 2], [3]]}),
    ],
)
def test_changes_are_those_to_the_preset_on_the_dataset(dataset, preset, settings, wanted):
    config = _Method.configure(dataset, preset, own_settings(_Method, settings, set()))
    found = changed_settings(_Method, dataset, preset, config)
    assert found == wanted
    assert json.loads(json.dumps(found)) == wanted


@pytest.mark.slow
def test_a_changed_setting_is_marked_where_results_are_shown(bench, tiny, results):
    call = ("run", "--method", "coordinates,ridge", *tiny.options, *tiny.quick_protocol)
    call += ("--preset", "quick", "--folds", "0", "--tracking", "none", "--results", results)
    note = "coordinates: default* = default settings with neighbours 3 (default: 10)."
    answer = bench(*call, "--device", "cpu", "--set", "neighbours=3", "--set", "pca=256")
    assert answer.status == 0, answer.stderr
    assert re.search(r"coordinates \(control\) +default\*", answer.stdout)
    assert re.search(r"ridge +quick ", answer.stdout)
    assert note in answer.stdout
    printed = bench("tables", "--dataset", "tiny", "--results", results, "--format", "json")
    rows = {row["method"]: row for row in json.loads(printed.stdout)["rows"]}
    assert (rows["coordinates"]["preset"], rows["coordinates"]["changes"]) == (
        "default*",
        {"neighbours": 3},
    )
    assert (rows["ridge"]["preset"], rows["ridge"]["changes"]) == ("quick", {})
    assert note in json.loads(printed.stdout)["footnotes"]


# ------------------------------------------------------------------------------- --config


@pytest.fixture
def config(tmp_path):
    """Writes a file for --config; gives its path."""

    def write(content):
        path = tmp_path / "settings.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def request_of(tiny):
    """Fields of a file that runs `coordinates` on one fold of the tiny dataset."""

    def fields(**changes):
        fields = {
            "method": "coordinates",
            "dataset": str(tiny.card),
            "data_root": str(tiny.root),
            "protocol": tiny.quick_protocol[1],
            "fold": 1,
            "seed": 5,
            "config": {"neighbours": 3},
            **changes,
        }
        return {name: value for name, value in fields.items() if value is not ...}

    return fields


@pytest.fixture
def run(bench, results):
    """Runs a file of --config; tracking off, results in the test's folder."""

    def run(path, *arguments):
        last = ("--no-oracles", "--tracking", "none", "--results", results)
        return bench("run", "--config", path, *arguments, *last)

    return run


def run_facts(results):
    (path,) = results.rglob("run.json")
    return json.loads(path.read_text())


def test_a_file_alone_is_a_request(run, config, request_of, results):
    informative = {"objective": "mse", "value": 0.5, "trial": 3}
    answer = run(config(request_of(**informative)))
    assert answer.status == 0, answer.stderr
    facts = run_facts(results)
    assert (facts["label"], facts["dataset"], facts["seed"]) == ("coordinates", "tiny", 5)
    assert facts["config"] == {"neighbours": 3}
    assert facts["protocol"] == "patients"
    assert {path.parent.name for path in results.rglob("manifest.json")} == {"fold-1"}


def test_a_file_may_hold_every_field(run, config, request_of, results):
    answer = run(
        config(
            request_of(
                method=...,
                fold=...,
                config=...,
                methods=["coordinates", "mean"],
                folds=[0, 2],
                settings={"coordinates.neighbours": 2},
                preset="quick",
                panel="svg:12",
                aliases=None,
                precision="float32",
                device="cpu",
                compile=False,
            )
        )
    )
    assert answer.status == 0, answer.stderr
    facts = {
        of["label"]: of for of in (json.loads(p.read_text()) for p in results.rglob("run.json"))
    }
    assert set(facts) == {"coordinates", "mean"}
    assert facts["coordinates"]["config"] == {"neighbours": 2}
    assert facts["mean"]["protocol"] == "patients-svg-12"
    assert facts["mean"]["precision"] == "float32"
    assert {p.parent.name for p in results.rglob("manifest.json")} == {"fold-0", "fold-2"}


def test_options_equal_to_the_file_are_fine_and_others_complete_it(
    run, config, request_of, results, tiny
):
    path = config(request_of(method=..., seed=..., config={"neighbours": 3}))
    arguments = ("--method", "coordinates", "--folds", "1", "--seed", "7", *tiny.where)
    answer = run(path, *arguments, "--set", "neighbours=3")
    assert answer.status == 0, answer.stderr
    facts = run_facts(results)
    assert (facts["seed"], facts["config"]) == (7, {"neighbours": 3})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "mean"), ["--method mean", "coordinates"]),
        (("--dataset", "demo"), ["--dataset demo", "tiny.yaml"]),
        (("--protocol", "strict"), ["--protocol strict", "patients.yaml"]),
        (("--folds", "0,2"), ["--folds 0,2", "folds 1"]),
        (("--seed", "0"), ["--seed 0", "seed 5"]),
        (("--preset", "authors"), ["--preset authors", "preset quick"]),
        (("--panel", "svg"), ["--panel svg", "panel none"]),
        (("--precision", "auto"), ["--precision auto", "precision float32"]),
        (("--device", "cuda"), ["--device cuda", "device cpu"]),
        (("--compile",), ["--compile True", "compile False"]),
        (("--data-root", "elsewhere"), ["--data-root elsewhere", "data"]),
        (("--set", "neighbours=4"), ["--set neighbours=4", "coordinates.neighbours to 3"]),
        (("--set", "coordinates.neighbours=4"), ["--set coordinates.neighbours=4", "to 3"]),
    ],
)
def test_an_option_that_contradicts_the_file_is_refused(
    run, config, request_of, results, arguments, words
):
    rest = {"preset": "quick", "panel": None, "precision": "float32", "device": "cpu"}
    path = config(request_of(**rest, compile=False))
    line = assert_refused(run(path, *arguments), *words, path.name)
    assert "leave out the option or change the file" in line
    assert not results.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sed": 3}, ["unknown field", "'sed'", "did you mean", "seed"]),
        ({"zzzzzz": 3}, ["unknown field", "'zzzzzz'"]),
        ({"seed": "3"}, ["seed", "integer"]),
        ({"seed": True}, ["seed", "integer"]),
        ({"seed": -1}, ["seed", "greater than or equal to 0"]),
        ({"fold": ..., "folds": "0,2"}, ["folds", "integer"]),
        ({"folds": [0]}, ["both fold and folds"]),
        ({"methods": ["mean"]}, ["both method and methods"]),
        ({"config": [1]}, ["config", "dictionary"]),
        ({"config": {"neighbors": 1}}, ["unknown setting", "neighbours"]),
        ({"config": {"neighbours": 0}}, ["neighbours", "greater than or equal to 1"]),
        ({"settings": {"neighbours": 2}}, ["config has neighbours 3", "neighbours 2"]),
        ({"method": ...}, ["config has none"]),
        ({"method": ..., "methods": ["coordinates", "mean"]}, ["for one method"]),
        ({"method": ..., "config": ...}, ["no method named", "--config"]),
        ({"dataset": ...}, ["no dataset named", "--dataset"]),
        ({"fold": 9}, ["no fold 9"]),
        ({"preset": "quik"}, ["unknown preset", "quick"]),
        ({"device": "gpu"}, ["unknown device 'gpu'"]),
        ({"precision": "half"}, ["unknown precision 'half'"]),
        ({"protocol": "strikt"}, ["unknown protocol", "strict"]),
    ],
)
def test_a_file_that_is_no_request_is_refused(run, config, request_of, results, changes, words):
    assert_refused(run(config(request_of(**changes))), *words)
    assert_nothing_half_written(results)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1", ["not a settings file"]),
        ("{method: mean, config: {shift: [}", ["YAML"]),
        ("method: mean\nseed: 1\nseed: 2\n", ["'seed' appears twice", "lines 2 and 3"]),
        ("method: mean\nconfig: {a: 1, a: 2}\n", ["'a' appears twice"]),
        ('method: "\\e[2J"\n', [r"line 1: control character \x1b"]),
        ("method: nobody\ndataset: demo\nconfig: {}\n", ["nobody"]),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(run, config, content, words):
    assert_refused(run(config(content)), *words)


def test_the_file_of_the_documentation_is_a_request(tmp_path):
    page = (REPOSITORY / "docs" / "tuning.md").read_text(encoding="utf-8")
    path = tmp_path / "run.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    found = read_config(path)
    assert (found["methods"], found["folds"], found["seed"]) == (("mclstexp",), (0,), 0)
    assert method_class("mclstexp").configure("her2st", found["preset"], found["config"])
    named = set(re.findall(r"`(\w+)`", page[page.index("| field | same as |") :]))
    assert named >= set(_ConfigFile.model_fields)


def test_a_file_that_is_missing_is_named(run, tmp_path):
    assert_refused(run(tmp_path / "nothing.yaml"), "nothing.yaml", "missing")


def test_without_a_file_the_dataset_is_required(bench, results):
    answer = bench("run", "--method", "mean", "--results", results)
    assert_refused(answer, "no dataset named", "--dataset")


def test_paths_in_the_file_are_relative_to_the_working_directory(
    run, config, request_of, tiny, monkeypatch, results
):
    monkeypatch.chdir(tiny.folder)
    relative = {"dataset": "tiny.yaml", "data_root": "data", "protocol": "patients.yaml"}
    answer = run(config(request_of(**relative)), "--dataset", tiny.card)
    assert answer.status == 0, answer.stderr
    assert run_facts(results)["protocol"] == "patients"


def test_aliases_that_grow_are_refused_at_once(config, results):
    lines = ["method: mean", "config:", "  a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 8):
        ten = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"  a{level}: &a{level} [{ten}]")
    path = config("\n".join(lines) + "\n")
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))\n"
        f"sys.argv = ['bench', 'run', '--dataset', 'demo', '--config', {str(path)!r},"
        f" '--results', {str(results)!r}]\n"
        "from bench.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "settings.yaml" in line
    assert "aliases repeat more than" in line
