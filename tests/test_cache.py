"""Disk caches: what was stored is found again, what is damaged is made anew."""

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bench.cache import Cache, JsonCache, cache_folder, locked_folder

KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mapped(path):
    return np.load(path, mmap_mode="r")


ARRAYS = Cache("arrays", ".npy", mapped)


def put(cache, value, key=KEY):
    with cache.new_entry(key) as temporary:
        np.save(temporary, value)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SPOTBENCH_CACHE")
    assert cache_folder() != tmp_path
    assert isinstance(cache_folder(), Path)
    assert "spotbench" in str(cache_folder())


def test_an_entry_is_absent_until_it_is_complete(folder):
    assert ARRAYS.get(KEY) is None

    def interrupted():
        with ARRAYS.new_entry(KEY) as temporary:
            temporary.write_bytes(b"half")
            assert ARRAYS.get(KEY) is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ARRAYS.get(KEY) is None
    assert list((folder / "arrays").iterdir()) == []


def test_an_array_is_mapped_read_only_and_named_by_its_key(folder):
    put(ARRAYS, np.arange(6).reshape(2, 3))
    stored = ARRAYS.get(KEY)
    assert isinstance(stored, np.memmap)
    assert not stored.flags.writeable
    np.testing.assert_array_equal(stored, [[0, 1, 2], [3, 4, 5]])
    assert ARRAYS.path(KEY) == folder / "arrays" / f"{KEY[:32]}.npy"
    assert ARRAYS.path(KEY, "her2st-A1").name == f"her2st-A1-{KEY[:32]}.npy"


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array at all"])
def test_a_damaged_entry_counts_as_absent_and_is_made_anew(damage):
    put(ARRAYS, np.ones(3))
    ARRAYS.path(KEY).write_bytes(damage)
    assert ARRAYS.get(KEY) is None
    put(ARRAYS, np.ones(3))
    np.testing.assert_array_equal(ARRAYS.get(KEY), np.ones(3))


def test_a_folder_in_place_of_an_entry_counts_as_absent():
    ARRAYS.path(KEY).mkdir(parents=True)
    assert ARRAYS.get(KEY) is None


def test_a_checked_entry_is_compared_with_its_hash():
    texts = Cache("texts", ".txt", Path.read_text, checked=True)
    with texts.new_entry(KEY) as temporary:
        temporary.write_text("counts")
    assert texts.get(KEY) == "counts"
    texts.path(KEY).write_text("count5")
    assert texts.get(KEY) is None
    with texts.new_entry(KEY) as temporary:
        temporary.write_text("counts")
    assert texts.get(KEY) == "counts"
    texts.path(KEY).with_suffix(".json").unlink()
    assert texts.get(KEY) is None


def test_a_full_disk_leaves_no_entry(monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bench.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put(ARRAYS, np.ones(3))
    assert ARRAYS.get(KEY) is None


def test_writers_of_one_entry_do_not_meet():
    values = [np.full(1000, number) for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda value: put(ARRAYS, value), values))
    stored = ARRAYS.get(KEY)
    assert stored.shape == (1000,)
    assert len(np.unique(stored)) == 1


def test_small_values_are_stored_as_json(folder):
    points = JsonCache("points", lambda content: (float(content["x"]), float(content["y"])))
    assert points.get(KEY) is None
    points.put(KEY, {"x": 1.5, "y": 2})
    assert points.get(KEY) == (1.5, 2.0)
    assert json.loads((folder / "points" / f"{KEY[:32]}.json").read_text()) == {"x": 1.5, "y": 2}
    for text in ("", "[]", "{}", '{"x": 1}', '{"x": 1, "y": "east"}'):
        points.path(KEY).write_text(text)
        assert points.get(KEY) is None
    with pytest.raises(ValueError, match="JSON"):
        points.put(KEY, {"x": float("nan"), "y": 0})


def test_a_folder_is_worked_on_by_one_process_at_a_time(folder):
    inside, most = [], []

    def work(number):
        with locked_folder("generated", "demo") as place:
            inside.append(number)
            most.append(len(inside))
            (place / "done").write_text(str(number))
            inside.remove(number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(8)))
    assert set(most) == {1}
    assert (folder / "generated" / "demo" / "done").is_file()
