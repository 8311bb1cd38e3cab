"""Study files: what they declare, and how what is wrong with them is told."""

import pytest
import yaml

from bench.errors import BenchError, DataError, UnknownNameError
from bench.execute.request import MOST_SEEDS
from bench.study.declaration import (
    ExecutorHints,
    Study,
    StudyPart,
    StudyRow,
    find_study,
    read_study,
    seed_list,
)

PART = {"name": "one", "title": "One", "datasets": "demo", "rows": ["mean"]}


@pytest.fixture
def write(tmp_path):
    def write_study(name="mine", parts=(PART,), **fields):
        path = tmp_path / f"{name}.yaml"
        content = {"name": name, "title": "Mine", "parts": list(parts), **fields}
        path.write_text(yaml.safe_dump(content))
        return path

    return write_study


def refused(path, message, kind=DataError):
    with pytest.raises(kind) as caught:
        read_study(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "part one: colour: unknown field"),
        ({"seeds": "4-0"}, "seeds: 4-0 ends before it begins"),
        ({"seeds": "a-b"}, "write seeds such as 0-4 or 0,1,7"),
        ({"seeds": [0, 0]}, "names a seed twice"),
        ({"seeds": "0-999999"}, "1,000,000 seeds are asked for; at most 1,000 are run"),
        ({"seeds": [-1]}, "write seeds such as 0-4"),
        ({"seeds": [True]}, "write seeds such as 0-4"),
        ({"name": "../up"}, "part number 1: name: String should match pattern"),
        ({"rows": []}, "part one: rows"),
        ({"rows": ["mean", {"method": "ridge", "label": "mean"}]}, "two rows are labelled mean"),
        ({"rows": [{"method": "mean", "label": "a\nb"}]}, "line of visible characters"),
        ({"rows": [{"method": "mean", "settings": {"a": {"b": 1}}}]}, "settings.a"),
        ({"make": ["poster"]}, "part one: make.0"),
        ({"make": ["genes"]}, "no genes are named"),
        ({"train_patients": [0]}, "part one: train_patients.0"),
        ({"published": "only"}, "a row is to be run"),
        ({"datasets": []}, "part one has no datasets"),
    ],
)
def test_a_bad_part_is_told_in_a_line(write, change, message):
    refused(write(parts=[PART | change]), message)


FIELDS = [
    (model, name)
    for model in (Study, StudyPart, StudyRow, ExecutorHints)
    for name in model.model_fields
]
ODD = [5, -1, 1.5, True, None, "", "x\ny", [], [1], [["a"]], [None], {}, {"a": [{}]}, 10**30]


@pytest.mark.parametrize(
    ("model", "name"), FIELDS, ids=[f"{model.__name__}.{name}" for model, name in FIELDS]
)
def test_a_value_of_any_type_is_taken_or_told_in_a_line(write, model, name):
    told = []
    for value in [*ODD, float("nan")]:
        changed = {name: value}
        if model is Study:
            path = write()
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changed))
        elif model is StudyPart:
            path = write(parts=[PART | changed])
        elif model is StudyRow:
            path = write(parts=[PART | {"rows": [{"method": "mean"} | changed]}])
        else:
            path = write(executor=changed)
        try:
            read_study(path)
        except BenchError as error:
            told.append(str(error))
    assert told
    assert not [message for message in told if "\n" in message]


def test_a_bad_study_is_told_in_a_line(write, tmp_path):
    refused(write(parts=[PART, PART]), "two parts are named one")
    refused(write(parts=[]), "a study needs parts")
    refused(write(color="red"), "color: unknown field")
    other = write().rename(tmp_path / "other.yaml")
    refused(other, "the study is named mine")
    (tmp_path / "list.yaml").write_text("- 1\n")
    refused(tmp_path / "list.yaml", "not a study")
    (tmp_path / "twice.yaml").write_text("name: twice\nname: twice\n")
    refused(tmp_path / "twice.yaml", "twice")
    with pytest.raises(DataError, match="file is missing"):
        read_study(tmp_path / "absent.yaml")
    with pytest.raises(UnknownNameError, match="did you mean demo"):
        find_study("dmo")


def test_studies_that_include_each_other_are_refused(write):
    write("first", parts=[], include=["second.yaml"])
    write("second", parts=[], include=["first.yaml"])
    refused(write("mine", include=["first.yaml"]), "include each other")
    refused(write("self", include=["self.yaml"]), "self.yaml -> self.yaml")
    refused(write("lost", include=["nowhere"]), "unknown study", BenchError)


def test_included_parts_come_first_and_keep_their_datasets(write):
    part = {key: value for key, value in PART.items() if key != "datasets"}
    write("base", parts=[part | {"name": "base"}], datasets=["her2st"])
    study = read_study(write("mine", include=["base.yaml"]))
    assert [(part.name, study.datasets_of(part)) for part in study.parts] == [
        ("base", ("her2st",)),
        ("one", ("demo",)),
    ]
    refused(write("again", include=["base.yaml"], parts=[PART | {"name": "base"}]), "base")


def test_files_of_a_study_lie_beside_it(write, tmp_path):
    part = PART | {"datasets": "cards/mine.yaml", "rows": ["./mine.py", "shuffled:./mine.py"]}
    study = read_study(write(parts=[part]))
    assert study.parts[0].datasets == (str(tmp_path / "cards/mine.yaml"),)
    assert [row.method for row in study.parts[0].rows] == [
        str(tmp_path / "mine.py"),
        f"shuffled:{tmp_path / 'mine.py'}",
    ]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [(3, (3,)), ("0-2", (0, 1, 2)), ("0-1,7", (0, 1, 7)), ([5, 0], (5, 0)), ("0", (0,))],
)
def test_seeds_are_numbers_and_ranges(text, seeds):
    assert seed_list(text) == seeds
    assert len(seed_list(f"1-{MOST_SEEDS}")) == MOST_SEEDS


def test_the_hash_of_a_study_is_that_of_what_it_declares(write):
    first = read_study(write())
    assert read_study(write()).hash == first.hash
    assert read_study(write(parts=[PART | {"seeds": "0-1"}])).hash != first.hash
