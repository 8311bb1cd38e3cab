import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models import densenet121

from bench.blocks.encoders import image_encoder
from bench.blocks.images import to_network_scale
from bench.blocks.weights import read_tensors
from bench.errors import ConfigError, DataError, UnknownNameError


@pytest.fixture(scope="module")
def released():
    torch.manual_seed(3)
    return densenet121(weights=None).eval()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(4)
    return torch.rand(2, 3, 64, 64)


def as_published(state):
    """Names of torchvision's published DenseNet files: 'norm.1' where the module says 'norm1'."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in state.items()
    }


@pytest.mark.parametrize("form", ["pth", "published names", "safetensors", "wrapped", "module."])
@torch.inference_mode()
def test_a_weight_file_gives_the_features_before_the_last_relu(released, images, tmp_path, form):
    state = released.state_dict()
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "published names":
        torch.save(as_published(state), path)
    elif form == "wrapped":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "module.":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    encoder = image_encoder("densenet121", str(path)).eval()
    found = encoder(images)
    wanted = functional.adaptive_avg_pool2d(released.features(images), 1).flatten(1)
    torch.testing.assert_close(found, wanted)
    assert encoder.features == 1024
    assert (found < 0).any(), "the final ReLU must be left out"


def test_a_timm_encoder_takes_its_own_weight_file(images, tmp_path):
    import timm

    torch.manual_seed(5)
    network = timm.create_model("test_resnet", num_classes=10).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    encoder = image_encoder("test_resnet", str(tmp_path / "weights.pt")).eval()
    with torch.inference_mode():
        wanted = network.forward_head(network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(encoder(images), wanted)


@pytest.mark.parametrize("name", ["test_resnet", "timm:densenet121", "mobilenetv3_small_050"])
@torch.inference_mode()
def test_any_timm_encoder_gives_as_many_features_as_it_says(images, name):
    encoder = image_encoder(name, "none").eval()
    assert encoder(images).shape == (2, encoder.features)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda s: s.pop("features.conv0.weight"), "missing.*conv0.weight"),
        (lambda s: s.update({"features.extra.weight": torch.ones(1)}), "unexpected.*extra"),
        (lambda s: s.update({"features.conv0.weight": torch.ones(3)}), r"conv0.weight.*\(3,\)"),
        (lambda s: s.update({"features.conv0.weight": "text"}), "not a tensor"),
    ],
    ids=["missing", "unexpected", "reshaped", "no tensor"],
)
def test_a_weight_file_of_another_network_is_refused_by_tensor(released, tmp_path, damage, said):
    state = dict(released.state_dict())
    damage(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=said):
        image_encoder("densenet121", str(tmp_path / "weights.pth"))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_weight_file_that_would_run_code_is_refused_and_runs_none(tmp_path, how):
    mark, path = tmp_path / "ran", tmp_path / "weights.pth"
    if how == "torch":
        torch.save({"features.conv0.weight": Evil(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"features.conv0.weight": Evil(mark)}))
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_tensors(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 cut", b"text"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_weight_file_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="weights"):
        read_tensors(path)


def test_a_missing_weight_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        image_encoder("densenet121", str(tmp_path / "nowhere.pth"))


def test_an_unknown_encoder_offers_others():
    with pytest.raises(UnknownNameError, match=r"encoder 'resnet5'; did you mean .*resnet5"):
        image_encoder("resnet5", "none")


def test_weights_that_cannot_be_fetched_are_never_random(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no connection")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ConfigError, match="cannot be fetched"):
        image_encoder("densenet121", "imagenet")


def test_pixels_are_scaled_as_named():
    patches = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(
        to_network_scale(patches, "rgb01").ravel(), torch.tensor([0.0, 0.2, 1.0])
    )
    torch.testing.assert_close(
        to_network_scale(patches, "bgr255").ravel(), torch.tensor([255.0, 51.0, 0.0])
    )
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = (np.array([0.0, 0.2, 1.0]) - mean) / std
    found = to_network_scale(patches, "imagenet").ravel().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
