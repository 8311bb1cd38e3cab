"""Records of a results folder: what is not what was written is none."""

import json

import pytest

from bench.records import read_json, read_record, write_record


def test_a_record_comes_back(tmp_path):
    write_record(tmp_path / "run.json", {"seed": 3, "label": "a"})
    assert read_record(tmp_path / "run.json") == {"seed": 3, "label": "a"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", '{"seed": NaN}', '{"seed": Infinity}', '{"seed": 1', "{'seed': 1}"),
        *("[" * 100_000, '{"a": ' * 100_000, '{"seed": 1}\x00', "\ufeff{}"),
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_what_is_no_object_of_json_is_none(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    assert read_json(path) is None
    assert read_record(path) == {}


def test_a_changed_value_is_none(tmp_path):
    path = tmp_path / "run.json"
    write_record(path, {"seed": 3})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 4}))
    assert read_record(path) == {}
