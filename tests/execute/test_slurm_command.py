"""``--executor slurm`` on the command line: what is refused, what is said."""

from __future__ import annotations

import shlex

import pytest

from tests.cli.tiny_dataset import assert_refused
from tests.execute.fake_slurm import NO_ANSWER, FakeSlurm
from tests.execute.test_slurm import run_task


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster whose tasks are not run."""
    cluster = FakeSlurm.install(tmp_path / "slurm", run_task)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


@pytest.fixture
def run(bench, tiny, results):
    """Runs the depth oracle on the tiny dataset."""

    def run_tiny(*arguments, command="run"):
        call = (command, "--method", "depth", *tiny.where, *tiny.quick_protocol)
        return bench(*call, "--results", results, "--tracking", "none", *arguments)

    return run_tiny


@pytest.fixture
def profile(tmp_path):
    """Writes a profile; gives the options that choose it."""

    def write(text):
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        return "--executor", "slurm", "--profile", path

    return write


@pytest.mark.parametrize("command", ["run", "tune"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--executor", "slrm"), ["unknown executor 'slrm'", "slurm"]),
        (("--executor", "condor"), ["unknown executor 'condor'", "local"]),
        (("--submit-only",), ["--submit-only belongs to --executor slurm"]),
        (("--profile", "x.yaml"), ["--profile belongs to --executor slurm"]),
    ],
)
def test_an_executor_that_is_none(run, results, command, arguments, words):
    assert_refused(run(*arguments, command=command), *words)
    assert not results.exists()


@pytest.mark.parametrize("command", ["run", "tune"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partition: gpus", ["no partition 'gpus'; it has cpu, gpu"]),
        ("partitions: gpu", ["cluster.yaml: unknown profile field 'partitions'", "partition"]),
        ("time: 2h", ["cluster.yaml: time: ", "'2:00:00'"]),
    ],
)
def test_a_wrong_profile_submits_nothing(cluster, run, results, profile, command, text, words):
    assert_refused(run(*profile(text), command=command), *words)
    assert cluster.submissions == []
    assert not results.exists()


def test_a_machine_without_slurm(run, results, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(run("--executor", "slurm"), "sbatch is not on this machine", "login node")
    assert not results.exists()


def test_a_controller_that_does_not_answer(cluster, run, results):
    (cluster.folder / "sinfo").write_text(f"#!/bin/sh\necho '{NO_ANSWER}' >&2\nexit 1\n")
    assert_refused(run("--executor", "slurm"), "Unable to contact slurm controller")
    assert not results.exists()


def test_a_request_that_cannot_be_met_submits_nothing(cluster, run):
    assert_refused(run("--executor", "slurm", "--folds", "9"), "no fold 9")
    assert cluster.submissions == []


def test_submit_only_says_how_to_go_on(cluster, run, tiny, profile):
    options = profile("partition: cpu\nbundle: 2")
    answer = run(*options, "--force", "--submit-only")
    assert (answer.status, answer.stdout) == (0, "")
    line = answer.stderr.splitlines()[-1]
    said, _, again = line.partition("; follow with: ")
    assert said == "bench: 3 folds: 2 tasks are queued or running in Slurm (job 1)"
    again = shlex.split(again)
    assert again[:2] == ["bench", "run"]
    assert "--executor" in again
    assert not {"--force", "--submit-only"} & set(again)
    assert len(cluster.submissions) == 1


def test_a_task_is_run_by_its_folder_and_number(cluster, run, bench, results, monkeypatch):
    monkeypatch.setattr("bench.execute.executors.node_task.forbid_downloads", lambda: None)
    run("--executor", "slurm", "--submit-only")
    (folder,) = results.glob("slurm/*")
    answer = bench("execute", folder, "--task", 1)
    assert (answer.status, answer.stdout) == (0, "")
    assert "depth fold 1: done" in answer.stderr
    assert [path.parent.name for path in results.glob("runs/*/*/*/*/manifest.json")] == ["fold-1"]
    assert_refused(bench("execute", folder, "--task", 3), "no task 3; it has 3")
    assert_refused(bench("execute", results, "--task", 0), "submission.json")


def test_the_command_of_tasks_is_not_listed(bench):
    assert "execute" not in bench("--help").stdout
