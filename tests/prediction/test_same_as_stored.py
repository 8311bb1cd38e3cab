"""On a test section, a fold predicts what its run stored: from the run, a bundle and MLflow."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.prediction.predicting import PredictionRequest, predict_image
from bench.registry import dataset_card
from bench.store import MODEL, FoldFolder
from bench.tracking.logged_bundle import DatasetOnHand
from bench.tracking.logged_files import DATA
from bench.tracking.model import fetch_model, save_model
from tests.cli.tiny_dataset import call
from tests.prediction.conftest import IMAGE_METHODS, Predicted
from tests.tracked import (  # noqa: F401 - fixtures
    client_of,
    empty_database,
    no_server_from_outside,
)


@dataclass(frozen=True)
class StoredFold:
    """One finished fold, a test section of it, and an MLflow store that has its model."""

    of: Predicted
    method: str
    fold: FoldFolder
    section: str
    store: str
    model: str

    @property
    def place(self) -> tuple[str, ...]:
        """Options for image and spots of the section."""
        spots = self.of.dataset.folder / f"{self.section}.csv"
        self.of.spots(self.section, spots)
        return (
            *(str(self.of.image(self.section)), "--spots", str(spots), "--device", "cpu"),
            *("--um-per-px", str(self.of.scale(self.section))),
        )

    def stored(self) -> pd.DataFrame:
        """What the run predicted."""
        return self.of.stored(self.fold.path, self.section)


@pytest.fixture(scope="module")
def store(empty_database, tmp_path_factory):  # noqa: F811
    """Client of an empty MLflow store, its address, and an experiment in it."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_database, folder / "mlflow.db")
    address = f"sqlite:///{folder / 'mlflow.db'}"
    client = client_of(address)
    return client, address, client.create_experiment("tiny", (folder / "artifacts").as_uri())


@pytest.fixture(scope="module", params=IMAGE_METHODS)
def stored_fold(request, predicted, store, tmp_path_factory):
    """The first fold of a method; one fit serves all tests of it."""
    result = predicted.run([request.param], folds=[0])
    assert not result.failures, result.failures[0].reason
    (run,) = result.runs
    fold = run.folder.fold(0)
    client, address, experiment = store
    model = client.create_logged_model(experiment, request.param)
    folder = tmp_path_factory.mktemp("logged") / "model"
    data = DatasetOnHand(dataset_card(str(predicted.dataset.card)), predicted.dataset.root)
    save_model(folder, run, 0, None, model.model_id, data)
    client.log_model_artifacts(model.model_id, str(folder))
    client.log_model_artifacts(model.model_id, str(fold.path / MODEL), f"{DATA}/{MODEL}")
    section = fold.facts()["test"][0]
    return StoredFold(predicted, request.param, fold, section, address, model.model_uri)


def assert_same(found: pd.DataFrame, stored: pd.DataFrame) -> None:
    assert list(found.index) == list(stored.index)
    assert list(found.columns) == list(stored.columns)
    np.testing.assert_allclose(found.to_numpy(), stored.to_numpy(), rtol=0, atol=1e-6)


def from_csv(path: Path, stored: pd.DataFrame) -> pd.DataFrame:
    table = pd.read_csv(path, index_col="barcode")
    return table[list(stored.columns)]


def test_a_test_section_gets_the_stored_predictions(stored_fold):
    of, section = stored_fold.of, stored_fold.section
    stored_fold.place  # noqa: B018 - writes the spots
    adata = predict_image(
        PredictionRequest(
            dataset=str(of.dataset.card),
            method=stored_fold.method,
            image=of.image(section),
            spots=of.dataset.folder / f"{section}.csv",
            um_per_px=of.scale(section),
            fold=0,
            results=of.results,
            data_root=of.dataset.root,
            device="cpu",
        )
    )
    assert_same(adata.to_df(), stored_fold.stored())


def test_a_bundle_gives_the_stored_predictions(stored_fold, tmp_path):
    bundle, out = tmp_path / "fold.spotbench", tmp_path / "out.csv"
    model = (*stored_fold.of.model, "--method", stored_fold.method, "--fold", "0")
    exported = call("export", *model, "--out", bundle)
    assert exported.status == 0, exported.stderr
    answer = call("predict", bundle, *stored_fold.place, "--out", out)
    assert answer.status == 0, answer.stderr
    stored = stored_fold.stored()
    assert_same(from_csv(out, stored), stored)


def test_a_logged_model_gives_the_stored_predictions(stored_fold, tmp_path):
    out = tmp_path / "out.csv"
    answer = call(
        "predict", stored_fold.model, *stored_fold.place, "--tracking", stored_fold.store,
        "--out", out,
    )  # fmt: skip
    assert answer.status == 0, answer.stderr
    stored = stored_fold.stored()
    assert_same(from_csv(out, stored), stored)
    scores = pd.read_csv(tmp_path / "out.genes.csv", index_col="gene")
    genes = pd.read_parquet(stored_fold.fold.path / "genes.parquet").groupby("gene")
    expected = genes["pcc"].mean().reindex(scores.index)
    np.testing.assert_allclose(scores["pcc"], expected, atol=1e-9)


def test_a_logged_model_gives_them_to_a_table(stored_fold):
    of, section, stored = stored_fold.of, stored_fold.section, stored_fold.stored()
    table = of.spots(section, of.dataset.folder / f"{section}.csv")
    table["image"] = str(of.image(section))
    table["um_per_px"] = of.scale(section)
    model = fetch_model(stored_fold.model, stored_fold.store, device="cpu")
    assert_same(model.predict(table), stored)


def test_every_built_in_method_on_images_is_among_them():
    assert {"ridge", "mclstexp", "stnet", "histogene"} <= set(IMAGE_METHODS)
    assert not {"mean", "coordinates"} & set(IMAGE_METHODS)
