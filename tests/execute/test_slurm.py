"""Jobs on a cluster, with a queue that the test moves on: submitted, followed, found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from bench.errors import BenchError, DetachedError
from bench.execute.executors import node_task, slurm, task_pool
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.local import LocalExecutor, run_jobs
from bench.execute.executors.node_task import run_assignments
from bench.execute.executors.profile import Profile
from bench.execute.executors.slurm import SlurmExecutor, bundled
from bench.execute.executors.submission import (
    Assignment,
    read_submission,
    sbatch_options,
    script_path,
    write_submission,
)
from bench.execute.executors.weights import fetch_weights
from bench.execute.request import Request
from bench.execute.run import run_request
from bench.report.tables import score_table
from bench.store import RunFolder
from tests.cli.tiny_dataset import (
    SECTIONS,
    assert_nothing_half_written,
    scores_of,
    write_plugin,
    write_tiny_dataset,
)
from tests.execute.fake_slurm import NO_ANSWER, FakeSlurm

IN_PROCESS = LocalExecutor(isolation="none")


class Recorder(JobWatcher):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def job_started(self, job):
        self.told.append(("started", job.method_spec.label, job.fold))

    def job_skipped(self, job):
        self.told.append(("skipped", job.method_spec.label, job.fold))

    def job_done(self, job):
        self.told.append(("done", job.method_spec.label, job.fold))

    def job_failed(self, job, reason):
        self.told.append(("failed", job.method_spec.label, job.fold, reason))

    def warn(self, message):
        self.told.append(("warned", message))

    def of(self, kind):
        """What was told of a kind, without the kind."""
        return [told[1:] for told in self.told if told[0] == kind]

    @property
    def warnings(self):
        return [message for (message,) in self.of("warned")]


def run_task(folder, number):
    """Run a task as ``bench execute`` does, but in this process."""
    submission = read_submission(folder)
    ((_, content),) = submission.request().items()
    failures = run_assignments(submission, number, content, JobWatcher())
    if failures:
        raise RuntimeError("exit status 1")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster that runs one task between two looks at its queue."""
    cluster = FakeSlurm.install(tmp_path / "slurm", run_task)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    # Tasks of the test run in this process: in it, and with its environment.
    monkeypatch.setattr(node_task, "run_jobs", partial(run_jobs, where=IN_PROCESS))
    monkeypatch.setattr(node_task, "forbid_downloads", lambda: None)
    monkeypatch.setattr(task_pool, "RETRY_SECONDS", 0.0)
    meanwhile(monkeypatch, cluster.run_next)
    return cluster


def meanwhile(monkeypatch, *steps):
    """Do something instead of each wait for the cluster; the last thing again and again."""
    left = list(steps)

    def sleep(seconds):
        assert sleep.calls < 200, "the cluster is waited for without end"
        sleep.calls += 1
        step = left.pop(0) if len(left) > 1 else left[0]
        step()

    sleep.calls = 0
    monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=sleep))


@pytest.fixture
def request_for(tiny, results):
    """Makes a request for runs on the tiny dataset."""

    def make(*methods, **changes):
        return Request(
            methods=methods,
            dataset=str(tiny.card),
            data_root=tiny.root,
            protocol=tiny.quick_protocol[1],
            oracles=False,
            **{"results": results, **changes},
        )

    return make


def profile(**changes):
    return Profile(**{"poll_seconds": 0.01, "settle_seconds": 0.0, **changes})


def run(request, watcher=None, *, submit_only=False, **changes):
    """Carry a request out on the cluster."""
    executor = SlurmExecutor(profile(**changes), submit_only=submit_only)
    return run_request(request, watcher=watcher or JobWatcher(), executor=executor)


def arrays(cluster):
    """Array option of each submission."""
    return [line.split("--array=")[1].split(" ")[0] for line in cluster.submissions]


# ------------------------------------------------------------------- from beginning to end


def test_a_cluster_computes_what_this_machine_does(cluster, request_for, results, tmp_path):
    methods = ("mean", "coordinates", "depth")
    watcher = Recorder()
    outcome = run(request_for(*methods), watcher, bundle=2, max_parallel=3)
    here = request_for(*methods, results=tmp_path / "here")
    expected = run_request(here, executor=IN_PROCESS)
    assert outcome.failures == []
    assert scores_of(results) == scores_of(tmp_path / "here")
    assert (
        score_table(outcome.runs)
        .drop(columns="fit_seconds", errors="ignore")
        .equals(score_table(expected.runs).drop(columns="fit_seconds", errors="ignore"))
    )
    assert arrays(cluster) == ["0-4%3"]
    folds = [fold for _, fold in watcher.of("done")]
    assert folds == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # methods on the same fold share its data
    assert_nothing_half_written(results)


def test_seeds_and_training_patients_are_told_apart_in_a_task(
    cluster, request_for, results, tmp_path
):
    variants = {"seeds": (3, 4), "train_patients": (1, None), "folds": (0, 1)}
    watcher = Recorder()
    outcome = run(request_for("mean", "coordinates", **variants), watcher, bundle=8)
    here = request_for("mean", "coordinates", results=tmp_path / "here", **variants)
    expected = run_request(here, executor=IN_PROCESS)
    assert outcome.failures == []
    assert len(watcher.of("done")) == 8  # one training patient is all of them
    assert score_table(outcome.runs)["seed"].tolist() == ["3,4", "3,4"]
    one, other = (score_table(of.runs).drop(columns="fit_seconds") for of in (outcome, expected))
    assert one.equals(other)


def test_a_task_tests_on_another_dataset(cluster, request_for, tmp_path):
    other = write_tiny_dataset(tmp_path / "other", "other", (*SECTIONS, "X1", "Y1"))
    sections = yaml.safe_load(other.card.read_text())["sections"][len(SECTIONS) :]
    other.edit_card(sections=sections, published_order=["X1", "Y1"])
    where = {"test_dataset": str(other.card), "test_data_root": other.root}
    outcome = run(request_for("mean", **where))
    assert outcome.failures == []
    assert score_table(outcome.runs)["sections"].item() == 2


def test_what_is_done_is_not_submitted(cluster, request_for):
    run(request_for("depth", folds=(0, 2)))
    watcher = Recorder()
    run(request_for("depth"), watcher)
    assert watcher.of("skipped") == [("depth", 0), ("depth", 2)]
    assert arrays(cluster) == ["0-1", "0-0"]
    run(request_for("depth"))
    assert len(cluster.submissions) == 2


def test_results_are_told_to_be_stored_in_the_calling_process(cluster, request_for):
    class Uploads:
        def __init__(self):
            self.runs, self.finished = [], 0

        def upload(self, run):
            self.runs.append(run)

        def finish(self):
            self.finished += 1

    uploads = Uploads()
    executor = SlurmExecutor(profile())
    run_request(request_for("depth"), executor=executor, uploads=uploads)
    assert [len(run.done) for run in uploads.runs] == [1, 2, 3, 3]
    assert uploads.finished == 1


@pytest.mark.parametrize(
    ("limit", "expected"), [(2, ["0-1", "0-0"]), (3, ["0-2"]), (1, ["0-0"] * 3)]
)
@pytest.mark.parametrize("stated", ["profile", "cluster"])
def test_arrays_are_split_at_the_limit(cluster, request_for, limit, expected, stated):
    if stated == "cluster":
        cluster.tell("config", f"MaxArraySize = {limit}")
    asked = limit if stated == "profile" else None
    with pytest.raises(DetachedError):
        run(request_for("depth"), array_limit=asked, submit_only=True)
    assert arrays(cluster) == expected


def test_a_forced_fold_is_done_again(cluster, request_for, results):
    run(request_for("depth", folds=(1,)))
    (manifest,) = results.glob("runs/*/*/*/fold-1/manifest.json")
    before = manifest.read_text()
    watcher = Recorder()
    run(request_for("depth", folds=(1,), force=True), watcher)
    assert watcher.of("done") == [("depth", 1)]
    assert manifest.read_text() != before
    assert len(cluster.submissions) == 2


def test_a_result_with_other_scores_is_done_again(cluster, request_for, results):
    run(request_for("depth", folds=(1,)))
    (path,) = results.glob("runs/*/*/*/fold-1/manifest.json")
    from bench.records import read_record, write_record

    record = {k: v for k, v in read_record(path).items() if k != "sha256"}
    write_record(path, {**record, "score_key": "0" * 64})
    watcher = Recorder()
    run(request_for("depth", folds=(1,)), watcher)
    assert watcher.of("done") == [("depth", 1)]
    assert len(cluster.submissions) == 2


# ------------------------------------------------------------------------------- bundles


def job(label, fold, twin=None):
    """What bundling asks of a job."""
    folder = lambda name: RunFolder(Path("runs", name), name)  # noqa: E731
    return SimpleNamespace(
        limit=0, name=f"{label}{fold}", fold=fold, run=folder(label), twin=twin and folder(twin)
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, ["a0 s0", "b0", "a1 s1", "b1"]),
        (2, ["a0 s0", "b0", "a1 s1", "b1"]),
        (3, ["a0 s0 b0", "a1 s1 b1"]),
        (4, ["a0 s0 b0", "a1 s1 b1"]),
        (5, ["a0 s0 b0 a1 s1", "b1"]),
        (9, ["a0 s0 b0 a1 s1 b1"]),
    ],
)
def test_bundles_keep_folds_and_twins_together(size, expected):
    jobs = [job("a", 0), job("b", 0), job("s", 0, "a"), job("a", 1), job("b", 1), job("s", 1, "a")]
    found = bundled(jobs, size)
    assert [" ".join(one.name for one in bundle) for bundle in found] == expected


def test_a_twin_whose_method_is_done_is_a_job_of_its_own():
    assert [len(bundle) for bundle in bundled([job("s", 0, "a"), job("s", 1, "a")], 1)] == [1, 1]


# --------------------------------------------------------------------- what is submitted


def submitted(tmp_path, monkeypatch, results="results", **changes):
    """A submission of five tasks in arrays of two, its options and its last script."""
    monkeypatch.chdir(tmp_path)
    bundles = [[Assignment("mean", fold, "key")] for fold in range(5)]
    asked = profile(**changes)
    submission = write_submission(tmp_path / results, {"run": {}}, bundles, asked, 2)
    return submission, sbatch_options(submission, 2, asked), script_path(submission, 2).read_text()


def test_the_options_of_an_array(tmp_path, monkeypatch):
    asked = {"partition": "gpu", "time": "1:00", "gpus": 1, "sbatch_options": ["--requeue"]}
    submission, options, script = submitted(tmp_path, monkeypatch, **asked)
    name = f"spotbench-{submission.folder.name}-2"
    assert options == [
        *(f"--job-name={name}", "--array=0-0"),
        *(f"--output={submission.folder}/logs/array-2-%a.log", "--open-mode=append"),
        *(f"--chdir={tmp_path}", "--partition=gpu", "--time=1:00", "--cpus-per-task=1"),
        *("--gres=gpu:1", "--requeue"),
    ]
    assert f"# sbatch --parsable --job-name={name} " in script
    assert submission.address(4) == (name, 0)
    assert submission.log(4) == submission.folder / "logs" / "array-2-0.log"
    assert list(submission.arrays) == [0, 1, 2]


def test_the_script_of_an_array(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"plugins{os.pathsep}/absolute")
    monkeypatch.setenv("SPOTBENCH_CACHE", "/my cache")
    monkeypatch.setenv("SECRET", "not to be written")
    asked = {"python": "~/bin/python", "setup": ("module load x",), "environment": {"A": "it's"}}
    submission, _, script = submitted(tmp_path, monkeypatch, **asked)
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[2] == "module load x"
    assert f"export PYTHONPATH={tmp_path / 'plugins'}:/absolute" in lines
    assert "export SPOTBENCH_CACHE='/my cache'" in lines
    assert "export A='it'\"'\"'s'" in lines
    assert lines[-1] == (
        f"exec {Path.home()}/bin/python -P -m bench execute {submission.folder}"
        " --task $((4 + SLURM_ARRAY_TASK_ID))"
    )
    assert "SECRET" not in script


def test_a_script_runs_in_a_shell_whatever_the_folder_is_called(tmp_path, monkeypatch):
    asked = {"python": str(tmp_path / "a python"), "environment": {"B": 'x "$HOME" `date`'}}
    python = tmp_path / "a python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" "$B"\n')
    python.chmod(0o755)
    folder = "it's 50 % $HOME"
    submission, options, _ = submitted(tmp_path, monkeypatch, results=folder, **asked)
    path = script_path(submission, 1)
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(
        ["bash", path], env=environment, capture_output=True, text=True, check=True
    )
    expected = ["-P", "-m", "bench", "execute", str(submission.folder), "--task", "3"]
    assert done.stdout.splitlines() == [*expected, 'x "$HOME" `date`']
    (output,) = [option for option in options if option.startswith("--output=")]
    assert "50 %% $HOME" in output


def test_a_submission_is_read_as_it_was_written(tmp_path, monkeypatch):
    submission, _, _ = submitted(tmp_path, monkeypatch, fetch=True)
    assert read_submission(submission.folder) == submission
    assert submission.request() == {"run": {}}
    assert (submission.folder / "request.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bundles": [[{"a": 1}]], "fetch": true}'])
def test_a_damaged_submission_is_refused(tmp_path, text):
    (tmp_path / "submission.json").write_text(text)
    with pytest.raises(BenchError, match=r"submission\.json"):
        read_submission(tmp_path)


# ------------------------------------------------------------------------- lost tasks


def lose_next(cluster, state="NODE_FAIL", *, listed=True):
    """The task that has waited longest ends without a result."""
    address = cluster.pending()[0]
    cluster.set_state(address, state if listed else None)


@pytest.mark.parametrize("listed", [True, False])
def test_a_lost_task_is_submitted_again(cluster, request_for, monkeypatch, listed):
    meanwhile(monkeypatch, lambda: lose_next(cluster, listed=listed), cluster.run_next)
    watcher = Recorder()
    outcome = run(request_for("depth"), watcher)
    assert outcome.failures == []
    assert arrays(cluster) == ["0-2", "0-0"]
    (warning,) = watcher.warnings
    assert ("NODE_FAIL" if listed else "no longer in the queue") in warning
    assert "submitted again" in warning


def test_a_fold_is_not_submitted_again_for_ever(cluster, request_for, monkeypatch, results):
    meanwhile(monkeypatch, lambda: cluster.pending() and lose_next(cluster, "TIMEOUT"))
    watcher = Recorder()
    outcome = run(request_for("depth", folds=(1,)), watcher, retries=1)
    (failure,) = outcome.failures
    assert (failure.label, failure.fold) == ("depth", 1)
    assert "ended without a result 2 times, the last one: TIMEOUT; log: " in failure.reason
    assert failure.reason.endswith("/logs/array-0-0.log")
    assert arrays(cluster) == ["0-0", "0-0"]
    (path,) = results.glob("runs/*/*/*/fold-1/failure.txt")
    assert path.read_text().startswith(failure.reason)
    assert "left no output" in path.read_text()


def test_the_end_of_the_log_is_kept_with_the_failure(cluster, request_for, monkeypatch, results):
    def lose():
        if cluster.pending():
            folder, number = cluster.task(cluster.pending()[0])
            read_submission(folder).log(number).write_text("python: command not found\n")
            lose_next(cluster, "FAILED")

    meanwhile(monkeypatch, lose)
    run(request_for("depth", folds=(1,)), retries=0)
    (path,) = results.glob("runs/*/*/*/fold-1/failure.txt")
    assert "python: command not found" in path.read_text()


def test_folds_that_a_task_had_no_time_for_do_not_count_as_tried(cluster, request_for, monkeypatch):
    """Each task of three folds has time for one only; two resubmissions are enough."""

    def run_one():
        address = cluster.pending()[0]
        folder, number = cluster.task(address)
        whole = node_task.run_jobs
        monkeypatch.setattr(
            node_task, "run_jobs", lambda jobs, *rest, **more: whole(jobs[:1], *rest, **more)
        )
        run_task(folder, number)
        monkeypatch.setattr(node_task, "run_jobs", whole)
        cluster.set_state(address, "TIMEOUT")

    meanwhile(monkeypatch, run_one)
    outcome = run(request_for("depth"), bundle=3, retries=0)
    assert outcome.failures == []
    assert arrays(cluster) == ["0-0"] * 3


def test_a_task_waits_until_its_results_can_be_seen(cluster, request_for, monkeypatch):
    late = []

    def end_early():
        address = cluster.pending()[0]
        late.append(cluster.task(address))
        cluster.set_state(address, None)

    meanwhile(monkeypatch, end_early, lambda: None, lambda: late and run_task(*late.pop()))
    run(request_for("depth", folds=(0,)), settle_seconds=60)
    assert arrays(cluster) == ["0-0"]


def test_a_task_that_waits_for_somebody_is_told_once(cluster, request_for, monkeypatch):
    address = lambda: next(iter(cluster.queue()))  # noqa: E731
    hold = lambda: cluster.set_state(address(), "PENDING", "JobHeldUser")  # noqa: E731
    meanwhile(monkeypatch, hold, hold, hold, cluster.run_next)
    watcher = Recorder()
    run(request_for("depth", folds=(0,)), watcher)
    assert watcher.warnings == [
        "a task waits in the queue until somebody acts: PENDING, JobHeldUser"
    ]


# -------------------------------------------------------------------- what cannot be done


def test_a_method_that_fails_is_not_tried_again(cluster, plugins, request_for, results):
    fails = 'if all(s.patient != "B" for s in data.sections): raise RuntimeError("boom")'
    write_plugin(plugins, "fails", fit=fails)
    watcher = Recorder()
    outcome = run(request_for("fails"), watcher)
    (failure,) = outcome.failures
    assert (failure.label, failure.fold, failure.reason) == ("fails", 1, "RuntimeError: boom")
    assert arrays(cluster) == ["0-2"]
    assert watcher.of("failed") == [("fails", 1, "RuntimeError: boom")]
    (path,) = results.glob("runs/*/*/*/fold-1/failure.txt")
    assert "Traceback" in path.read_text()


def test_a_node_with_other_code_refuses(cluster, request_for, monkeypatch):
    def other_code():
        with monkeypatch.context() as patch:
            patch.setattr("bench.execute.keys._FIT_PACKAGES", ("numpy",))
            cluster.run_next()

    meanwhile(monkeypatch, other_code)
    outcome = run(request_for("depth", folds=(0,)))
    (failure,) = outcome.failures
    assert "code, packages or data have changed since the submission" in failure.reason
    assert arrays(cluster) == ["0-0"]


def test_a_node_without_the_data_says_so(cluster, request_for, monkeypatch):
    monkeypatch.setattr(node_task, "is_here", lambda card, root: False)
    outcome = run(request_for("depth", folds=(0,)))
    (failure,) = outcome.failures
    assert "tiny: no data folder on this node" in failure.reason
    assert "--data-root" in failure.reason


def test_a_task_downloads_only_if_the_profile_permits_it(cluster, request_for, monkeypatch):
    told = []
    monkeypatch.setattr(node_task, "forbid_downloads", lambda: told.append("forbidden"))
    monkeypatch.setattr(node_task, "fetch_if_absent", lambda card, root: told.append("fetched"))
    run(request_for("depth", folds=(0,)))
    run(request_for("depth", folds=(1,)), fetch=True)
    assert told == ["forbidden", "fetched"]


def test_downloads_that_are_forbidden_fail_at_once(monkeypatch):
    import requests

    for name in ("HF_HUB_OFFLINE", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "")
    node_task.forbid_downloads()
    with pytest.raises(requests.ConnectionError):
        requests.get("https://download.pytorch.org/x", timeout=5)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_weights_are_fetched_before_the_submission(cluster, request_for, monkeypatch, results):
    asked = []

    def fetch(jobs):
        asked.extend(job.fold for job in jobs)
        raise BenchError("cannot be fetched")

    monkeypatch.setattr(slurm, "fetch_weights", fetch)
    with pytest.raises(BenchError, match="cannot be fetched"):
        run(request_for("depth"))
    assert asked == [0, 1, 2]
    assert cluster.submissions == []
    assert_nothing_half_written(results)


def test_the_weights_that_jobs_would_fetch(monkeypatch):
    fetched = []
    # In the place of the module, which would import torch.
    images = SimpleNamespace(image_encoder=lambda *of: fetched.append(of))
    monkeypatch.setitem(sys.modules, "bench.blocks.encoders", images)
    others = [
        {"encoder": "uni", "weights": "pretrained"},  # here since the request was planned
        {"encoder": "densenet121", "weights": "none"},
        {"weights": "imagenet"},
        {},
    ]
    wanted = {"encoder": "densenet121", "weights": "imagenet"}
    for configs in (others, [*others, wanted, wanted]):
        fetch_weights(SimpleNamespace(method_spec=SimpleNamespace(config=of)) for of in configs)
    assert fetched == [("densenet121", "imagenet")]


# ------------------------------------------------------------------- the cluster's troubles


def test_a_controller_that_is_down_for_a_while_is_told_once(cluster, request_for, monkeypatch):
    down = lambda: cluster.tell("down", NO_ANSWER)  # noqa: E731
    meanwhile(
        monkeypatch,
        down,
        cluster.run_next,  # jobs go on without the controller
        lambda: None,
        lambda: cluster.tell("down", None),
        cluster.run_next,
    )
    watcher = Recorder()
    outcome = run(request_for("depth"), watcher)
    assert outcome.failures == []
    assert [warning.split(";")[0] for warning in watcher.warnings] == [
        f"squeue: {NO_ANSWER}",
        "Slurm answers again",
    ]
    assert len(cluster.submissions) == 1


def test_a_refused_submission_leaves_nothing(cluster, request_for, results):
    cluster.tell("refusal", "sbatch: error: Invalid account or account/partition combination")
    with pytest.raises(BenchError, match="nothing was submitted: sbatch: Invalid account"):
        run(request_for("depth"))
    assert list(results.glob("slurm/*")) == []
    assert_nothing_half_written(results)


def test_a_refused_submission_that_the_queue_lists_is_refused(cluster, request_for):
    refusal = "sbatch: error: Requested node configuration is not available"
    cluster.tell("silence", refusal)
    program = (cluster.folder / "sbatch").read_text()
    (cluster.folder / "sbatch").write_text(program.replace("PENDING|None", "FAILED|BadConstraints"))
    with pytest.raises(BenchError, match="nothing was submitted: sbatch: Requested node"):
        run(request_for("depth"))


def test_a_submission_of_which_nothing_is_known_is_kept(cluster, request_for, results):
    cluster.tell("silence", "sbatch: error: Socket timed out on send/recv operation")
    cluster.tell("down", NO_ANSWER)
    with pytest.raises(BenchError, match=r"Socket timed out .*; call again when Slurm answers"):
        run(request_for("depth"))
    assert len(list(results.glob("slurm/*"))) == 1
    cluster.tell("silence", None)
    cluster.tell("down", None)
    assert run(request_for("depth")).failures == []
    assert len(cluster.submissions) == 1  # it had been accepted


def test_an_answer_that_was_lost_is_no_refusal(cluster, request_for):
    cluster.tell("silence", "sbatch: error: Socket timed out on send/recv operation")
    watcher = Recorder()
    assert run(request_for("depth"), watcher).failures == []
    assert len(cluster.submissions) == 1
    (warning,) = watcher.warnings
    assert "Socket timed out" in warning


def test_an_array_that_is_refused_is_submitted_later(cluster, request_for, monkeypatch):
    limit = "Job violates accounting/QOS policy (job submit limit)"
    program = (cluster.folder / "sbatch").read_text()
    full = program.replace("job=$(", '[ -s "$FAKE/queue" ] && { echo "x" >&2; exit 1; }\njob=$(')
    (cluster.folder / "sbatch").write_text(full.replace('"x"', f'"{limit}"'))

    def room():
        cluster.run_next()
        if not cluster.pending():
            (cluster.folder / "sbatch").write_text(program)

    meanwhile(monkeypatch, room)
    watcher = Recorder()
    outcome = run(request_for("depth"), watcher, array_limit=1)
    assert outcome.failures == []
    assert len(watcher.of("done")) == 3
    assert watcher.warnings == [f"sbatch: {limit}; what was refused is submitted later"]


# ------------------------------------------------------------------- the same call again


def test_submit_only_and_then_the_same_call(cluster, request_for, results):
    with pytest.raises(DetachedError) as detached:
        run(request_for("depth"), submit_only=True)
    assert str(detached.value) == "3 folds: 3 tasks are queued or running in Slurm (job 1)"
    assert not detached.value.interrupted
    (path,) = results.glob("slurm/*/arrays.json")
    assert list(json.loads(path.read_text()).values()) == ["1"]
    with pytest.raises(DetachedError):
        run(request_for("depth"), submit_only=True)
    watcher = Recorder()
    assert run(request_for("depth"), watcher).failures == []
    assert len(watcher.of("done")) == 3
    assert len(cluster.submissions) == 1


def test_submit_only_when_all_is_done(cluster, request_for):
    run(request_for("depth"))
    outcome = run(request_for("depth"), submit_only=True)
    assert len(outcome.runs) == 1
    assert len(cluster.submissions) == 1


def test_another_call_follows_the_folds_that_it_shares(cluster, request_for, monkeypatch):
    with pytest.raises(DetachedError):
        run(request_for("depth", folds=(0, 1)), submit_only=True, bundle=2)
    outcome = run(request_for("depth", "mean"))
    assert outcome.failures == []
    assert arrays(cluster) == ["0-0", "0-3"]  # depth on fold 2, mean on all


def test_a_refused_call_takes_nothing_from_the_tasks_of_another(cluster, request_for, results):
    with pytest.raises(DetachedError):
        run(request_for("depth"), submit_only=True)
    cluster.tell("down", NO_ANSWER)
    with pytest.raises(BenchError, match="Unable to contact"):
        run(request_for("depth"))
    cluster.run_next()
    assert len(list(results.glob("runs/*/*/*/run.json"))) == 1


def test_tasks_that_have_ended_are_not_followed(cluster, request_for):
    with pytest.raises(DetachedError):
        run(request_for("depth"), submit_only=True)
    for address in cluster.pending()[:2]:
        cluster.set_state(address, "CANCELLED")
    assert run(request_for("depth")).failures == []
    assert arrays(cluster) == ["0-2", "0-1"]


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal; a shell lets what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_call_leaves_its_jobs(cluster, request_for, monkeypatch):
    meanwhile(monkeypatch, cluster.run_next, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(DetachedError, match=r"2 folds: 2 tasks .*\(job 1\)") as detached:
        run(request_for("depth"))
    assert detached.value.interrupted
    meanwhile(monkeypatch, cluster.run_next)
    watcher = Recorder()
    assert run(request_for("depth"), watcher).failures == []
    assert watcher.of("skipped") == [("depth", 0)]
    assert len(cluster.submissions) == 1


def test_a_forced_call_that_was_interrupted_is_followed_without_force(
    cluster, request_for, results
):
    run(request_for("depth", folds=(1,)))
    (manifest,) = results.glob("runs/*/*/*/fold-1/manifest.json")
    before = manifest.read_text()
    with pytest.raises(DetachedError):
        run(request_for("depth", folds=(1,), force=True), submit_only=True)
    watcher = Recorder()
    run(request_for("depth", folds=(1,)), watcher)
    assert watcher.of("done") == [("depth", 1)]
    assert manifest.read_text() != before
    assert len(cluster.submissions) == 2


@pytest.mark.parametrize(
    ("asked", "precisions", "expected"),
    [
        ("auto", ["float32-", "bf16+", "bf16+"], "bf16"),
        ("auto", ["float32-", "float32+"], "float32"),
        ("auto", ["float32-"], "float32"),
        ("bf16", ["float32-"], "bf16"),
    ],
)
def test_the_precision_of_this_machine_is_that_of_the_nodes(asked, precisions, expected):
    jobs = [
        SimpleNamespace(precision=of[:-1], method_spec=SimpleNamespace(needs_image=of[-1] == "+"))
        for of in precisions
    ]
    request = Request(("a",), "demo", precision=asked, force=True, results=Path("r"))
    chosen = slurm.node_request(request, jobs)
    assert chosen == Request(("a",), "demo", precision=expected, results=Path("r").absolute())
