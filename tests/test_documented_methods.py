"""The methods of the page on adding one: each is a complete file that that passes the checks."""

import ast
import json
import subprocess
import sys

import pytest

from tests.cli.tiny_dataset import call, call_process, write_tiny_dataset
from tests.documented import shown_files, write_shown

FILES = shown_files()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shown(tmp_path_factory.mktemp("shown"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


def test_the_page_shows_three_methods():
    assert set(FILES) == {"pls.py", "patchnet.py", "neighbourhood.py"}


@pytest.mark.parametrize("name", FILES)
def test_they_import_the_interface_alone(name):
    modules = set()
    for node in ast.walk(ast.parse(FILES[name])):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    ours = {module for module in modules if module.partition(".")[0] == "bench"}
    others = {module.partition(".")[0] for module in modules} - {"bench"}
    assert ours == {"bench.api"}
    assert others <= {"torch", "numpy", "sklearn", "pydantic"}


@pytest.mark.slow
def test_they_run_from_their_files_beside_their_twins(folder, tiny, tmp_path):
    """Preset tiny; the published results say nothing of how good they are."""
    methods = ",".join(f"{folder}/{name}" for name in FILES)
    answer = call(
        *("run", "--method", f"{methods},shuffled", *tiny.options, "--preset", "tiny"),
        *(*tiny.quick_protocol, "--folds", "0", "--device", "cpu", "--tracking", "none"),
        *("--results", tmp_path / "results", "--json"),
    )
    assert answer.status == 0, answer
    rows = {row["method"]: row for row in json.loads(answer.stdout)["rows"]}
    labels = {name.removesuffix(".py") for name in FILES}
    assert set(rows) == labels | {f"shuffled:{label}" for label in labels}
    for label in labels:
        assert rows[label]["pcc_acg"] != rows[f"shuffled:{label}"]["pcc_acg"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_they_pass_the_checks(folder, name):
    answer = call("check", folder / name, "--no-demo")
    assert answer.status == 0, answer
    assert " 0 failed, " in answer.stdout.splitlines()[-1]
    assert answer.stdout.count("\nok  ") >= 15


@pytest.mark.slow
def test_the_command_of_the_page_finds_the_signal_of_the_demo(folder, tmp_path):
    answer = call(
        *("run", "--method", f"{folder}/pls.py,shuffled,mean", "--dataset", "demo"),
        *("--preset", "quick", "--results", tmp_path / "results", "--tracking", "none", "--json"),
    )
    assert answer.status == 0, answer
    rows = {row["method"]: row for row in json.loads(answer.stdout)["rows"]}
    assert rows["pls"]["pcc_acg"] > rows["shuffled:pls"]["pcc_acg"] + 0.1


# ---------------------------------------------------------------------- as an installed package


@pytest.fixture(scope="module")
def installed(folder, tmp_path_factory):
    """Folder the package is installed in; nothing is fetched, nothing is built in its source."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pls.py", "pyproject.toml"):
        (source / name).write_text((folder / name).read_text())
    target = tmp_path_factory.mktemp("installed")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--disable-pip-version-check", "--target", target, source),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def test_the_package_is_listed_under_its_distribution(installed):
    answer = call_process("list", "methods", "--json", path=installed)
    methods = {found["name"]: found for found in json.loads(answer.stdout)["methods"]}
    assert methods["pls"]["from"] == "spotbench-pls"
    assert methods["pls"]["summary"].startswith("Partial least squares")


@pytest.mark.slow
def test_the_package_passes_the_checks_of_an_installed_method(installed):
    answer = call_process("check", "pls", "--no-demo", path=installed)
    assert answer.status == 0, answer
    assert " 0 failed, " in answer.stdout.splitlines()[-1]
    assert "\nok    Importing it is quick" in answer.stdout


@pytest.mark.slow
def test_the_package_runs_beside_its_twin_and_a_control(installed, tiny, tmp_path):
    answer = call_process(
        *("run", "--method", "pls,shuffled,mean", *tiny.options, "--preset", "tiny"),
        *(*tiny.quick_protocol, "--tracking", "none", "--results", tmp_path / "results", "--json"),
        path=installed,
    )
    assert answer.status == 0, answer
    rows = {row["method"]: row for row in json.loads(answer.stdout)["rows"]}
    assert set(rows) == {"pls", "shuffled:pls", "mean"}
