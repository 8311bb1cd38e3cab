"""Fitted models and their curves in MLflow: nothing is lost, and nothing of a store is executed."""
# ruff: noqa: F811 - fixtures of tests.tracked

from __future__ import annotations

import json
import shutil
import sys
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anndata
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from bench.contract.storage import pickle_in
from bench.errors import ConfigError, DataError, UnknownNameError
from bench.registry import dataset_card
from bench.stored_runs import stored_runs
from bench.tracking.logged_files import COLUMNS
from bench.tracking.model import fetch_model, save_model
from tests.cli.tiny_dataset import fold_folders, write_plugin
from tests.tracked import (  # noqa: F401 - fixtures
    client_of,
    empty_database,
    learned,
    no_server_from_outside,
    results,
    run,
    runs_of,
    tiny,
)

pytestmark = pytest.mark.slow

PATCHES = {"patch_pixels": 32, "device": "cpu"}
"""What a run does not keep of a card of the user's own."""

ROW = "mclstexp[lcnet_050]"
"""Row of the network in the uploaded runs."""


def history(client, run_, name):
    points = client.get_metric_history(run_.info.run_id, name)
    return sorted((metric.step, metric.value) for metric in points)


def test_curves_have_one_value_an_epoch(learned):
    client = client_of(learned)
    _, children = runs_of(client)
    for folder in fold_folders(learned):
        curves = pd.read_parquet(folder / "curves.parquet")
        assert len(curves) == 2
        child = children[ROW, int(folder.name[-1])]
        for name in ("train_loss", "chance_level"):
            wanted = list(enumerate(curves[name].tolist()))
            assert history(client, child, f"curves/{name}") == wanted


def test_curves_of_a_run_are_means_over_its_folds(learned):
    client = client_of(learned)
    parents, _ = runs_of(client)
    curves = pd.concat([pd.read_parquet(f / "curves.parquet") for f in fold_folders(learned)])
    wanted = curves.groupby("epoch")["train_loss"].mean()
    found = history(client, parents[ROW], "curves/train_loss")
    assert [step for step, _ in found] == [0, 1]
    assert [value for _, value in found] == pytest.approx(wanted.tolist())


# ---------------------------------------------------------------------------------- models


def address(results):
    return f"sqlite:///{results / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def _no_store_is_chosen():
    yield
    mlflow.set_tracking_uri(None)


def model_of(results, method=ROW, fold=0):
    """Address of the model of a fold."""
    _, children = runs_of(client_of(results))
    return children[method, fold].data.tags["model"]


def stored(results, tiny, fold=0):
    """Spots of a fold as a table to predict, and the predictions that are stored."""
    (path,) = results.glob(f"runs/*/*/*/fold-{fold}/predictions.h5ad")
    adata = anndata.read_h5ad(path)
    spots = pd.DataFrame(
        {
            "image": [str(tiny.image(section)) for section in adata.obs["section"]],
            "x": adata.obsm["spatial"][:, 0],
            "y": adata.obsm["spatial"][:, 1],
            "array_col": adata.obs["array_col"],
            "array_row": adata.obs["array_row"],
        }
    )
    return spots, pd.DataFrame(adata.X, index=adata.obs_names, columns=list(adata.var_names))


def test_a_model_of_a_store_predicts_what_is_stored(learned, tiny):
    # Not bit by bit: another process may sum on another number of threads.
    mlflow.set_tracking_uri(address(learned))
    for fold in range(3):
        uri = model_of(learned, fold=fold)
        model = mlflow.pyfunc.load_model(uri, model_config=PATCHES)
        spots, wanted = stored(learned, tiny, fold)
        pd.testing.assert_frame_equal(model.predict(spots), wanted, rtol=1e-6)
        fetched = fetch_model(uri, address(learned), **PATCHES)
        pd.testing.assert_frame_equal(fetched.predict(spots), wanted, rtol=1e-6)


LOOKS = """
predictions = [
    p * s.patches().mean(axis=(1, 2, 3))[:, None].astype(np.float32) + s.spatial[:, :1].astype("f")
    for p, s in zip(predictions, slides)
]
"""


def test_patches_and_places_are_those_of_the_run(tiny, results, tmp_path, monkeypatch):
    plugin = write_plugin(tmp_path / "plugin", "places", predict=LOOKS, needs_image=True)
    monkeypatch.syspath_prepend(plugin)
    assert run(tiny, results, "--folds", "1", methods="places").status == 0
    model = fetch_model(model_of(results, "places", 1), address(results), **PATCHES)
    spots, wanted = stored(results, tiny, 1)
    assert wanted.to_numpy().std(axis=0).min() > 1
    pd.testing.assert_frame_equal(model.predict(spots), wanted, check_exact=True)
    half = len(spots) // 2
    mixed = np.ravel([np.arange(half), half + np.arange(half)], order="F")
    assert spots["image"].iloc[mixed].nunique() == 2
    found = model.predict(spots.iloc[mixed])
    pd.testing.assert_frame_equal(found, wanted.iloc[mixed], check_exact=True)
    nothing = model.predict(spots.iloc[:0])
    assert nothing.shape == (0, len(model.panel))
    smaller = fetch_model(model_of(results, "places", 1), address(results), patch_pixels=16)
    assert not np.allclose(smaller.predict(spots), wanted)


def test_a_method_without_images_needs_none(tiny, results):
    run(tiny, results, "--folds", "0", methods="coordinates")
    model = fetch_model(model_of(results, "coordinates"), address(results))
    spots, wanted = stored(results, tiny)
    spots["image"] = ["one"] * 30 + ["other"] * (len(spots) - 30)
    pd.testing.assert_frame_equal(model.predict(spots), wanted, check_exact=True)


def test_a_model_is_listed_with_its_scores_and_settings(learned):
    client = client_of(learned)
    _, children = runs_of(client)
    child = children[ROW, 1]
    model = client.get_logged_model(child.data.tags["model"].removeprefix("models:/"))
    assert (model.name, str(model.status)) == ("mclstexp-lcnet_050--fold-1", "READY")
    assert model.source_run_id == child.info.run_id
    assert [made.model_id for made in child.outputs.model_outputs] == [model.model_id]
    scores = {metric.key: metric for metric in model.metrics}
    assert scores["pcc_acg"].value == child.data.metrics["pcc_acg"]
    assert scores["pcc_acg"].dataset_name == "tiny"
    assert model.params["epochs"] == "2"
    assert "`array_col`" in model.tags["mlflow.note.content"]


def test_what_is_logged_is_no_code_and_no_pickle(learned):
    files = [path for path in learned.glob("mlartifacts/**/models/**/*") if path.is_file()]
    assert {"network.safetensors", "bank.npz", "spotbench.json", "MLmodel"} <= {
        path.name for path in files
    }
    for path in files:
        assert path.suffix != ".py"
        assert pickle_in(path.read_bytes()) is None
    described = [yaml.safe_load(p.read_text()) for p in files if p.name == "MLmodel"]
    assert {d["flavors"]["python_function"]["code"] for d in described} == {None}
    folder, model = fold_folders(learned)[0], files[0]
    root = next(parent for parent in model.parents if parent.name == "artifacts")
    saved = {p.name: p.read_bytes() for p in (root / "data" / "fitted" / "model").iterdir()}
    assert saved in [
        {p.name: p.read_bytes() for p in (fold / "model").iterdir()}
        for fold in fold_folders(learned)
    ], folder


def test_there_is_no_model_of_an_oracle_or_a_shuffled_twin(learned, tiny, tmp_path):
    copy = shutil.copytree(learned, tmp_path / "copy")
    (settings,) = copy.glob("runs/*/*/*/run.json")
    config = json.loads(settings.read_text())["config"]
    same = [
        part
        for key in ("epochs", "encoder", "input_size")
        for part in ("--set", f"{key}={config[key]}")
    ]
    options = ("--preset", "quick", "--device", "cpu", "--folds", "0", *same)
    assert run(tiny, copy, *options, methods="mclstexp,shuffled,depth").status == 0
    _, children = runs_of(client_of(copy))
    assert set(children) == {(f"shuffled:{ROW}", 0), ("depth", 0)} | {
        (ROW, fold) for fold in range(3)
    }
    tagged = {name for name, child in children.items() if "model" in child.data.tags}
    assert tagged == {(ROW, fold) for fold in range(3)}


def test_a_model_above_the_limit_is_left_out_and_says_so(tiny, results, monkeypatch):
    (size,) = {300}
    monkeypatch.setattr("bench.tracking.run_upload.MODEL_LIMIT", size)
    run(tiny, results, "--folds", "0", methods="coordinates,mean")
    client = client_of(results)
    _, children = runs_of(client)
    assert children["coordinates", 0].data.tags["model"].startswith("not uploaded: ")
    sizes = {
        folder.parent.name.split("-")[0]: sum(
            p.stat().st_size for p in (folder / "model").iterdir()
        )
        for folder in fold_folders(results)
    }
    left = {name for (name, _), child in children.items() if "not" in child.data.tags["model"]}
    assert left == {name for name, bytes_ in sizes.items() if bytes_ > size}
    listed = client.search_logged_models([children["mean", 0].info.experiment_id])
    assert len(listed) == 2 - len(left)


# -------------------------------------------------------------------------- bad requests


def test_the_size_of_patches_comes_from_the_card(learned, tiny, tmp_path):
    (stored_run,) = stored_runs(learned, "tiny", "strict")
    for name, card in (("known", dataset_card("demo")), ("unknown", None)):
        save_model(tmp_path / name, stored_run, 0, card)
        content = json.loads((tmp_path / name / "data" / "fitted" / "spotbench.json").read_text())
        wanted = (card.patch_pixels, card.max_image_pixels) if card else (None, None)
        assert (content["patch_pixels"], content["max_image_pixels"]) == wanted
    folder = tmp_path / "unknown"
    shutil.copytree(fold_folders(learned)[0] / "model", folder / "data" / "fitted" / "model")
    model = fetch_model(str(folder))
    with pytest.raises(DataError, match="load it with model_config="):
        model.predict(stored(learned, tiny)[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spots: spots.drop(columns=["x", "array_row"]), "lack x, array_row; needed are"),
        (lambda spots: spots.assign(x="far"), "places must be numbers"),
        (lambda spots: spots.assign(y=np.nan), "must be finite"),
        (lambda spots: spots.assign(array_col=1.5), "whole"),
        (lambda spots: spots.assign(image="gone.jpg"), "gone.jpg: image is missing"),
    ],
)
def test_a_table_that_cannot_be_predicted_is_refused(learned, tiny, change, said):
    model = fetch_model(model_of(learned), address(learned), **PATCHES)
    spots, _ = stored(learned, tiny)
    assert list(spots) == list(COLUMNS)
    with pytest.raises(DataError, match=said):
        model.predict(change(spots))


@pytest.fixture
def tampered(learned, tmp_path):
    """A copy of a logged model's files, for somebody else to change."""
    model = client_of(learned).get_logged_model(model_of(learned).removeprefix("models:/"))
    return shutil.copytree(url2pathname(urlsplit(model.artifact_location).path), tmp_path / "copy")


def test_code_in_a_store_is_not_executed(tampered):
    (tampered / "code").mkdir()
    marker = tampered / "executed"
    (tampered / "code" / "stranger.py").write_text(
        f"open({str(marker)!r}, 'w').close()\ndef _load_pyfunc(*_): return None\n"
    )
    described = yaml.safe_load((tampered / "MLmodel").read_text())
    described["flavors"]["python_function"] |= {"loader_module": "stranger", "code": "code"}
    (tampered / "MLmodel").write_text(yaml.safe_dump(described))
    before = list(sys.path)
    fetch_model(str(tampered), **PATCHES)
    assert not marker.exists()
    assert sys.path == before
    with pytest.raises(mlflow.MlflowException, match="missing required predict"):
        mlflow.pyfunc.load_model(str(tampered))
    assert marker.exists(), "MLflow's own function follows what the store says"
    sys.path[:] = before
    sys.modules.pop("stranger", None)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"method": "os"}, UnknownNameError, "unknown method 'os'"),
        ({"config": {"epochs": "many"}}, ConfigError, "not those of the installed mclstexp"),
        ({"panel": []}, DataError, "no model of spotbench"),
        ({"more": 1}, DataError, "no model of spotbench"),
        (None, DataError, "no model of spotbench"),
    ],
)
def test_a_model_that_is_not_ours_is_refused(tampered, changes, error, said):
    path = tampered / "data" / "fitted" / "spotbench.json"
    if changes is None:
        path.unlink()
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(error, match=said):
        fetch_model(str(tampered), **PATCHES)


@pytest.mark.parametrize("change", [{"patch_pixels": "big"}, {"colour": "red"}])
def test_a_change_that_cannot_be_made_is_refused(tampered, change):
    with pytest.raises(ConfigError, match="model_config: 1 validation error"):
        fetch_model(str(tampered), **change)
