"""``bench speed`` as it is typed."""

import json

import pytest

from bench.speed import run
from tests.cli.tiny_dataset import call, write_tiny_dataset

TINY = (
    *("speed", "--device", "cpu", "--image-size", "32", "--batch", "6", "--genes", "7"),
    *("--spots", "24", "--test-spots", "5", "--steps", "1", "--repeats", "1"),
    *("--queries", "20", "--keys", "60", "--top-k", "5"),
)


@pytest.fixture(autouse=True)
def _idle(monkeypatch):
    monkeypatch.setattr(run, "load_average", lambda: 0.25)


def test_a_measurement_is_printed_and_written(tmp_path):
    output = tmp_path / "speed.json"
    done = call(
        *TINY, "--method", "stnet,mean", "--set", "encoder=test_resnet", "--trajectory", "2",
        "--plain-set", "momentum=0.5", "--output", str(output),
    )  # fmt: skip
    assert done.status == 0, done.stderr
    assert "busy" not in done.stderr
    found = json.loads(output.read_text())
    assert [one["method"] for one in found["methods"]] == ["stnet", "mean"]
    settings = found["methods"][0]["settings"]
    assert (settings["weights"], settings["batch_size"], settings["patch_size"]) == ("none", 6, 32)
    plain = found["methods"][0]["plain_settings"]
    assert {key for key in settings if settings[key] != plain[key]} == {"momentum"}
    assert plain["momentum"] == 0.5
    assert found["options"]["batch"] == 6
    assert found["machine"]["device"] == "cpu"
    assert found["versions"]["torch"]
    assert (found["load_before"], found["load_after"]) == (0.25, 0.25)
    assert found["date"].endswith("+00:00")
    assert found["retrieval"]["size"]["queries"] == 20
    for shown in ("Training", "Prediction", "Peak memory", "Retrieval", "20 in 60"):
        assert shown in done.stdout
    assert "stnet: losses of 2 steps differ from the plain loop's by" in done.stdout
    assert "mean: no training" in done.stdout


def test_a_dataset_is_measured_and_json_printed_with_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "load_average", lambda: 999.0)
    done = call(
        *TINY, *write_tiny_dataset(tmp_path).where, "--method", "stnet",
        "--set", "encoder=test_resnet", "--no-reference", "--no-retrieval", "--json",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert "the machine is busy: load 999.0" in done.stderr
    assert found["warnings"][0] in done.stderr
    assert found["retrieval"] is None
    assert "reference" not in found["methods"][0]["training"]


def test_retrieval_alone():
    done = call(*TINY, "--method", "none", "--json")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["methods"] == []
    assert found["retrieval"]["largest_difference"] <= 1e-5


def test_without_a_name_methods_that_learn_from_images_spot_by_spot_are_measured():
    named = run._default_methods()
    assert {"mclstexp", "stnet"} <= set(named)
    assert not {"mean", "coordinates", "histogene"} & set(named)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "nosuch"], "unknown method 'nosuch'"),
        (["--method", "depth"], "depth fits nothing of its own"),
        (["--method", "shuffled:stnet"], "shuffled:stnet fits nothing of its own"),
        (["--method", "stnet", "--dataset", "nosuch"], "unknown dataset 'nosuch'"),
        (["--method", "stnet", "--set", "nosuch=1"], "unknown setting 'nosuch'"),
        (["--method", "stnet", "--precision", "int3"], "int3"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(arguments, said):
    done = call(*TINY, *arguments)
    assert done.status == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
