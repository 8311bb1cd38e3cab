"""Profiles of clusters: what is read, and what is refused in one line."""

from __future__ import annotations

import re

import pytest

from bench.errors import DataError
from bench.execute.executors.profile import Profile, read_profile
from tests.conftest import REPOSITORY


@pytest.fixture
def read(tmp_path):
    """Reads a profile from its text."""

    def read_text(text):
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        return read_profile(path)

    return read_text


def test_the_options_of_a_profile(read):
    profile = read(
        "{partition: 'gpu,long', time: '1-12:00:00', cpus: 8, gpus: 2, memory: 64G, account: 17,"
        " qos: normal, constraint: 'a100&80g', exclude: [n1, n2],"
        " sbatch_options: [--exclusive, '--mail-type=FAIL', '-C x']}"
    )
    assert profile.options() == [
        *("--partition=gpu,long", "--time=1-12:00:00", "--cpus-per-task=8", "--gres=gpu:2"),
        *("--mem=64G", "--account=17", "--qos=normal", "--constraint=a100&80g"),
        *("--exclude=n1,n2", "--exclusive", "--mail-type=FAIL", "-C x"),
    ]


def test_an_empty_profile_asks_for_one_processor():
    assert Profile().options() == ["--cpus-per-task=1"]


@pytest.mark.parametrize("time", ["30", "30:00", "2:00:00", "1-0", "1-12:00", "1-12:00:00"])
def test_times_as_slurm_writes_them(read, time):
    assert read(f"time: '{time}'").options()[0] == f"--time={time}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[module load x, source y]", ("module load x", "source y")),
        ("|\n  a b\n  c\n", ("a b", "c")),
    ],
)
def test_setup_is_a_list_or_a_block_of_lines(read, text, lines):
    assert read(f"setup: {text}").setup == lines


def test_variables_may_be_numbers(read):
    assert read("environment: {A: 1, B: x y}").environment == {"A": "1", "B": "x y"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partitoin: gpu", "unknown profile field 'partitoin'; did you mean partition"),
        ("Time: '1:00'", "unknown profile field 'Time'; did you mean time"),
        ("time: 2:00:00", "time: write a text that Slurm reads, in quotes"),
        ("time: 30", "time: write a text that Slurm reads, in quotes"),
        ("time: 2h", "time: write a text that Slurm reads, in quotes"),
        ("time: '1:99:00'", "time: write a text that Slurm reads, in quotes"),
        ("memory: 16", "memory: write a number and a unit"),
        ("memory: 16 GB", "memory: write a number and a unit"),
        ("cpus: 0", "cpus: Input should be greater than or equal to 1"),
        ("cpus: two", "cpus: Input should be a valid integer"),
        ("gpus: a100", "gpus: write a number, or what --gres takes"),
        ("gpus: -1", "gpus: write a number, or what --gres takes"),
        ("fetch: maybe", "fetch: Input should be a valid boolean"),
        ("bundle: 0", "bundle: Input should be greater than or equal to 1"),
        ("array_limit: 0", "array_limit: Input should be greater"),
        ("retries: -1", "retries: Input should be greater"),
        ("poll_seconds: 0", "poll_seconds: Input should be greater than 0"),
        ("poll_seconds: .inf", "poll_seconds: Input should be a finite number"),
        ("partition: ''", "partition: must be one line"),
        ('partition: "a\\nb"', "partition: must be one line"),
        ('setup: ["a\\n#SBATCH -p x"]', "setup.0: must be one line"),
        ("environment: {A-B: 1}", "environment: 'A-B' is no name of an environment variable"),
        ("sbatch_options: [--array=1]", "'--array=1': is set by the executor"),
        ("sbatch_options: ['-o x']", "'-o x': is set by the executor"),
        ("sbatch_options: [--wait]", "'--wait': is set by the executor"),
        ("sbatch_options: [exclusive]", "'exclusive': write one option of sbatch"),
        ("- gpu", "not a profile"),
        ("", "not a profile"),
        ("time: [", "not a readable YAML file"),
    ],
)
def test_a_wrong_profile_is_one_line(read, text, words):
    with pytest.raises(DataError, match=re.escape(words)) as error:
        read(text)
    assert "cluster.yaml: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_profile_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.yaml: file is missing"):
        read_profile(tmp_path / "none.yaml")


def profiles_of_the_page():
    return re.findall(r"```yaml\n(.*?)```", section_of_the_page(), re.DOTALL)


def section_of_the_page():
    page = (REPOSITORY / "docs" / "clusters.md").read_text(encoding="utf-8")
    return page.partition("\n## Slurm\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("text", profiles_of_the_page())
def test_the_profiles_of_the_page_are_valid(read, text):
    profile = read(text)
    assert profile.partition
    assert profile.time


def test_the_page_has_three_profiles_and_all_fields():
    assert len(profiles_of_the_page()) == 3
    assert set(re.findall(r"^\| `(\w+)` \|", section_of_the_page(), re.MULTILINE)) >= set(
        Profile.model_fields
    )
