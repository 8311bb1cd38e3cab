import pytest

from bench.tracking.batches import log_values


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
