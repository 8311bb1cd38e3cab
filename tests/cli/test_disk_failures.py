"""What goes wrong with disks and stored files in the middle of a run and after it."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest

from tests.cli.tiny_dataset import (
    assert_refused,
    fold_folders,
    manifests_of,
    rows_of,
    scores_of,
    write_plugin,
)


class FullDisk:
    """``os.fsync`` on a disk that takes so many more files."""

    def __init__(self, files):
        self.files, self.calls, self.sync = files, 0, os.fsync

    def __call__(self, descriptor):
        self.calls += 1
        if self.calls > self.files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.sync(descriptor)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny, bench):
    """Results folder of a finished run of `mean`, its row and scores; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "results"
    call = ("run", "--method", "mean", *tiny.options, "--tracking", "none", "--json")
    answer = bench(*call, "--results", folder)
    return folder, rows_of(answer), scores_of(folder)


TWO = ("mean,coordinates", "--folds", "0,1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny, bench, finished):
    """Result of an undisturbed run of two methods, and how often it flushed a file.

    Parsed sections are in the cache already: the runs that are compared do not write them.
    """
    folder = tmp_path_factory.mktemp("whole") / "results"
    counter = FullDisk(10**9)
    call = ("run", "--method", *TWO, *tiny.options, "--tracking", "none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counter)
        answer = bench(*call, "--results", folder, "--json")
    return rows_of(answer), scores_of(folder), counter.calls


@pytest.mark.parametrize(
    "share",
    [
        *(0.0, 0.45),
        *(
            pytest.param(share, marks=pytest.mark.slow)
            for share in (0.02, 0.06, 0.1, 0.13, 0.2, 0.7, 0.98)
        ),
    ],
)
def test_full_disk_ends_the_run_and_loses_nothing(run, results, whole, share, monkeypatch):
    rows, scores, flushes = whole
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(int(share * flushes)))
        full = run(*TWO, "--json")
    assert_refused(full, "disk is full", "finished folds are kept", lines=None)
    hidden = [path.name for path in results.rglob(".*")]
    assert hidden == [], "temporary files left behind"
    finished = {path: path.read_bytes() for path in manifests_of(results)}
    again = run(*TWO, "--json")
    assert again.status == 0
    assert rows_of(again) == rows
    assert scores_of(results) == scores
    assert {path: path.read_bytes() for path in finished} == finished
    assert again.stderr.count("kept, it is done") == len(finished)


def test_full_disk_while_a_failure_is_written_down(bench, tiny, plugins, tmp_path, monkeypatch):
    write_plugin(plugins, "always_fails", fit="raise RuntimeError('boom')")
    call = ("run", "--method", "always_fails", *tiny.options, "--folds", "0")
    call += ("--tracking", "none", "--results")
    counter = FullDisk(10**9)
    monkeypatch.setattr(os, "fsync", counter)
    assert bench(*call, tmp_path / "warm").status == 1
    counter.calls = 0
    assert bench(*call, tmp_path / "counted").status == 1
    monkeypatch.setattr(os, "fsync", FullDisk(counter.calls - 2))  # the traceback and its folder
    assert_refused(bench(*call, tmp_path / "full"), "disk is full", lines=None)


def test_full_disk_does_not_cost_the_checkpoint_of_a_killed_fit(run, kept, monkeypatch):
    folder = kept[0][0]
    (folder / "manifest.json").unlink()
    (folder / "scratch").mkdir()
    (folder / "scratch" / "training.ckpt").write_bytes(b"hours of work")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(3))
        assert_refused(run("mean"), "disk is full", lines=None)
    assert (folder / "scratch" / "training.ckpt").read_bytes() == b"hours of work"


@pytest.mark.parametrize(
    ("library", "name", "error"),
    [
        (
            "anndata.AnnData",
            "write_h5ad",
            OSError("Can't write data (errno = 28, error message = 'No space left on device')"),
        ),
        ("pandas.DataFrame", "to_parquet", OSError(errno.ENOSPC, "No space left on device")),
        ("numpy", "save", OSError(errno.ENOSPC, "No space left on device")),
        ("numpy", "save", OSError("1200 requested and 0 written: No space left on device")),
    ],
)
def test_full_disk_as_libraries_tell_it(run, kept, finished, library, name, error, monkeypatch):
    def refuse(*args, **kwargs):
        raise error

    folders, _ = kept
    (folders[1] / "manifest.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(f"{library}.{name}", refuse)
        full = run("mean")
    assert_refused(full, "disk is full", lines=None)
    again = run("mean", "--json")
    assert rows_of(again) == finished[1]


@pytest.fixture
def kept(finished, results):
    """Fold folders of a finished run of `mean`, with the scores as they should be."""
    shutil.copytree(finished[0], results)
    return fold_folders(results), finished[2]


def lose_a_byte(path):
    path.write_bytes(path.read_bytes()[: -1 if path.name != "manifest.json" else -3])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


def put(text):
    """Damage by which a file holds `text` instead."""
    return lambda path: path.write_text(text)


FILES = ("scores.parquet", "genes.parquet", "curves.parquet", "predictions.h5ad", "fold.json")
MODEL = "model/mean.npy"
DAMAGES = [
    *((name, lose_a_byte) for name in (*FILES, MODEL, "manifest.json")),
    *((name, change_a_byte) for name in (*FILES, MODEL)),
    *((name, remove) for name in ("scores.parquet", MODEL, "manifest.json")),
    *(
        ("manifest.json", put(text))
        for text in (
            *("", "{}", "[]", "null", "{"),
            *('{"key": 3, "files": []}', '{"key": "x", "files": {}}'),
        )
    ),
]


@pytest.fixture(scope="module")
def sections(tmp_path_factory, tiny, bench):
    """A finished run of `mean` with a fold for each of six sections, its scores, and the call."""
    folder = tmp_path_factory.mktemp("sections") / "results"
    call = ("run", "--method", "mean", *tiny.options, "--protocol", "published")
    call += ("--tracking", "none", "--results")
    assert bench(*call, folder).status == 0
    scores = scores_of(folder)
    assert len(scores) == 6
    return folder, scores, call


# Five folds in a call, each damaged in its own way; the sixth shows that others are kept.
@pytest.mark.parametrize("first", range(0, len(DAMAGES), 5))
def test_damaged_folds_alone_are_made_again(bench, sections, results, first):
    folder, scores, call = sections
    shutil.copytree(folder, results)
    damaged = dict(enumerate(DAMAGES[first : first + 5]))
    for fold, (name, damage) in damaged.items():
        damage(fold_folders(results)[fold] / name)
    again = bench(*call, results)
    assert again.status == 0
    for fold, (name, damage) in damaged.items():
        assert f"mean fold {fold}: done in" in again.stderr, (name, damage)
    assert again.stderr.count("kept, it is done") == 6 - len(damaged)
    assert scores_of(results) == scores
    assert "6/6" in again.stdout


def test_tables_do_not_show_a_damaged_fold(bench, kept, results):
    folders, _ = kept
    path = folders[1] / "scores.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    printed = bench("tables", "--dataset", "tiny", "--results", results)
    assert printed.status == 0
    assert "2/3" in printed.stdout


def test_manifest_of_another_fold_is_not_believed(run, kept, results):
    folders, scores = kept
    for path in folders[0].iterdir():
        if path.is_file():
            (folders[1] / path.name).write_bytes(path.read_bytes())
    assert "mean fold 1: done in" in run("mean").stderr
    assert scores_of(results) == scores


@pytest.mark.parametrize("text", ["", "{", '{"key": 3}'])
def test_damaged_run_json_is_written_again(run, kept, results, text):
    (path,) = results.glob("runs/*/*/*/run.json")
    key = json.loads(path.read_text())["key"]
    path.write_text(text)
    again = run("mean")
    assert again.status == 0
    assert again.stderr.count("kept, it is done") == 3
    assert json.loads(path.read_text())["key"] == key


def test_run_json_without_its_numbers_does_not_crash_the_table(bench, kept, results):
    (path,) = results.glob("runs/*/*/*/run.json")
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({"key": facts["key"]}))
    answer = bench("tables", "--dataset", "tiny", "--results", results)
    assert answer.status in {0, 2}
    assert "Traceback" not in answer.stderr


@pytest.mark.filterwarnings("ignore:.*damaged:UserWarning")
def test_damaged_cache_is_made_again(run, results, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bench.data.dataset._kept", {})  # sections in memory hide the file
    assert run("mean").status == 0
    stored = sorted((tmp_path / "cache" / "sections").glob("*.h5ad"))
    assert len(stored) == 6
    for path in stored:
        path.write_bytes(path.read_bytes()[:200])
    monkeypatch.setattr("bench.data.dataset._kept", {})
    assert run("mean", "--force").status == 0
    assert all(path.stat().st_size > 200 for path in stored)
    assert scores_of(results) == finished[2]
