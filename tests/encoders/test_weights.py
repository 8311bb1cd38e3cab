import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.blocks.encoders import check_weights, image_encoder
from bench.encoders.folders import encoders_folder, stored_folder
from bench.encoders.hub import get_weights
from bench.encoders.weights import (
    MANIFEST,
    add_weights,
    checked_weights,
    stored_weights,
    weights_identity,
)
from bench.errors import BenchError, ConfigError, DataError

HUB = "hf-hub:owner/tiny@v1"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def repository(tmp_path):
    """Files of a hub repository with a small model of timm."""
    folder = tmp_path / "repository"
    folder.mkdir()
    config = {
        "architecture": "test_vit",
        "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    network = image_encoder("timm:test_vit", "none").model
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def nothing_stored():
    return not encoders_folder().exists() or not list(encoders_folder().iterdir())


def test_a_snapshot_is_added_and_read_with_its_own_statistics(repository):
    manifest = add_weights(HUB, repository, check_weights)
    assert (manifest.repository, manifest.revision) == ("owner/tiny", "local")
    encoder = image_encoder(HUB, "pretrained")
    assert (encoder.mean, encoder.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    for name, tensor in load_file(repository / "model.safetensors").items():
        torch.testing.assert_close(encoder.model.state_dict()[name], tensor)
    assert weights_identity(HUB)["sha256"] == manifest.sha256


def test_another_revision_has_weights_of_its_own(repository):
    add_weights(HUB, repository, check_weights)
    assert stored_weights("hf-hub:owner/tiny@v2") is None
    assert stored_folder("hf-hub:owner/tiny@v2") != stored_folder(HUB)
    assert stored_folder("../../x").parent == encoders_folder()


def test_weights_are_not_replaced_unasked(repository):
    add_weights(HUB, repository, check_weights)
    before = (stored_folder(HUB) / MANIFEST).read_bytes()
    with pytest.raises(ConfigError, match="--replace"):
        add_weights(HUB, repository, check_weights)
    assert (stored_folder(HUB) / MANIFEST).read_bytes() == before
    add_weights(HUB, repository, check_weights, revision="c0ffee", replace=True)
    assert weights_identity(HUB)["revision"] == "c0ffee"


@pytest.mark.parametrize("damage", ["byte", "gone", "manifest", "path", "other"])
def test_damage_is_named(repository, damage):
    add_weights(HUB, repository, check_weights)
    folder = stored_folder(HUB)
    file, manifest = folder / "model.safetensors", folder / MANIFEST
    content = json.loads(manifest.read_text())
    if damage == "byte":
        held = bytearray(file.read_bytes())
        held[-1] ^= 1
        file.write_bytes(held)
    elif damage == "gone":
        file.unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "path":
        manifest.write_text(json.dumps({**content, "file": "../../../etc/passwd"}))
    else:
        manifest.write_text(json.dumps({**content, "encoder": "uni"}))
    with pytest.raises(DataError, match="damaged; store the weights again"):
        checked_weights(HUB)


def test_a_file_that_does_not_fit_leaves_nothing(repository, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="tensors missing"):
        add_weights("kaiko-s8", tmp_path / "x.safetensors", check_weights)
    with pytest.raises(DataError, match="no such file"):
        add_weights("uni", tmp_path / "absent.bin", check_weights)
    with pytest.raises(DataError, match="holds no weight file"):
        add_weights("uni", tmp_path, check_weights)
    with pytest.raises(DataError, match="missing; the folder of a timm model has one"):
        add_weights(HUB, tmp_path / "x.safetensors", check_weights)
    with pytest.raises(ConfigError, match="nothing to add"):
        add_weights(f"local-dir:{repository}", repository, check_weights)
    assert nothing_stored()


def test_a_pickle_is_never_executed(tmp_path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "model.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError):
        add_weights("kaiko-s8", tmp_path / "model.bin", check_weights)
    assert not (tmp_path / "executed").exists()
    assert nothing_stored()


class FakeHub:
    """The hub's answers, from a folder."""

    def __init__(self, folder, error=None, cut=False):
        self.folder, self.error, self.cut = folder, error, cut
        self.asked = []

    def __call__(self, token):
        self.token = token
        return self

    def model_info(self, repository, revision):
        self.asked.append((repository, revision))
        if self.error is not None:
            raise self.error
        files = [SimpleNamespace(rfilename=path.name) for path in self.folder.iterdir()]
        return SimpleNamespace(sha="c0ffee", siblings=files)

    def hf_hub_download(self, repository, name, revision, local_dir):
        assert revision == "c0ffee"
        content = (self.folder / name).read_bytes()
        path = local_dir / name
        path.write_bytes(content[: len(content) // 2] if self.cut else content)
        return str(path)


def fake(monkeypatch, **how):
    made = FakeHub(**how)
    monkeypatch.setattr("huggingface_hub.HfApi", made)
    return made


def test_weights_are_fetched_once_at_a_recorded_commit(repository, monkeypatch):
    made = fake(monkeypatch, folder=repository)
    monkeypatch.setenv("MY_TOKEN", "secret")
    manifest = get_weights(HUB, check_weights, token_env="MY_TOKEN")
    assert made.asked == [("owner/tiny", "v1")]
    assert made.token == "secret"
    assert manifest.revision == "c0ffee"
    assert image_encoder(HUB, "pretrained").mean == (0.4, 0.5, 0.6)
    with pytest.raises(ConfigError, match="on this machine already"):
        get_weights(HUB, check_weights)


def test_a_cut_download_leaves_nothing(repository, monkeypatch):
    fake(monkeypatch, folder=repository, cut=True)
    with pytest.raises(BenchError) as refusal:
        get_weights(HUB, check_weights)
    assert "\n" not in str(refusal.value)
    assert stored_weights(HUB) is None


def http_error(kind, status):
    return kind("no", response=SimpleNamespace(headers={}, request=None, status_code=status))


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("GatedRepoError", 403, "access is asked for at https://huggingface.co/MahmoodLab/UNI"),
        ("RevisionNotFoundError", 404, "has no revision"),
        ("RepositoryNotFoundError", 404, "does not exist, or"),
        ("HfHubHTTPError", 500, "cannot be fetched"),
    ],
)
def test_refusals_of_the_hub_are_one_line(repository, monkeypatch, name, status, said):
    import huggingface_hub.errors

    error = http_error(getattr(huggingface_hub.errors, name), status)
    fake(monkeypatch, folder=repository, error=error)
    with pytest.raises(ConfigError, match=said) as refusal:
        get_weights("uni", check_weights)
    assert "\n" not in str(refusal.value)
    assert nothing_stored()


def test_without_internet_the_way_out_is_said(repository, monkeypatch):
    fake(monkeypatch, folder=repository, error=ConnectionError("no route"))
    with pytest.raises(ConfigError, match="bench encoders add uni FILE"):
        get_weights("uni", check_weights)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hibou-l", "runs code of its repository"),
        ("densenet121", "fetched by torchvision"),
        ("unii", "unknown encoder"),
        ("hf-hub:x", "OWNER/NAME"),
    ],
)
def test_what_cannot_be_fetched_says_why(name, said):
    with pytest.raises(BenchError, match=said):
        get_weights(name, check_weights)


def test_a_repository_without_the_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    fake(monkeypatch, folder=tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"no file model.safetensors or pytorch_model.bin"):
        get_weights(HUB, check_weights)
