import hashlib
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.files import (
    atomic_write,
    canonical_hash,
    file_hash,
    one_line,
    printable,
    write_json,
)


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "er" / "x.json"
    for content in ("first", "second"):
        with atomic_write(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.suffix == path.suffix
            temporary.write_text(content)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_inside_keeps_the_old_file_and_leaves_nothing_else(tmp_path, error, before):
    path = tmp_path / "x.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(error), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error("stop")
    assert (path.read_text() if path.exists() else None) == before
    assert list(tmp_path.iterdir()) == ([path] if before is not None else [])


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_caller_that_writes_nothing_is_told_and_the_old_file_stays(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        assert path.exists()
    assert path.read_text() == "old"


def test_the_content_is_on_disk_before_the_name_is_given(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("replace"), replace(a, b)))
    with atomic_write(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
    assert steps == ["fsync", "replace", "fsync"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "x.txt"
    with atomic_write(path) as first:
        first.write_text("first")
        with atomic_write(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_written_sorted_and_without_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": ["ä", None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": ["ä", None], "b": 1}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=st.dictionaries(st.text(), json_values, max_size=5))
def test_a_canonical_hash_does_not_depend_on_the_order_of_keys(value):
    turned = dict(reversed(value.items()))
    assert canonical_hash(turned) == canonical_hash(value)
    assert canonical_hash(json.loads(json.dumps(value))) == canonical_hash(value)
    assert canonical_hash(value) != canonical_hash([value])


@pytest.mark.parametrize("other", [{"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": 1, "b": None}])
def test_a_canonical_hash_changes_with_the_content(other):
    assert canonical_hash(other) != canonical_hash({"a": 1})


def test_a_canonical_hash_is_the_same_everywhere():
    text = rb'{"a":"\u00e4","b":[1,2.5,null]}'
    assert canonical_hash({"b": [1, 2.5, None], "a": "ä"}) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_has_no_hash(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_hash({"a": value})


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "git-blob"])
def test_a_file_hash_reads_beyond_one_block(tmp_path, algorithm):
    path = tmp_path / "x.bin"
    path.write_bytes(bytes((1 << 20) + 7))
    first = file_hash(path, algorithm)
    path.write_bytes(bytes((1 << 20) + 6) + b"\x01")
    assert file_hash(path, algorithm) != first


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be made read-only there")
def test_a_parent_that_is_a_file_is_an_os_error(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(OSError, match="x"), atomic_write(tmp_path / "x" / "y.txt"):
        raise AssertionError("the body must not run")


def test_messages_are_printable_in_any_encoding():
    assert one_line("bad \udcff name \x1b[2J") == r"bad \udcff name \x1b[2J"
    assert one_line("two\nlines\t and\x08 more\u202e") == r"two lines and\x08 more\u202e"
    assert one_line("Gewebe µm – 95 %") == "Gewebe µm – 95 %"
    assert len(one_line("x\x1b" * 1000, 60)) == 60
    assert printable("a  b\n") == "a  b\\n"


@given(st.text(alphabet=st.characters()))
def test_any_text_can_be_made_printable(text):
    assert printable(text).isprintable()
    printable(text).encode("utf-8")
