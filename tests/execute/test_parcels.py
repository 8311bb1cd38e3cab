"""Folders as arrays of bytes: what comes out is what went in, and nothing leads elsewhere."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import StoreError
from bench.execute.executors.parcels import existing_path, inside, map_texts, pack, unpack


def as_bytes(text):
    return np.frombuffer(text, dtype=np.uint8)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_comes_back_as_it_was(tmp_path):
    folder = tmp_path / "fold-0"
    (folder / "model" / "deep").mkdir(parents=True)
    (folder / "scores.parquet").write_bytes(bytes(range(256)) * 100)
    (folder / "model" / "deep" / "network.bin").write_bytes(b"weights")
    (folder / "empty.txt").write_bytes(b"")
    unpack(pack(folder), tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../out", "a/../../out", "..", ".", "", "a//b", "a/", "./a", "a/."),
        *("a\\b", "C:a", "a\0b", "\\\\host\\share", "a\ud800"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(StoreError, match="refused"):
        unpack({"fine": as_bytes(b"1"), name: as_bytes(b"2")}, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=20))
def test_an_accepted_name_is_inside(name):
    try:
        path = inside(name)
    except StoreError:
        return
    assert os.path.normpath(f"/folder/{path}") == f"/folder/{name}" != "/folder"


def test_a_name_cannot_be_file_and_folder(tmp_path):
    with pytest.raises(StoreError, match="both as a file and as a folder"):
        unpack({"a": as_bytes(b"1"), "a/b": as_bytes(b"2")}, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_files_are_not_received_over_others(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for place in (tmp_path, tmp_path / "link"):
        with pytest.raises(StoreError, match="exists"):
            unpack({"a": as_bytes(b"1")}, place)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("kind", ["link", "broken link", "folder link", "pipe"])
def test_what_is_no_plain_file_is_not_sent(tmp_path, kind):
    folder = tmp_path / "fold-0"
    folder.mkdir()
    target = tmp_path / "secret"
    target.write_text("secret")
    if kind == "pipe":
        os.mkfifo(folder / "odd")
    else:
        names = {"link": target, "broken link": tmp_path / "absent", "folder link": tmp_path}
        (folder / "odd").symlink_to(names[kind])
    with pytest.raises(StoreError, match="odd: not a regular file"):
        pack(folder)


def test_texts_of_settings_are_changed_wherever_they_stand(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"1")
    settings = {"weights": str(file), "many": [{"w": str(file)}, 3, None, True], "name": "none"}

    def change(text):
        return "found" if existing_path(text) else text

    assert map_texts(settings, change) == {
        "weights": "found",
        "many": [{"w": "found"}, 3, None, True],
        "name": "none",
    }


def test_a_setting_names_a_file_only_if_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert existing_path("here") == ("", tmp_path / "here")
    assert existing_path("local-dir:here") == ("local-dir:", tmp_path / "here")
    for text in ("", "absent", "a\0b", "x" * 5000):
        assert existing_path(text) is None
