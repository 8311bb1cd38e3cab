"""Files that a prediction or an export reads and writes: nothing is overwritten or half-written."""

from __future__ import annotations

import os

import pytest

import bench
from bench.errors import BenchError
from bench.prediction.outputs import check_outputs
from bench.prediction.places import check_place, system_reason
from tests.cli.tiny_dataset import assert_refused, call


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An image and spots in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slide.png").write_bytes(b"image")
    (tmp_path / "spots.csv").write_text("barcode,x,y\n")
    (tmp_path / "spots.genes.csv").write_text("barcode,x,y\n")
    os.link("slide.png", "linked.png")
    os.symlink("spots.csv", "other.csv")
    return tmp_path


def predict(*more, spots="spots.csv"):
    given = ("--grid", "100um") if spots is None else ("--spots", spots)
    return call("predict", "model.spotbench", "slide.png", *given, *more)


@pytest.mark.parametrize(
    ("spots", "more", "words"),
    [
        (None, ("-o", "a.csv", "--mask", "slide.png"), ["--mask slide.png", "the image itself"]),
        (None, ("-o", "a.csv", "--mask", "linked.png"), ["--mask linked.png", "the image itself"]),
        (None, ("-o", "a.png", "--mask", "./a.png"), ["--mask a.png", "the file of --out a.png"]),
        (None, ("-o", "a.csv", "--mask", "a.csv"), ["--mask a.csv", "must be .png"]),
        (None, ("-o", "a.csv", "--mask", "folder.png"), ["--mask folder.png", "is a folder"]),
        ("spots.csv", ("-o", "slide.png"), ["--out slide.png", "the image itself"]),
        ("spots.csv", ("-o", "spots.csv"), ["--out spots.csv", "the file of --spots itself"]),
        ("spots.csv", ("-o", "other.csv"), ["--out other.csv", "the file of --spots itself"]),
        ("spots.genes.csv", ("-o", "spots.csv"), ["spots.genes.csv too", "the file of --spots"]),
        ("spots.csv", ("-o", "y.csv", "-o", "y.genes.csv"), ["y.genes.csv", "--out y.csv"]),
        ("spots.csv", ("-o", "y.csv", "-o", "y.csv"), ["--out y.csv", "another name"]),
        ("spots.csv", ("-o", "spots.csv/y.csv"), ["spots.csv is no folder"]),
        ("spots.csv", ("-o", "/proc/new/y.h5ad"), ["--out /proc/new/y.h5ad", "cannot be written"]),
        ("spots.csv", ("-o", "pipe.csv"), ["--out pipe.csv", "is a pipe"]),
        ("spots.csv", ("-o", f"{'y' * 230}.csv"), ["the name is too long"]),
    ],
)
def test_a_file_that_would_be_overwritten_or_cannot_be_written_is_refused(
    files, spots, more, words
):
    (files / "folder.png").mkdir()
    os.mkfifo(files / "pipe.csv")
    before = {path.name: path.is_file() and path.read_bytes() for path in files.iterdir()}
    told = assert_refused(predict(*more, spots=spots), *words)
    assert "/.y" not in told
    assert before == {path.name: path.is_file() and path.read_bytes() for path in files.iterdir()}


def test_the_function_checks_its_mask(files):
    with pytest.raises(BenchError, match=r"--mask slide.png: is the image itself"):
        bench.predict("slide.png", bundle="model.spotbench", grid=100, mask="slide.png")


def test_a_store_is_not_written_over_what_is_read(files, monkeypatch):
    monkeypatch.setattr("bench.prediction.outputs.check_package", lambda path: None)
    store = files / "store.zarr"
    store.mkdir()
    (store / ".zgroup").write_text("{}")
    (store / "spots.csv").write_text("barcode,x,y\n")
    for outs, spots in (([store], store / "spots.csv"), ([store, store / "y.csv"], None)):
        with pytest.raises(BenchError, match="a folder that is written as a whole"):
            check_outputs(outs, files / "slide.png", spots=spots)
    check_outputs([store, files / "y.csv"], files / "slide.png", spots=files / "spots.csv")


@pytest.mark.parametrize("ending", [".spotbench", ".h5ad", ".spotbench.zip"])
def test_an_export_is_refused_before_it_is_made(tmp_path, ending):
    (tmp_path / "file").write_text("")
    model = ("--dataset", "demo", "--method", "ridge", "--results", tmp_path / "absent")
    inside, virtual = tmp_path / "file" / f"y{ending}", f"/proc/y{ending}"
    for place, word in ((inside, "is no folder"), (virtual, "its folder cannot be written")):
        told = assert_refused(call("export", *model, "--out", place), str(place), word)
        assert "/.y" not in told
    (tmp_path / f"y{ending}").mkdir()
    assert_refused(call("export", *model, "--out", tmp_path / f"y{ending}"), "is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BenchError, match=r"--out .*: its folder cannot be written \(Permission"):
        check_place("--out", tmp_path / "a.csv")


def test_the_reason_of_the_system_is_told_without_internals():
    assert system_reason(FileNotFoundError(2, "Unable to open /tmp/.y-a31a")) == (
        "No such file or directory"
    )
    inside = "Can't write (errno = 28, error message = 'No space left on device', buf = 0x55)"
    assert system_reason(OSError(inside)) == "No space left on device"
