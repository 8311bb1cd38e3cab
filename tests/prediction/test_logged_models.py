"""Models of an MLflow store: scale of new images, bundles in them, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anndata
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

import bench
from bench.errors import ConfigError, DataError
from bench.registry import dataset_card
from bench.tracking import fetching
from bench.tracking.logged_bundle import DatasetOnHand
from bench.tracking.model import fetch_model, save_model
from bench.tracking.upload import Tracker
from tests.cli.tiny_dataset import assert_refused, call
from tests.tracked import (  # noqa: F401 - fixtures
    client_of,
    empty_database,
    no_server_from_outside,
    runs_of,
)


def logged(run, results, database, data):
    """Upload a run to a store of its own; address of the store and of the model of fold 0."""
    shutil.copy(database, results / "mlflow.db")
    store = f"sqlite:///{results / 'mlflow.db'}"
    warnings = []
    Tracker(store, results, warnings.append, *data).upload(run)
    assert not warnings
    _, children = runs_of(client_of(store))
    return store, children[str(run.facts["label"]), 0].data.tags["model"]


@pytest.fixture(scope="module")
def tracked(predicted, empty_database, tmp_path_factory):  # noqa: F811
    """One fold of mlp with its features in the cache, and a store that has its model."""
    results = tmp_path_factory.mktemp("tracked") / "results"
    of = replace(predicted, results=results)
    (run,) = of.run(["mlp"], [0]).runs
    data = (str(of.dataset.card), of.dataset.root)
    store, model = logged(run, results, empty_database, data)
    return SimpleNamespace(of=of, run=run, store=store, model=model)


@pytest.fixture
def files(tracked, tmp_path):
    """A copy of the store's files of the model."""
    client = MlflowClient(tracking_uri=tracked.store)
    place = client.get_logged_model(tracked.model.removeprefix("models:/")).artifact_location
    return shutil.copytree(url2pathname(urlsplit(place).path), tmp_path / "copy")


def predict(tracked, tmp_path, *more, model=None, store=None):
    of = tracked.of
    of.spots("A1", tmp_path / "spots.csv")
    return call(
        "predict", model or tracked.model, of.image("A1"), "--spots", tmp_path / "spots.csv",
        "--um-per-px", of.scale("A1"), "--device", "cpu", "--out", tmp_path / "out.h5ad",
        "--tracking", store or tracked.store, *more,
    )  # fmt: skip


def test_a_logged_model_tells_what_a_bundle_tells(tracked, tmp_path):
    bundle = tmp_path / "fold.spotbench"
    done = call("export", *tracked.of.model, "--method", "mlp", "--fold", "0", "--out", bundle)
    assert done.status == 0, done.stderr
    answer = predict(tracked, tmp_path)
    assert answer.status == 0, answer.stderr
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    spots = tmp_path / "spots.csv"
    given = {"spots": spots, "um_per_px": tracked.of.scale("A1"), "device": "cpu"}
    wanted = bench.predict(tracked.of.image("A1"), bundle=bundle, **given)
    np.testing.assert_array_equal(found.X, wanted.X)
    assert found.var.equals(wanted.var)
    np.testing.assert_array_equal(found.obs["ood_score"], wanted.obs["ood_score"])
    assert np.isfinite(found.obs["ood_score"]).all()
    name = bench.predict(
        tracked.of.image("A1"), bundle=tracked.model, tracking=tracked.store, **given
    )
    np.testing.assert_array_equal(name.X, wanted.X)


def test_the_store_of_a_moved_results_folder_is_asked_without_an_option(tracked, tmp_path):
    of, moved = tracked.of, tmp_path / "moved"
    of.spots("A1", tmp_path / "spots.csv")
    of.results.rename(moved)
    try:
        answer = call(
            "predict", tracked.model, of.image("A1"), "--spots", tmp_path / "spots.csv",
            "--um-per-px", of.scale("A1"), "--device", "cpu", "--out", tmp_path / "out.csv",
            "--results", moved,
        )  # fmt: skip
    finally:
        moved.rename(of.results)
    assert answer.status == 0, answer.stderr
    # The next call finds the folder where it was.
    assert predict(tracked, tmp_path, "--results", of.results).status == 0


def test_the_files_of_the_method_are_there_once(files):
    content = json.loads((files / "data" / "fitted" / "bundle.json").read_text())
    assert {fit["folder"] for fit in content["fits"]} == {"model"}
    assert len(list(files.rglob("network.safetensors"))) == 1
    assert not list(files.rglob("*predictions*"))


def test_a_model_in_the_registry_is_found_by_version_and_alias(tracked, tmp_path, monkeypatch):
    # MLflow asks its default store for the files of a version that is made.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracked.store)
    client = MlflowClient(tracking_uri=tracked.store)
    client.create_registered_model("her2st mlp")
    client.create_model_version("her2st mlp", tracked.model)
    client.set_registered_model_alias("her2st mlp", "best", "1")
    for name in ("models:/her2st mlp/1", "models:/her2st mlp@best"):
        answer = predict(tracked, tmp_path, model=name)
        assert answer.status == 0, answer.stderr


def test_the_settings_of_a_tuned_fold_are_its_own(tracked, tmp_path):
    run, data = tracked.run, DatasetOnHand(dataset_card(str(tracked.of.dataset.card)))
    own = {**run.facts["config"], "hidden": 24}
    tuned = replace(run, facts={**run.facts, "tuned": {"0": own}})
    save_model(tmp_path / "tuned", tuned, 0, None, data=data)
    fitted = tmp_path / "tuned" / "data" / "fitted"
    assert json.loads((fitted / "spotbench.json").read_text())["config"] == own
    (fit,) = json.loads((fitted / "bundle.json").read_text())["fits"]
    assert fit["config"] == own


def table_of(tracked, image, factor=1.0, **columns):
    table = tracked.of.spots("A1", tracked.of.results / "spots.csv")
    table[["x", "y"]] *= factor
    return table.assign(image=str(image), **columns)


def test_patches_of_another_scale_are_resampled(tracked, tmp_path):
    model, scale = fetch_model(tracked.model, tracked.store, device="cpu"), tracked.of.scale("A1")
    image = tracked.of.image("A1")
    wanted = model.predict(table_of(tracked, image, um_per_px=scale))
    with Image.open(image) as opened:
        opened.resize((400, 400), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    large = table_of(tracked, tmp_path / "large.png", 2.0)
    with pytest.warns(UserWarning, match="scale mismatch"):
        column = model.predict(large.assign(um_per_px=scale / 2))
    assert np.corrcoef(column.to_numpy().ravel(), wanted.to_numpy().ravel())[0, 1] > 0.9
    loaded = fetch_model(tracked.model, tracked.store, device="cpu", um_per_px=scale / 2)
    with pytest.warns(UserWarning, match="scale mismatch"):
        assert loaded.predict(large).equals(column)
    with Image.open(tmp_path / "large.png") as opened:
        per_inch = 25_400 / (scale / 2)
        opened.save(tmp_path / "large.tif", dpi=(per_inch, per_inch))
    with pytest.warns(UserWarning, match="of the image's metadata"):
        told = model.predict(large.assign(image=str(tmp_path / "large.tif")))
    np.testing.assert_allclose(told, column, atol=1e-4)
    with pytest.warns(UserWarning, match="pixel size is not known"):
        model.predict(table_of(tracked, image))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"um_per_px": 100.0}, "beyond 4 times"),
        ({"um_per_px": -1.0}, "one number above 0"),
        ({"um_per_px": range(1, 31)}, "one number above 0"),
        ({"um_per_px": "wide"}, "must be a number"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(tracked, columns, words):
    model = fetch_model(tracked.model, tracked.store, device="cpu")
    with pytest.raises(DataError, match=words):
        model.predict(table_of(tracked, tracked.of.image("A1"), **columns))
    with pytest.raises(ConfigError, match="um_per_px"):
        fetch_model(tracked.model, tracked.store, um_per_px=-2)


def test_patches_in_micrometres_need_a_scale(tracked, files):
    path = files / "data" / "fitted" / "spotbench.json"
    facts = json.loads(path.read_text())
    facts["config"]["patch_size"] = "60um"
    path.write_text(json.dumps(facts))
    model, image = fetch_model(str(files), device="cpu"), tracked.of.image("A1")
    with pytest.raises(DataError, match="takes patches in micrometres"):
        model.predict(table_of(tracked, image))
    scaled = table_of(tracked, image, um_per_px=tracked.of.scale("A1"))
    assert np.isfinite(model.predict(scaled)).all().all()


# -------------------------------------------------------------------------- bad requests


def refused(tracked, tmp_path, *words, **how):
    assert_refused(predict(tracked, tmp_path, **how), *words)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("models:/m-00000000000000000000000000000000", ["cannot be fetched"]),
        ("models:/", ["write models:/m-..."]),
        ("models:/name", ["write models:/m-..."]),
        ("models:/absent/1", ["cannot be fetched"]),
        ("runs:/0123/model", ["no such kind of model", "models:/m-...", "hf://OWNER/REPO"]),
        ("ftp://host/model.spotbench", ["no such kind of model"]),
        ("hf://nonsense", ["names no repository"]),
    ],
)
def test_addresses_of_no_model_are_refused(tracked, tmp_path, model, words):
    refused(tracked, tmp_path, *words, model=model)


def test_a_store_that_is_absent_is_not_made(tracked, tmp_path):
    absent = tmp_path / "absent.db"
    refused(tracked, tmp_path, "no tracking store", "--tracking", store=f"sqlite:///{absent}")
    assert not absent.exists()


def test_a_model_of_somebody_else_is_refused(tracked, tmp_path):
    client = MlflowClient(tracking_uri=tracked.store)
    experiment = client.create_experiment("other", (tmp_path / "other").as_uri())
    for name, file in (("empty", ""), ("strange", "spotbench.txt")):
        model = client.create_logged_model(experiment, name)
        if file:
            (tmp_path / file).write_text("nothing")
            client.log_model_artifacts(model.model_id, str(tmp_path / file), "data/fitted")
        words = ["no model that spotbench has logged"] if file else [model.model_id]
        refused(tracked, tmp_path, *words, model=f"models:/{model.model_id}")


@pytest.mark.parametrize("limit", ["LARGEST", "_MOST_FILES"])
def test_a_model_that_is_too_large_is_not_fetched(tracked, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(fetching, limit, 3)
    refused(tracked, tmp_path, "models/m-", "more than")


@pytest.fixture
def replaced(tracked, files, tmp_path):
    """Log a changed copy of the model's files; address of that model."""

    def log(change):
        change(files / "data" / "fitted")
        client = MlflowClient(tracking_uri=tracked.store)
        experiment = client.create_experiment(tmp_path.name, (tmp_path / "store").as_uri())
        model = client.create_logged_model(experiment, "changed")
        client.log_model_artifacts(model.model_id, str(files))
        return f"models:/{model.model_id}"

    return log


def changed_byte(folder):
    path = folder / "model" / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def changed(**changes):
    def change(folder):
        path = folder / "bundle.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_byte, ["models:/m-", "model/network.safetensors", "damaged or was changed"]),
        (lambda folder: (folder / "card.yaml").unlink(), ["card.yaml: is missing"]),
        (changed(format=2, spotbench="9.9"), ["format 2", "9.9"]),
        (changed(method="./evil.py"), ["which is a file"]),
        (changed(fits=[]), ["fits"]),
        (
            changed(files={"../../out.txt": {"hash": f"sha256:{'0' * 64}", "size": 1}}),
            ["../../out.txt"],
        ),
        (lambda folder: (folder / "bundle.json").unlink(), ["earlier version", "fetch_model"]),
        (lambda folder: (folder / "bundle.json").write_text("no JSON"), ["is no model bundle"]),
    ],
)
def test_a_changed_model_is_refused(tracked, replaced, tmp_path, change, words):
    refused(tracked, tmp_path, *words, model=replaced(change))


def test_a_model_of_an_earlier_version_is_read_as_a_table(tracked, files):
    scale = tracked.of.scale("A1")
    table = table_of(tracked, tracked.of.image("A1"), um_per_px=scale)
    new = fetch_model(str(files), device="cpu")
    fitted = files / "data" / "fitted"
    for path in fitted.iterdir():
        if path.name not in {"spotbench.json", "model"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert {path.name for path in Path(fitted).iterdir()} == {"spotbench.json", "model"}
    old = fetch_model(str(files), device="cpu")
    with pytest.warns(UserWarning, match="scale of the training images is not known"):
        assert old.predict(table).equals(new.predict(table))
