"""What goes wrong in the middle of a run: methods, signals, disks, other processes."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.cli.tiny_dataset import (
    TINY_NETWORK,
    assert_refused,
    scores_of,
    start,
    write_plugin,
)

FAIL_IN_FOLD_1 = """
if all(section.patient != "B" for section in data.sections):
    raise RuntimeError("boom\\nsecond line")
"""

WAIT_WHEN_TOLD = """
import os, pathlib, time
folder = pathlib.Path(os.environ["TEST_SIGNALS"])
tested = "".join(sorted({"A", "B", "C"} - {section.patient for section in data.sections}))
(folder / f"started-{tested}").write_text(str(os.getpid()))
while (folder / f"hold-{tested}").exists():
    time.sleep(0.02)
"""


@pytest.fixture
def options(tiny, results):
    """Options after ``bench run`` that choose dataset, results folder, and no tracking."""
    return (*tiny.options, "--tracking", "none", "--results", results)


@pytest.fixture
def run(bench, options):
    """Runs methods on the tiny dataset in this process."""
    return lambda method, *more: bench("run", "--method", method, *options, *more)


def forget(module):
    """Let the next import read a plugin's file again."""
    sys.modules.pop(module, None)
    importlib.invalidate_caches()


def rows_of(result):
    """Rows of JSON output by method, without the time they took."""
    rows = json.loads(result.stdout)["rows"]
    return {row["method"]: {k: v for k, v in row.items() if k != "fit_seconds"} for row in rows}


def wait_for(condition, process=None, seconds=60):
    """Wait until `condition()` holds; fails when the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended early with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


# ------------------------------------------------------------------------ failing methods


def test_failing_fold_costs_that_fold_alone(run, bench, plugins, results):
    write_plugin(plugins, "fragile", fit=FAIL_IN_FOLD_1)
    answer = run("fragile,mean")
    assert answer.status == 1
    assert "fragile fold 1: failed" in answer.stderr
    assert "Traceback" not in answer.stderr
    (complaint,) = (line for line in answer.stderr.splitlines() if line.startswith("bench: "))
    assert "fragile, fold 1 failed: RuntimeError: boom second line" in complaint
    (failure,) = results.rglob("failure.txt")
    assert str(failure) in complaint
    text = failure.read_text()
    assert "Traceback (most recent call last)" in text
    assert "plugin_fragile.py" in text
    assert "RuntimeError: boom" in text
    done = {path.parent.relative_to(results / "runs/tiny/strict") for path in _manifests(results)}
    folds = {(path.parent.name.rsplit("-", 1)[0], path.name) for path in done}
    wanted = {("mean", f"fold-{fold}") for fold in range(3)}
    assert folds == wanted | {("fragile", "fold-0"), ("fragile", "fold-2")}
    assert "2/3" in answer.stdout

    (note,) = (line for line in answer.stdout.splitlines() if "2 of 3 folds" in line)
    assert "fragile" in note
    assert re.search(r"fold 1\b", note), f"which fold is missing? {note}"
    stored = bench("tables", "--dataset", "tiny", "--results", results)
    assert note in stored.stdout

    again = run("fragile", "--json")
    assert again.status == 1
    (failure,) = json.loads(again.stdout)["failures"]
    assert (failure["label"], failure["fold"]) == ("fragile", 1)
    assert failure["reason"] == "RuntimeError: boom second line"


def _manifests(results):
    return sorted(results.glob("runs/*/*/*/fold-*/manifest.json"))


def test_same_call_tries_the_failed_fold_alone(run, plugins, results):
    write_plugin(plugins, "unlucky", before="import pathlib", fit=_fails_while("broken", plugins))
    (plugins / "broken").touch()
    assert run("unlucky", "--folds", "0,2").status == 1
    (plugins / "broken").unlink()
    again = run("unlucky", "--folds", "0,2")
    assert again.status == 0
    assert again.stderr.count("kept, it is done") == 1
    assert "2/3" in again.stdout
    assert list(results.rglob("failure.txt")) == []


def _fails_while(name, folder):
    return f"""
if pathlib.Path({str(folder / name)!r}).exists() and data.sections[0].patient == "B":
    raise RuntimeError("not now")
"""


def test_mended_method_is_a_new_run(run, bench, plugins, results):
    write_plugin(plugins, "mended", fit=FAIL_IN_FOLD_1)
    assert run("mended", "--folds", "0,1").status == 1
    write_plugin(plugins, "mended", fit="")
    forget("plugin_mended")
    answer = run("mended", "--folds", "0,1")
    assert answer.status == 0
    assert "kept" not in answer.stderr
    assert "2/3" in answer.stdout
    assert "1/3" not in answer.stdout
    assert len(list(results.glob("runs/tiny/strict/mended-*"))) == 2
    stored = bench("tables", "--dataset", "tiny", "--results", results).stdout
    assert "1/3" not in stored, "the older run of a method is not shown beside the newer"


NO_PREDICTIONS = {
    name: (predict, words)
    for name, predict, words in [
        ("gives_nan", "predictions[1][3, 7] = np.nan", ["section A2", "GENE7", "not finite"]),
        ("gives_inf", "predictions[0][0, 0] = np.inf", ["section A1", "GENE0", "not finite"]),
        ("gives_less", "predictions[1] = predictions[1][:-1]", ["section A2", "(29, 40)"]),
        ("gives_flat", "predictions[0] = predictions[0].ravel()", ["section A1", "(1200,)"]),
        ("gives_list", "predictions[0] = predictions[0].tolist()", ["section A1", "list"]),
        ("gives_one", "predictions = predictions[:1]", ["1 predictions for 2 slides"]),
        ("gives_none", "predictions = [None, None]", ["section A1", "NoneType"]),
        ("gives_nothing", "predictions = None", ["NoneType"]),
        ("gives_text", "predictions[0] = np.array(['x'])", []),
    ]
}


@pytest.fixture(scope="module")
def without_predictions(run_together):
    """Methods that predict what is no prediction, and one that does, in one call."""
    plugins = {name: {"predict": predict} for name, (predict, _) in NO_PREDICTIONS.items()}
    return run_together(plugins, "mean")


@pytest.mark.parametrize("name", NO_PREDICTIONS)
def test_prediction_that_is_none_costs_the_fold(without_predictions, name):
    answer, scores = without_predictions
    assert answer.status == 1
    told = (line for line in answer.stderr.splitlines() if line.startswith("bench: "))
    (complaint,) = (line for line in told if f"{name}, fold 0 failed" in line)
    for word in NO_PREDICTIONS[name][1]:
        assert word in complaint
    assert set(scores) == {"mean/fold-0"}


def test_method_may_not_see_the_test_sections_expression(run, plugins):
    seen = "assert not {'expression', 'target', 'counts'} & set(dir(slides[0]))"
    write_plugin(plugins, "curious", predict=seen)
    assert run("curious", "--folds", "0").status == 0


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("raise RuntimeError('line one\\nline two')", "RuntimeError: line one"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_method_that_cannot_be_imported(run, bench, plugins, results, before, words):
    name = f"unimportable{len(before)}"
    write_plugin(plugins, name, before=before)
    assert_refused(run(name), name, "cannot be imported", words)
    assert not list(results.glob("runs/*"))
    assert run("mean", "--folds", "0").status == 0
    listing = bench("list", "methods")
    assert listing.status == 0
    for listed in (name, "mean", "mclstexp", "coordinates", "depth"):
        assert listed in listing.stdout


def test_entry_point_without_a_method(run, plugins):
    folder = write_plugin(plugins, "hollow")
    (folder / "plugin_hollow.py").write_text("Plugin = 3\n")
    assert_refused(run("hollow"), "hollow", "no Method class")


def test_two_methods_of_one_name(run, bench, plugins, results):
    write_plugin(plugins, "mean", module="another_mean")
    rows = json.loads(bench("list", "methods", "--json").stdout)["methods"]
    names = {row["name"]: row["from"] for row in rows}
    (other,) = {name for name in names if name.endswith(":mean")}
    assert names["mean"] == "built-in"
    assert names[other] == other.removesuffix(":mean")
    assert run(f"mean,{other}", "--folds", "0").status == 0
    assert len(list(results.glob("runs/*/*/*mean-*"))) == 2


# -------------------------------------------------------------------------------- signals


@pytest.fixture
def signals(tmp_path):
    """Folder by which a test and a plugin in another process talk."""
    folder = tmp_path / "signals"
    folder.mkdir()
    return folder


@pytest.fixture
def slow(plugins, signals, options, tiny):
    """Starts a run of a method that waits in a fold while ``hold-<patient>`` exists."""
    write_plugin(plugins, "slow", fit=WAIT_WHEN_TOLD)
    processes = []

    def begin(*more):
        call = ("run", "--method", "slow", *options, *tiny.quick_protocol, *more)
        process = start(*call, path=plugins, env={"TEST_SIGNALS": str(signals)})
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_interrupt_tells_how_to_resume(slow, signals, bench_process, plugins, results):
    (signals / "hold-B").touch()
    process = slow()
    wait_for((signals / "started-B").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("bench: interrupted")
    assert "what is finished is kept" in last
    command = shlex.split(last.partition("resume with: ")[2])
    assert command[:2] == ["bench", "run"]

    (signals / "hold-B").unlink()
    env = {"TEST_SIGNALS": str(signals)}
    again = bench_process(*command[1:], path=plugins, env=env)
    assert again.status == 0
    assert "slow fold 0: kept, it is done" in again.stderr
    assert again.stderr.count("done in") == 2
    assert len(_manifests(results)) == 3
    assert "2 of 3 folds" not in again.stdout


@pytest.mark.slow
def test_interrupt_while_a_network_trains(options, results, tmp_path):
    program = tmp_path / "checkpoint_every_epoch.py"
    program.write_text(
        "import torch, bench.training.fitting\n"
        "torch.set_num_threads(1)\n"
        "bench.training.fitting.CHECKPOINT_SECONDS = 0.0\n"
        "from bench.cli import main\n"
        "main()\n"
    )
    call = ("run", "--method", "mclstexp", *options, *TINY_NETWORK, "--set", "epochs=100000")
    process = start(*call, "--isolation", "none", program=(str(program),))
    try:
        checkpoint = "runs/*/*/*/fold-0/scratch/training.ckpt"
        wait_for(lambda: list(results.glob(checkpoint)), process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "resume with: bench run --method mclstexp" in err.splitlines()[-1]
    assert list(results.glob(checkpoint)), "the fit goes on from here"
    assert _manifests(results) == []


@pytest.mark.slow
def test_interrupted_network_ends_as_an_uninterrupted_one(
    bench, tiny, results, monkeypatch, one_thread
):
    settings = ("--set", "epochs=3", "--set", "dropout=0.3", "--folds", "0", "--json")
    call = ("run", "--method", "mclstexp", *tiny.options, *TINY_NETWORK, *settings)
    call += ("--tracking", "none", "--results")
    elsewhere = results.with_name("elsewhere")
    straight = bench(*call, elsewhere)

    def press(watcher, job, done, total, note):
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bench.training.fitting.CHECKPOINT_SECONDS", 0.0)
        patch.setattr("bench.cli.run_display.RunDisplay.job_progress", press)
        assert bench(*call, results, "--isolation", "none").status == 130
    assert list(results.rglob("training.ckpt"))
    resumed = bench(*call, results)
    assert resumed.status == 0
    assert rows_of(resumed) == rows_of(straight)
    assert scores_of(results) == scores_of(elsewhere)
    assert not list(results.rglob("scratch"))


@pytest.mark.slow
def test_killed_process_keeps_finished_folds(slow, signals, bench_process, plugins, tiny, results):
    (signals / "hold-B").touch()
    process = slow()
    wait_for((signals / "started-B").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (manifest,) = _manifests(results)
    finished = manifest.parent
    assert finished.name == "fold-0"
    files = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert list(results.rglob("*.claim")), "the claim of the killed process is still there"

    (signals / "hold-B").unlink()
    again = slow("--json")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert "slow fold 0: kept, it is done" in err
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == files

    elsewhere = results.with_name("elsewhere")
    call = ("run", "--method", "slow", *tiny.options, *tiny.quick_protocol, "--json")
    env = {"TEST_SIGNALS": str(signals)}
    call += ("--tracking", "none", "--results", elsewhere)
    straight = bench_process(*call, path=plugins, env=env)
    rows = {row["method"]: row for row in json.loads(out)["rows"]}
    rows["slow"].pop("fit_seconds")
    assert rows == rows_of(straight)
    assert scores_of(results) == scores_of(elsewhere)


@pytest.mark.slow
def test_equal_calls_share_the_folds(slow, signals, results):
    (signals / "hold-A").touch()
    (signals / "hold-B").touch()
    first = slow()
    wait_for((signals / "started-A").exists, first)
    second = slow()
    wait_for((signals / "started-B").exists, second)
    (signals / "hold-A").unlink()
    (signals / "hold-B").unlink()
    told = []
    for process in (first, second):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "2 of 3 folds" not in out
        told.append(err)
    assert sum(err.count("done in") for err in told) == 3, "each fold was fitted once"
    assert len(_manifests(results)) == 3
    assert not list(results.rglob("*.claim"))


@pytest.mark.slow
def test_sigterm_is_an_interruption_with_a_status_of_its_own(slow, signals, results):
    (signals / "hold-B").touch()
    process = slow()
    wait_for((signals / "started-B").exists, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert out == ""
    assert err.splitlines()[-1].startswith("bench: terminated; what is finished is kept, resume")
    assert not list(results.rglob("*.claim"))


def _has_ended(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["worker", "server"])
def test_a_killed_worker_or_server_costs_the_fold_at_hand(slow, signals, results, whom, bench):
    (signals / "hold-B").touch()
    process = slow()
    wait_for((signals / "started-B").exists, process)
    (worker,) = (signals / "started-B").read_text().split()
    parent = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(worker if whom == "worker" else parent), signal.SIGKILL)
    # A busy machine may take a while to end the server; the worker goes with it and not before.
    wait_for(lambda: _has_ended(worker), process)
    (signals / "hold-B").unlink()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "slow fold 1: failed, its process" in err
    assert err.count("done in") == 2
    again = slow()
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert err.count("kept, it is done") == 2
    assert len(_manifests(results)) == 3
    assert "2 of 3 folds" not in out


@pytest.mark.slow
def test_another_run_may_go_on_beside(slow, signals, run):
    (signals / "hold-A").touch()
    first = slow()
    wait_for((signals / "started-A").exists, first)
    assert run("mean", "--folds", "0").status == 0
    (signals / "hold-A").unlink()
    assert first.wait(timeout=60) == 0


def test_a_pickle_is_no_model(run, plugins, results):
    write_plugin(plugins, "pickler")
    path = plugins / "plugin_pickler.py"
    lines = path.read_text().replace("np.save(temporary, self.mean)", "pass").splitlines()
    number = next(n for n, line in enumerate(lines) if "atomic_write(folder" in line)
    lines[number] = '        with open(folder / "mean.pkl", "wb") as temporary:'
    path.write_text("\n".join(lines) + "\n")
    answer = run("pickler", "--folds", "0")
    assert answer.status == 1
    assert "saved mean.pkl, a pickle by its name" in answer.stderr
    assert not list(results.rglob("*.pkl"))
