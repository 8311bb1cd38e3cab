"""The worked example of an outside package: installed as a stranger would, checked and run."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.cli.tiny_dataset import call_process, write_tiny_dataset
from tests.conftest import REPOSITORY

EXAMPLE = REPOSITORY / "tests" / "example_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder the package is installed in; nothing is fetched, nothing is built in its source."""
    source = tmp_path_factory.mktemp("source") / "example_plugin"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
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


def test_it_is_listed_under_its_distribution(installed):
    answer = call_process("list", "methods", "--json", path=installed)
    methods = {found["name"]: found for found in json.loads(answer.stdout)["methods"]}
    assert methods["nearest_colour"]["from"] == "spotbench-nearest-colour"
    assert methods["nearest_colour"]["summary"].startswith("Nearest colour: mean of the training")


@pytest.mark.slow
def test_it_passes_the_checks(installed):
    answer = call_process("check", "nearest_colour", "--no-demo", path=installed)
    assert answer.status == 0, answer
    assert " 0 failed, " in answer.stdout.splitlines()[-1]
    assert answer.stdout.count("\nok  ") >= 15


@pytest.mark.slow
def test_it_runs_beside_its_twin_and_a_control(installed, tmp_path):
    tiny = write_tiny_dataset(tmp_path / "tiny")
    answer = call_process(
        *("run", "--method", "nearest_colour,shuffled,mean", *tiny.options),
        *(*tiny.quick_protocol, "--tracking", "none", "--results", tmp_path / "results", "--json"),
        path=installed,
    )
    assert answer.status == 0, answer
    rows = {row["method"]: row for row in json.loads(answer.stdout)["rows"]}
    assert set(rows) == {"nearest_colour", "shuffled:nearest_colour", "mean"}
    assert rows["nearest_colour"]["pcc_acg"] > rows["shuffled:nearest_colour"]["pcc_acg"]
