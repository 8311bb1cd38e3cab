"""A real Slurm on this machine: the same scores, whatever happens to tasks and controller."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest

from tests.cli.tiny_dataset import (
    SECTIONS,
    Result,
    assert_nothing_half_written,
    assert_refused,
    call_process,
    fold_folders,
    rows_of,
    scores_of,
    start,
    write_plugin,
)
from tests.execute.slurm_cluster import PARTITION, UnavailableError, slurm_cluster
from tests.tune.conftest import searcher as _searcher

pytestmark = pytest.mark.slow

PATIENCE = 300
QUICK = f"partition: {PARTITION}\npoll_seconds: 0.3\nsettle_seconds: 1\n"


def running_cluster(**options):
    """A fixture's cluster; its tests are skipped where none can be started."""
    manager = slurm_cluster(**options)
    try:
        cluster = manager.__enter__()
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        yield cluster
    finally:
        manager.__exit__(None, None, None)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node with two processors."""
    yield from running_cluster()


@pytest.fixture(scope="module")
def narrow_cluster():
    """A cluster whose arrays have two tasks at most."""
    yield from running_cluster(more="MaxArraySize=2")


@pytest.fixture
def profile(tmp_path):
    """Writes a profile; gives the options that choose it."""

    def write(text=""):
        path = tmp_path / "cluster.yaml"
        path.write_text(QUICK + text)
        return "--executor", "slurm", "--profile", path

    return write


@pytest.fixture
def begin(results):
    """Starts ``bench`` in a process of its own, which is killed at the end."""
    started = []

    def start_bench(cluster, *arguments, path=None):
        call = (*arguments, "--results", results, "--tracking", "none")
        started.append(start(*call, path=path, env=cluster.environment))
        return started[-1]

    yield start_bench
    for process in started:
        process.kill()
        process.communicate()


def end(process):
    """What a process left behind that ends by itself."""
    out, err = process.communicate(timeout=PATIENCE)
    return Result(process.returncode, out, err)


def wait_for(condition, process):
    """Wait until something is so, as long as the process lives; gives what it is."""
    limit = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.1)
    return found


def read_until(process, words):
    """What a process says on stderr, up to the line with the words."""
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


def tasks(cluster, *states):
    """Tasks that are in one of the states, as ``job_index``."""
    answer = cluster.call("squeue", "-h", "-r", f"--states={','.join(states)}", "-o", "%i")
    return answer.split()


def kinds(results):
    """What each submission is of, in their order."""
    paths = sorted(results.glob("slurm/*/request.json"))
    return [next(iter(json.loads(path.read_text()))) for path in paths]


def submissions(results):
    """Job scripts by submission."""
    return sorted(path.relative_to(results) for path in results.glob("slurm/*/array-*.sh"))


# ----------------------------------------------------------------------------------- runs


def test_a_run_survives_a_cancelled_task_and_a_restart(cluster, begin, profile, results, tmp_path):
    methods = ("--method", "mean,coordinates,ridge,knn,mlp")
    call = ("run", *methods, "--dataset", "demo", "--preset", "quick", "--no-oracles", "--json")
    here = call_process(
        *call, "--results", tmp_path / "here", "--tracking", "none", timeout=PATIENCE
    )
    assert here.status == 0, here.stderr
    process = begin(cluster, *call, *profile("bundle: 3\n"))
    wait_for(lambda: list(results.glob("runs/*/*/*/*/manifest.json")), process)
    victim = wait_for(lambda: tasks(cluster, "RUNNING"), process)[0]
    cluster.call("scancel", victim)
    cluster.stop_controller()
    said = read_until(process, "Unable to contact slurm controller")
    cluster.start_controller()
    there = end(process)
    said += there.stderr
    assert there.status == 0, said
    assert re.search(r"array-0-\d\.log: ended without the results of \d folds \(CANCELLED", said)
    assert said.count("Unable to contact slurm controller") == 1
    assert said.count("Slurm answers again") == 1
    assert rows_of(there) == rows_of(here)
    assert len(scores_of(results)) == 15
    assert scores_of(results) == scores_of(tmp_path / "here")
    assert len(submissions(results)) == 2
    assert_nothing_half_written(results)


def test_features_of_an_encoder_are_computed_by_tasks(cluster, profile, tiny, results, tmp_path):
    settings = ("weights=none", "input_size=32", "patch_size=32")
    asked = (*tiny.where, "--encoder", "test_resnet", *(f"--set={value}" for value in settings))
    caches = {place: {"SPOTBENCH_CACHE": str(tmp_path / place)} for place in ("here", "there")}
    compute = ("features", "compute", *asked, "--results", results)
    here = call_process(*compute, env=caches["here"], timeout=PATIENCE)
    assert here.status == 0, here.stderr
    environment = {**cluster.environment, **caches["there"]}
    there = call_process(*compute, *profile("bundle: 2\n"), env=environment, timeout=PATIENCE)
    assert there.status == 0, there.stderr
    found, wanted = (
        {path.name: path.read_bytes() for path in (tmp_path / place / "features").rglob("*.npz")}
        for place in ("there", "here")
    )
    assert len(wanted) == len(SECTIONS)
    assert found == wanted
    assert len(list(results.glob("slurm/*/logs/array-0-*.log"))) == 3
    again = call_process(*compute, *profile("bundle: 2\n"), env=environment, timeout=PATIENCE)
    assert again.status == 0, again.stderr
    assert len(submissions(results)) == 1


def test_submit_only_and_then_the_same_call(cluster, begin, profile, tiny, results):
    call = ("run", "--method", "mean,coordinates", *tiny.options, *tiny.quick_protocol)
    cluster.call("scontrol", "update", f"PartitionName={PARTITION}", "State=DOWN")
    try:
        answer = end(begin(cluster, *call, *profile(), "--submit-only"))
        assert (answer.status, answer.stdout) == (0, "")
        assert "6 folds: 6 tasks are queued or running in Slurm (job " in answer.stderr
        assert len(tasks(cluster, "PENDING")) == 6
        process = begin(cluster, *call, *profile())
        read_until(process, "PartitionDown")
        process.send_signal(signal.SIGTERM)
        answer = end(process)
        assert answer.status == 143
        assert "6 folds: 6 tasks are queued or running in Slurm (job " in answer.stderr
        assert "; follow with: bench run --method mean,coordinates" in answer.stderr
        assert fold_folders(results) == []
    finally:
        cluster.call("scontrol", "update", f"PartitionName={PARTITION}", "State=UP")
    answer = end(begin(cluster, *call, *profile(), "--json"))
    assert answer.status == 0, answer.stderr
    assert [row["folds"] for row in json.loads(answer.stdout)["rows"]] == [3, 3]
    assert len(submissions(results)) == 1


def test_the_same_call_twice_at_once_submits_once(cluster, begin, profile, tiny, results):
    call = ("run", "--method", "mean", *tiny.options, *tiny.quick_protocol, *profile(), "--json")
    answers = [end(process) for process in [begin(cluster, *call), begin(cluster, *call)]]
    assert [answer.status for answer in answers] == [0, 0], answers
    assert rows_of(answers[0]) == rows_of(answers[1])
    assert len(submissions(results)) == 1


def test_arrays_are_split_where_the_cluster_allows_two_tasks(
    narrow_cluster, begin, profile, tiny, results
):
    call = ("run", "--method", "mean", *tiny.options, *tiny.quick_protocol, *profile())
    answer = end(begin(narrow_cluster, *call))
    assert answer.status == 0, answer.stderr
    assert [path.name for path in submissions(results)] == ["array-0.sh", "array-1.sh"]
    assert len(scores_of(results)) == 3


def test_a_folder_with_a_difficult_name(cluster, begin, profile, tiny, tmp_path):
    results = tmp_path / "it's 50% of $HOME"
    call = ("run", "--method", "mean", *tiny.options, *tiny.quick_protocol, "--folds", 0)
    options = ("--results", results, "--tracking", "none")
    answer = end(start(*call, *profile(), *options, env=cluster.environment))
    assert answer.status == 0, answer.stderr
    (log,) = results.glob("slurm/*/logs/*")
    assert "mean fold 0: done" in log.read_text()


def test_a_killed_task_is_submitted_again_and_a_failing_method_is_not(
    cluster, begin, plugins, profile, tiny, results, tmp_path
):
    kills = f"""
    import os, pathlib, signal
    tested = "ABC".translate({{ord(s.patient): None for s in data.sections}})
    told = pathlib.Path({str(tmp_path)!r}, f"killed-{{tested}}")
    if tested == "A":
        raise RuntimeError("boom")
    if not told.exists():
        told.touch()
        os.kill(int(os.environ["SLURM_TASK_PID"]), signal.SIGKILL)
    """
    write_plugin(plugins, "dies", fit=kills)
    call = ("run", "--method", "dies", *tiny.options, *tiny.quick_protocol, *profile())
    answer = end(begin(cluster, *call, path=plugins))
    assert answer.status == 1
    assert len(scores_of(results)) == 2
    assert answer.stderr.count("they are submitted again") == 2
    assert answer.stderr.count("(FAILED") == 2
    assert "dies, fold 0 failed: RuntimeError: boom" in answer.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partition: long", "the cluster has no partition 'long'; it has quick"),
        ("account: nobody\nsbatch_options: [--gres=gpu:1]", "nothing was submitted: sbatch: "),
        ("memory: 900G", "nothing was submitted: sbatch: "),
        ("time: 2h", "time: write a text that Slurm reads"),
        ("tine: '2:00'", "unknown profile field 'tine'; did you mean time"),
    ],
)
def test_a_wrong_profile_is_refused(cluster, begin, tiny, results, tmp_path, text, words):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    call = ("run", "--method", "mean", *tiny.options, *tiny.quick_protocol)
    answer = end(begin(cluster, *call, "--executor", "slurm", "--profile", path))
    assert_refused(answer, words, lines=None)
    assert_nothing_half_written(results)
    assert list(results.glob("slurm/*")) == []
    assert tasks(cluster, "PENDING", "RUNNING") == []


def test_a_task_that_will_never_start_is_told(cluster, begin, profile, tiny):
    call = ("run", "--method", "mean", *tiny.options, *tiny.quick_protocol)
    process = begin(cluster, *call, *profile("cpus: 64\n"))
    read_until(process, "until somebody acts: PENDING, PartitionConfig")
    process.send_signal(signal.SIGINT)
    answer = end(process)
    assert answer.status == 130
    (job,) = set(re.findall(r"\(job (\d+)\)", answer.stderr))
    cluster.call("scancel", job)


def test_a_cluster_whose_controller_is_down(cluster, begin, profile, tiny, results):
    cluster.stop_controller()
    try:
        call = ("run", "--method", "mean", *tiny.options, *tiny.quick_protocol, *profile())
        assert_refused(end(begin(cluster, *call)), "sinfo: ", "Unable to contact slurm controller")
    finally:
        cluster.start_controller()
    assert not results.exists()


# ----------------------------------------------------------------------------------- studies


searcher = _searcher


@pytest.fixture
def tune_options(searcher, tiny):
    """Options of ``bench tune`` for a method whose fits take a second."""
    call = ("tune", "--method", searcher, *tiny.where, *tiny.quick_protocol, "--folds", "0,1")
    call += ("--objective", "mse", "--pruner", "none", "--trials", 4)
    return (*call, "--set", "wait=1.0")


def test_studies_survive_a_lost_worker(cluster, begin, plugins, profile, tune_options, results):
    process = begin(cluster, *tune_options, "--json", *profile(), path=plugins)
    wait_for(lambda: list(results.glob("tuning/*/*/*/*/workers/*.lock")), process)
    victim = wait_for(lambda: tasks(cluster, "RUNNING"), process)[0]
    cluster.call("scancel", victim)
    answer = end(process)
    assert answer.status == 0, answer.stderr
    assert "a worker ended with trials left (CANCELLED" in answer.stderr
    rows = json.loads(answer.stdout)["rows"]
    assert {row["method"]: row["folds"] for row in rows} == {
        "searcher": 2,
        "tuned:searcher": 2,
    }
    studies = sorted(results.glob("tuning/*/*/*/*/study.json"))
    assert [json.loads(path.read_text())["trials"]["complete"] for path in studies] == [4, 4]
    assert kinds(results) == ["tune", "tune", "run", "run"]


def test_studies_are_followed_by_the_same_call(
    cluster, begin, plugins, profile, tune_options, results
):
    call = (*tune_options, *profile(), "--jobs", 2)
    answer = end(begin(cluster, *call, "--submit-only", path=plugins))
    assert answer.status == 0, answer.stderr
    assert "2 studies: 4 tasks are queued or running in Slurm (job " in answer.stderr
    assert answer.stdout == ""
    answer = end(begin(cluster, *call, "--json", path=plugins))
    assert answer.status == 0, answer.stderr
    assert kinds(results) == ["tune", "run", "run"]
    assert len(list(results.glob("tuning/*/*/*/*/best.yaml"))) == 2
