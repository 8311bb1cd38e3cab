"""Rows of encoders: sweeps, their controls, features brought along, and their keys."""

import json

import numpy as np
import pandas as pd
import pytest

import bench
from bench.blocks.encoders import check_weights
from bench.blocks.features import FrozenEncoder
from bench.data.dataset import open_dataset
from bench.encoders.weights import add_weights
from bench.errors import BenchError, ConfigError
from bench.execute.encoders import prepare_encoder
from bench.execute.method_specs import resolve_methods
from bench.method_references import absolute, split_encoder
from bench.registry import dataset_card
from bench.store import run_folder
from tests.cli.tiny_dataset import write_tiny_dataset
from tests.hub_models import write_snapshot

TINY, OTHER = "hf-hub:me/tiny", "hf-hub:me/other"
QUICK = ("demo", "quick", {"input_size": 32, "patch_size": 32})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of encoders' weights with two hub models."""
    folder = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPOTBENCH_DATA", str(folder / "data"))
        for seed, name in enumerate((TINY, OTHER)):
            add_weights(name, write_snapshot(folder / str(seed), seed), check_weights)
        yield folder


def rows(*methods, settings=QUICK[2], **more):
    specs = resolve_methods(methods, *QUICK[:2], settings, **more)
    for spec in specs:
        prepare_encoder(spec.config, spec.changes)
    return {spec.label: spec for spec in specs}


def test_a_sweep_gives_a_row_and_a_control_an_encoder(weights):
    found = rows("ridge", "mean", "knn", encoders=(TINY, OTHER))
    assert list(found) == [
        *(f"ridge[{TINY}]", f"ridge[random-{TINY}]", f"ridge[{OTHER}]", f"ridge[random-{OTHER}]"),
        "mean",
        *(f"knn[{TINY}]", f"knn[random-{TINY}]", f"knn[{OTHER}]", f"knn[random-{OTHER}]"),
    ]
    row, control = found[f"ridge[{TINY}]"], found[f"ridge[random-{TINY}]"]
    assert (row.kind, row.config["weights"], row.method) == ("method", "pretrained", "ridge")
    assert (control.kind, control.config["weights"]) == ("control", "none")
    same = {"encoder", "patch_size", "input_size", "pixels", "pooling"}
    assert {k: row.config[k] for k in same} == {k: control.config[k] for k in same}
    alone = rows("ridge", "shuffled", encoders=(TINY,), random_encoders=False)
    assert list(alone) == [f"ridge[{TINY}]", f"shuffled:ridge[{TINY}]"]


def test_a_setting_names_the_row_as_brackets_do(weights):
    by_setting = rows("ridge", settings={**QUICK[2], "encoder": TINY})
    by_name = rows(f"ridge[{TINY}]")
    assert list(by_setting) == list(by_name) == [f"ridge[{TINY}]"]
    assert by_setting[f"ridge[{TINY}]"].config == by_name[f"ridge[{TINY}]"].config
    assert list(rows("ridge")) == ["ridge"]


@pytest.mark.parametrize(
    ("methods", "encoders", "said"),
    [
        (["mean"], [TINY], "none of the methods has an image encoder"),
        (["mean[uni]"], [], "mean has no encoder to choose"),
        (["ridge[unii]"], [], "unknown encoder 'unii'"),
        (["ridge"], ["uni"], "weights of encoder uni are not on this machine"),
        (["rigde[uni]"], [], "unknown method 'rigde'"),
        (["histogene[uni]"], [], "histogene has no encoder to choose"),
    ],
)
def test_a_wrong_row_is_refused_before_anything_starts(weights, methods, encoders, said):
    with pytest.raises(BenchError, match=said):
        rows(*methods, encoders=encoders)


def test_images_that_an_encoder_does_not_take_are_refused_when_planned(weights):
    with pytest.raises(ConfigError, match="does not take images of 225 px"):
        rows("ridge[timm:vit_tiny_patch16_224]", settings={"input_size": 225})


def test_names_of_files_with_an_encoder():
    assert split_encoder("./a.py[uni]") == ("./a.py", "uni")
    assert split_encoder("mean") == ("mean", "")
    assert split_encoder("[x]") == ("[x]", "")
    assert absolute("./a.py[uni]").startswith("/")
    assert absolute("./a.py[uni]").endswith("/a.py[uni]")
    folder = run_folder(
        absolute_results := __import__("pathlib").Path("r"), "d", "p", f"ridge[{TINY}]", "k" * 64
    )
    assert folder.path.name == "ridge[hf-hub-me-tiny]-kkkkkkkkkkkk"
    assert folder.path.parent == absolute_results / "runs" / "d" / "p"


@pytest.fixture
def brought(tmp_path):
    """Folder of features of the demo's sections: array coordinates and noise."""
    rng = np.random.default_rng(0)
    dataset = open_dataset(dataset_card("demo"))
    for card in dataset.card.sections:
        name = card.name
        section = dataset.section(name)
        values = np.column_stack([section.array_xy, rng.normal(size=(len(section.array_xy), 4))])
        np.save(tmp_path / f"{name}.npy", values.astype(np.float32))
    return tmp_path


def scores(results, *methods, **settings):
    """Scores of the newest run of each row."""
    options = {"preset": "quick", "oracles": False, "tracking": "none", "folds": [0]}
    bench.run(methods, "demo", results=results, settings=settings, **options)
    newest = sorted(results.glob("runs/demo/strict/*/run.json"), key=lambda p: p.stat().st_mtime)
    labels = {json.loads(path.read_text())["label"]: path.parent for path in newest}
    return {
        label: [
            pd.read_parquet(file)["value"].tolist() for file in sorted(run.glob("*/scores.parquet"))
        ]
        for label, run in labels.items()
    }


def test_features_brought_along_take_the_place_of_the_encoder(brought, tmp_path):
    results = tmp_path / "results"
    first = scores(results, "ridge", "shuffled:ridge", features=str(brought))
    assert first["ridge"] != first["shuffled:ridge"]
    for path in brought.glob("*.npy"):
        np.save(path, np.load(path) * np.float32([1, 1, 0, 0, 0, 0]))
    second = scores(results, "ridge", features=str(brought))
    assert first["ridge"] != second["ridge"], "the key holds the content of the features"
    assert len(list(results.glob("runs/demo/strict/ridge-*"))) == 2
    facts = json.loads(next(results.glob("runs/demo/strict/ridge-*/fold-0/fold.json")).read_text())
    assert facts["patches"] == []


def test_the_size_of_what_an_encoder_saw_is_recorded(weights, tmp_path):
    scores(tmp_path, f"ridge[{TINY}]", patch_size="60um", input_size=32)
    facts = json.loads(next(tmp_path.glob("runs/demo/strict/ridge*/fold-0/fold.json")).read_text())
    (seen,) = facts["patches"]
    assert seen["input"] == 32
    assert seen["um"] == pytest.approx(60, abs=2)


@pytest.mark.slow
def test_a_sweep_over_eight_folds_computes_each_feature_once(
    own_cache, results, bench, monkeypatch, tmp_path
):
    tiny = write_tiny_dataset(
        tmp_path / "eight", sections=[f"{patient}1" for patient in "ABCDEFGH"]
    )
    computed = []
    compute = FrozenEncoder._compute

    def counted(self, patches):
        computed.append(self.settings.encoder)
        return compute(self, patches)

    monkeypatch.setattr(FrozenEncoder, "_compute", counted)
    names = ("test_resnet", "test_byobnet", "test_convnext", "test_efficientnet", "test_nfnet")
    call = ("run", "--method", "ridge", "--encoder", ",".join(names), *tiny.options)
    call += ("--set", "weights=none", "--set", "patch_size=32", "--set", "input_size=32")
    call += ("--no-random", *tiny.quick_protocol, "--isolation", "none", "--tracking", "none")
    answer = bench(*call, "--results", results, "--json")
    assert answer.status == 0, answer.stderr
    rows = json.loads(answer.stdout)["rows"]
    assert [row["folds"] for row in rows] == [8] * 5
    assert sorted(computed) == sorted(names * 8)
