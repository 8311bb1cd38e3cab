"""A request as JSON: exactly the same request on the other side."""

from __future__ import annotations

import json
import math
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ConfigError, DataError
from bench.execute.request import FoldSettings, Request
from bench.execute.request_json import request_from_json, request_to_json

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.booleans()
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=8,
)
settings = st.dictionaries(st.text(), values, max_size=4)
paths = st.none() | st.builds(
    lambda parts: Path("/").joinpath(*parts),
    st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1)),
)
requests = st.builds(
    Request,
    methods=st.lists(st.text()).map(tuple),
    dataset=st.text(),
    panel=st.none() | st.text(),
    aliases=paths,
    folds=st.none() | st.lists(st.integers(0, 9)).map(tuple),
    settings=settings,
    seed=st.integers(0),
    compile=st.booleans(),
    data_root=paths,
    checkpoint=paths,
    results=paths.filter(lambda path: path is not None),
    tuned=st.dictionaries(
        st.text(),
        st.dictionaries(
            st.integers(0, 9), st.builds(FoldSettings, config=settings, study=st.text())
        ),
        max_size=2,
    ),
)


def through_json(request):
    return request_from_json(json.loads(json.dumps(request_to_json(request), allow_nan=False)))


@hypothesis.settings(max_examples=60, deadline=None)
@given(requests)
def test_a_request_comes_back_as_it_was(request_):
    back = through_json(request_)
    assert back == request_
    assert repr(back) == repr(request_)  # 1, 1.0 and True are equal, their settings are not


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    back = through_json(Request(("mean",), "demo", data_root=Path("data")))
    assert (back.results, back.data_root) == (tmp_path / "results", tmp_path / "data")


def test_values_that_are_no_number_come_back():
    back = through_json(Request(("mean",), "demo", settings={"a": math.nan, "b": -math.inf}))
    assert math.isnan(back.settings["a"])
    assert back.settings["b"] == -math.inf


@pytest.mark.parametrize("text", ["1", "1.5", "yes", "null", "[1, {a: 2}]", "x"])
def test_what_the_command_line_reads_comes_back(text):
    value = yaml.safe_load(text)
    assert through_json(Request((), "demo", settings={"a": value})).settings["a"] == value


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), {"b": [1j]}])
def test_a_value_that_cannot_be_written_is_refused(value):
    with pytest.raises(ConfigError, match=r"settings\.a.*: a value of type .* cannot be sent"):
        request_to_json(Request((), "demo", settings={"a": value}))


@pytest.mark.parametrize(
    "content",
    [{"methods": []}, {"nonsense": 1}, {"methods": [], "dataset": {"$float": "never"}}],
)
def test_an_object_of_another_version_is_refused(content):
    with pytest.raises(DataError, match="not a request of this version"):
        request_from_json(content)


def test_a_tag_of_another_version_is_refused():
    content = request_to_json(Request((), "demo")) | {"settings": {"$new": 1}}
    with pytest.raises(DataError, match=r"'\$new' is not known"):
        request_from_json(content)
