import re

import pytest
from mlflow.entities import Dataset, DatasetInput
from mlflow.exceptions import MlflowException

from bench.tracking import batches
from bench.tracking.batches import log_dataset, log_values


@pytest.fixture
def client(tmp_path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_long_and_many_values_are_stored_as_far_as_mlflow_can(client, tmp_path):
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment).info.run_id
    odd = ["[bold]", "[/x]", ":smile:", "|", "<b>", r"$\frac{$", "=cmd", "Größe\n2", "\x1b[31m"]
    params = {f"p{number}": value for number, value in enumerate(odd * 30)}
    tags = {f"t{number}": number for number in range(150)}
    params["sections"] = tags["sections"] = ",".join(f"{number:0300}" for number in range(40))
    log_values(client, run, params=params, tags=tags)
    stored = client.get_run(run).data
    assert {name: stored.params[name] for name in params if name != "sections"} == {
        name: value for name, value in params.items() if name != "sections"
    }
    assert stored.tags["t149"] == "149"
    for text, limit in ((stored.params["sections"], 6000), (stored.tags["sections"], 8000)):
        assert len(text) == limit
        assert params["sections"].startswith(text.removesuffix("…"))


DEMO = DatasetInput(Dataset("demo", "1234", "local", "{}"))
TWICE = "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name"


@pytest.fixture
def run(client, tmp_path):
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    return client.create_run(experiment).info.run_id


def failing(monkeypatch, client, *errors):
    left, log_inputs = list(errors), client.log_inputs

    def log(*arguments):
        if left:
            raise left.pop(0)
        log_inputs(*arguments)

    monkeypatch.setattr(client, "log_inputs", log)
    monkeypatch.setattr(batches, "wait_random", lambda *_: lambda _: 0)
    return left


def test_a_dataset_that_another_process_stored_meanwhile_is_logged(client, run, monkeypatch):
    left = failing(monkeypatch, client, *[MlflowException(TWICE)] * 2)
    log_dataset(client, run, DEMO)
    assert left == []
    (found,) = client.get_run(run).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("demo", "1234")


@pytest.mark.parametrize(
    ("errors", "tried"),
    [([MlflowException("disk I/O error")] * 2, 1), ([MlflowException(TWICE)] * 9, 5)],
)
def test_other_and_lasting_errors_are_raised(client, run, monkeypatch, errors, tried):
    left = failing(monkeypatch, client, *errors)
    with pytest.raises(MlflowException, match=re.escape(str(errors[0]))):
        log_dataset(client, run, DEMO)
    assert len(errors) - len(left) == tried
