"""What the tests of tracking share: a tiny dataset, runs of it, and what MLflow has of them."""

from __future__ import annotations

import shutil

import pytest

from bench.cache import locked_folder
from tests.cli.tiny_dataset import TINY_NETWORK, call, write_tiny_dataset


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny dataset."""
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def no_server_from_outside(monkeypatch):
    """What a tracker sets for MLflow, or the machine has set, ends with a test."""
    for name in ("TRACKING_URI", "HTTP_REQUEST_MAX_RETRIES", "HTTP_REQUEST_TIMEOUT"):
        # Set first, so that it is taken away again where the tracker has set it.
        monkeypatch.setenv(f"MLFLOW_{name}", "")
        monkeypatch.delenv(f"MLFLOW_{name}")


@pytest.fixture(scope="session")
def empty_database():
    """A database with MLflow's tables, which take seconds to make, and nothing in them.

    It lies in the cache, so that one worker of a test run makes it for all.
    """
    from mlflow import MlflowClient

    with locked_folder("tests", "empty-database") as folder:
        path = folder / "mlflow.db"
        if not path.is_file():
            MlflowClient(tracking_uri=f"sqlite:///{folder / 'new.db'}").search_experiments()
            (folder / "new.db").rename(path)
    return path


@pytest.fixture
def results(tmp_path, empty_database):
    """Results folder with an empty database."""
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tiny, empty_database):
    """Results folder of two epochs of mclstexp on all folds."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = tmp_path_factory.mktemp("learned")
    shutil.copy(empty_database, results / "mlflow.db")
    settings = (*TINY_NETWORK, "--set", "epochs=2")
    assert run(tiny, results, *settings, methods="mclstexp").status == 0
    torch.set_num_threads(threads)
    return results


def run(tiny, results, *more, methods="mean"):
    """``bench run`` of some methods, the mean by default."""
    return call("run", "--method", methods, *tiny.options, "--results", results, *more)


def client_of(where):
    """MLflow's client of a results folder or tracking URI."""
    from mlflow import MlflowClient

    uri = where if isinstance(where, str) else f"sqlite:///{where / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri)


def runs_of(client):
    """MLflow runs, parents by label and children by label and fold."""
    experiments = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    found = client.search_runs(experiments)
    parents = {r.data.tags["method"]: r for r in found if "mlflow.parentRunId" not in r.data.tags}
    children = {
        (r.data.tags["method"], int(r.data.params["fold"])): r
        for r in found
        if "mlflow.parentRunId" in r.data.tags
    }
    assert len(parents) + len(children) == len(found)
    return parents, children
