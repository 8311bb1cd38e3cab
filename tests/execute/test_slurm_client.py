"""Slurm's programs and their answers."""

from __future__ import annotations

import pytest

from bench.execute.executors import slurm_client
from bench.execute.executors.slurm_client import SlurmError, TaskState
from tests.execute.fake_slurm import NO_ANSWER, FakeSlurm


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster whose tasks are never run."""
    cluster = FakeSlurm.install(tmp_path / "slurm", lambda folder, task: None)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def submit(tmp_path, *options):
    script = tmp_path / "script.sh"
    return slurm_client.submit(script, [*options])


def test_partitions_are_named_without_the_mark_of_the_default(cluster):
    assert slurm_client.partitions() == ["cpu", "gpu"]
    slurm_client.check_cluster("gpu,cpu")
    slurm_client.check_cluster(None)


def test_an_unknown_partition_is_refused_with_the_known_ones(cluster):
    with pytest.raises(SlurmError, match="no partition 'gpus'; it has cpu, gpu"):
        slurm_client.check_cluster("cpu,gpus")


def test_a_machine_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match=r"sbatch is not on this machine; .* login node"):
        slurm_client.check_cluster(None)


def test_a_controller_that_does_not_answer(cluster):
    (cluster.folder / "sinfo").write_text(f"#!/bin/sh\necho '{NO_ANSWER}' >&2\nexit 1\n")
    with pytest.raises(SlurmError, match=r"sinfo: .*Unable to contact slurm controller") as error:
        slurm_client.check_cluster("cpu")
    assert "\n" not in str(error.value)


def test_a_program_that_hangs_is_not_waited_for_without_end(cluster, monkeypatch):
    monkeypatch.setattr(slurm_client, "_TIMEOUT_SECONDS", 0.2)
    (cluster.folder / "sinfo").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(SlurmError, match="sinfo did not answer within"):
        slurm_client.partitions()


@pytest.mark.parametrize(
    ("text", "limit"), [("MaxArraySize            = 2", 2), ("a = 1\nMaxArraySize=501\n", 501)]
)
def test_the_limit_of_arrays(cluster, text, limit):
    cluster.tell("config", text)
    assert slurm_client.largest_array() == limit


def test_arrays_that_are_switched_off(cluster):
    cluster.tell("config", "MaxArraySize = 0")
    with pytest.raises(SlurmError, match="arrays are switched off"):
        slurm_client.largest_array()


def test_tasks_by_array_and_number(cluster, tmp_path):
    assert submit(tmp_path, "--job-name=a", "--array=0-1%1") == "1"
    assert submit(tmp_path, "--job-name=b", "--array=0-0") == "2"
    cluster.set_state(("a", 1), "CANCELLED", "Priority")
    assert slurm_client.array_tasks({"a", "c"}) == {
        ("a", 0): TaskState("PENDING", "None", "1"),
        ("a", 1): TaskState("CANCELLED", "Priority", "1"),
    }
    assert slurm_client.array_tasks(set()) == {}


def test_lines_that_are_no_tasks_are_passed_over(cluster):
    (cluster.folder / "squeue").write_text(
        "#!/bin/sh\necho CLUSTER: one\necho 'a|1|N/A|PENDING|None'\necho 'a|1|3|RUNNING|None'\n"
    )
    assert slurm_client.array_tasks({"a"}) == {("a", 3): TaskState("RUNNING", "None", "1")}


def test_the_formats_of_a_user_do_not_matter(cluster, monkeypatch):
    monkeypatch.setenv("SINFO_FORMAT", "%n")
    (cluster.folder / "sinfo").write_text('#!/bin/sh\necho "part${SINFO_FORMAT}"\n')
    assert slurm_client.partitions() == ["part"]


@pytest.mark.parametrize(
    ("answer", "number"), [("7", "7"), ("7;name", "7"), ("advice of the site\n7", "7")]
)
def test_the_number_of_a_job(cluster, tmp_path, answer, number):
    (cluster.folder / "sbatch").write_text(f"#!/bin/sh\necho '{answer}'\n")
    assert submit(tmp_path) == number


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("echo done", "sbatch answered 'done'"),
        (
            "for x in memory qos; do echo sbatch: error: Invalid $x >&2; done; exit 1",
            "^sbatch: Invalid memory; Invalid qos$",
        ),
        ("exit 3", "exit status 3"),
    ],
)
def test_a_refused_submission_is_one_line(cluster, tmp_path, program, words):
    (cluster.folder / "sbatch").write_text(f"#!/bin/sh\n{program}\n")
    with pytest.raises(SlurmError, match=words) as error:
        submit(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("state", "reason", "ended", "stuck", "accepted"),
    [
        ("PENDING", "Resources", False, False, True),
        ("PENDING", "JobHeldUser", False, True, True),
        ("PENDING", "PartitionTimeLimit", False, True, True),
        ("RUNNING", "None", False, False, True),
        ("COMPLETING", "None", False, False, True),
        ("REQUEUED", "None", False, False, True),
        ("TIMEOUT", "TimeLimit", True, False, False),
        ("PREEMPTED", "None", True, False, False),
        ("FAILED", "BadConstraints", True, False, False),
        ("COMPLETED", "None", True, False, True),
    ],
)
def test_what_states_mean(state, reason, ended, stuck, accepted):
    task = TaskState(state, reason)
    assert (task.ended, task.stuck, task.accepted) == (ended, stuck, accepted)
