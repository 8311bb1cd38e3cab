"""Named encoders, built from small stand-ins of their weights."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from bench.blocks.encoders import check_encoder, check_weights, image_encoder
from bench.blocks.frozen import FrozenEncoderConfig
from bench.blocks.images import to_network_scale
from bench.encoders.declaration import declaration, declarations
from bench.errors import BenchError, ConfigError, DataError
from bench.methods.ridge import Ridge

OF_TIMM = [name for name, of in declarations().items() if of.library == "timm"]
VITS = [name for name in OF_TIMM if not name.startswith("resnet")]
OF_TRANSFORMERS = [name for name, of in declarations().items() if of.library == "transformers"]

PARAMETERS = {
    "uni": 303,
    "uni2-h": 681,
    "virchow": 631,
    "virchow2": 631,
    "h-optimus-0": 1135,
    "h-optimus-1": 1135,
    "h0-mini": 72,
    "gigapath": 1135,
    "kaiko-s8": 22,
    "kaiko-b16": 86,
    "kaiko-l14": 304,
    "lunit-s8": 22,
    "gpfm": 303,
    "resnet50-layer3": 8.5,
}
"""Millions of parameters, from the model cards."""


def shallow(name):
    return {"depth": 1} if name in VITS else {}


@pytest.fixture
def images():
    torch.manual_seed(4)
    return torch.rand(1, 3, 224, 224)


def stand_in(name, path, **more):
    """A weight file with the tensor names of an encoder, random and of one block."""
    of = declaration(name)
    torch.manual_seed(11)
    arguments = {**of.arguments, **shallow(name), **more}
    for key in ("mlp_layer", "act_layer"):
        kinds = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": torch.nn.SiLU}
        if key in arguments:
            arguments[key] = kinds[arguments[key]]
    network = timm.create_model(of.architecture, num_classes=0, **arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # positions and scales start at 0
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_file(network.state_dict(), path)
    return network


@pytest.mark.parametrize("name", OF_TIMM)
def test_a_named_encoder_is_of_the_size_that_is_published(name):
    with torch.device("meta"):
        parameters = sum(p.numel() for p in image_encoder(name, "none").parameters())
    if name in PARAMETERS:
        assert parameters / 1e6 == pytest.approx(PARAMETERS[name], rel=0.02)
    assert check_encoder(name, 224) == declaration(name).dimension


def _marked(name):
    """The name; slow where a block alone has tens of millions of weights."""
    wide = PARAMETERS.get(name, 0) > 500
    return pytest.param(name, marks=[pytest.mark.slow] if wide else [])


@pytest.mark.parametrize("name", [_marked(name) for name in VITS])
@torch.inference_mode()
def test_a_named_transformer_loads_its_weights_and_pools_as_published(name, images, tmp_path):
    network = stand_in(name, tmp_path / "weights.safetensors")
    encoder = image_encoder(name, str(tmp_path / "weights.safetensors"), shallow(name)).eval()
    tokens = network.forward_features(images)
    registers = {"uni2-h": 8, "virchow2": 4, "h-optimus-0": 4, "h-optimus-1": 4, "h0-mini": 4}
    first_patch = 1 + registers.get(name, 4 if name == "kaiko-l14" else 0)
    size = {8: 28, 14: 16, 16: 14}[network.patch_embed.patch_size[0]]
    assert tokens.shape[1] == first_patch + size**2
    wanted = tokens[:, 0]
    if name in {"virchow", "virchow2"}:
        wanted = torch.cat([wanted, tokens[:, first_patch:].mean(dim=1)], dim=-1)
    torch.testing.assert_close(encoder(images), wanted)
    assert encoder.features == wanted.shape[1] == declaration(name).dimension


@torch.inference_mode()
def test_the_resnet_row_of_hest_is_the_third_stage(images, tmp_path):
    torch.manual_seed(1)
    network = timm.create_model("resnet50").eval()  # with classifier and fourth stage, as published
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    encoder = image_encoder("resnet50-layer3", str(tmp_path / "model.safetensors")).eval()
    x = network.maxpool(network.act1(network.bn1(network.conv1(images))))
    wanted = network.layer3(network.layer2(network.layer1(x))).mean(dim=(2, 3))
    torch.testing.assert_close(encoder(images), wanted)
    assert encoder.features == 1024


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
@torch.inference_mode()
def test_an_encoder_of_transformers_loads_and_pools_as_published(name, images, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    of = declaration(name)
    torch.manual_seed(2)
    kind = getattr(transformers, of.architecture)
    extra = {"add_pooling_layer": False} if of.architecture == "ViTModel" else {}
    one = {"num_hidden_layers": 1}
    network = kind(kind.config_class(**{**of.arguments, **one}), **extra).eval()
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    encoder = image_encoder(name, str(tmp_path / "model.safetensors"), one).eval()
    tokens = network(images).last_hidden_state
    wanted = tokens[:, 0]
    if of.pooling == "cls+avg":
        wanted = torch.cat([wanted, tokens[:, 1:].mean(dim=1)], dim=-1)
    torch.testing.assert_close(encoder(images), wanted)
    assert encoder.features == of.dimension


@pytest.mark.parametrize(
    ("name", "mean"), [("kaiko-s8", 0.5), ("lunit-s8", 0.70322989), ("uni", 0.485)]
)
def test_pixels_are_standardised_as_in_the_encoders_training(name, mean):
    with torch.device("meta"):
        encoder = image_encoder(name, "none", shallow(name))
    of = declaration(name)
    patches = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    found = to_network_scale(patches, "encoder", encoder).flatten()
    wanted = [(1 - m) / s for m, s in zip(of.mean, of.std, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert of.mean[0] == mean


@torch.inference_mode()
def test_pooling_can_be_chosen(images, tmp_path):
    network = stand_in("virchow2", tmp_path / "w.safetensors")
    tokens = network.forward_features(images)
    path = str(tmp_path / "w.safetensors")
    for pooling, wanted in (("cls", tokens[:, 0]), ("avg", tokens[:, 5:].mean(dim=1))):
        encoder = image_encoder("virchow2", path, {"depth": 1}, pooling).eval()
        torch.testing.assert_close(encoder(images), wanted)
        assert encoder.features == 1280


@pytest.mark.parametrize(
    ("name", "edge", "arguments", "said"),
    [
        ("gigapath", 256, {}, "does not take images of 256 px"),
        ("h-optimus-0", 256, {}, "set input_size=224"),
        ("uni2-h", 225, {}, "does not take images of 225 px"),
        ("uni", 224, {"no_such": 1}, "no_such"),
        ("uni", 224, {"act_layer": "os.system"}, "has a layer os.system"),
        ("phikon", 224, {"no_such": 1}, "no_such"),
        ("timm:vit_base_patch16_384", 224, {}, "set input_size=384"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name, edge, arguments, said):
    if name == "phikon":
        pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(ConfigError, match=said) as refusal:
        check_encoder(name, edge, arguments)
    assert "\n" not in str(refusal.value)


def test_dynamic_sizes_are_taken():
    assert check_encoder("uni", 256) == 1024
    assert check_encoder("kaiko-l14", 224) == 1024


def test_pooling_that_a_network_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="no tokens for pooling cls"):
        check_encoder("timm:resnet18", 224, None, "cls")


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_a_file_of_another_encoder_is_refused_before_it_is_stored(tmp_path, damage):
    stand_in("uni", tmp_path / "w.safetensors")
    state = dict(timm.models.load_state_dict(str(tmp_path / "w.safetensors")))
    if damage == "missing":
        state.pop("blocks.0.ls1.gamma")
    elif damage == "extra":
        state["blocks.9.norm1.weight"] = torch.zeros(1024)
    else:
        state["pos_embed"] = torch.zeros(1, 5, 1024)
    save_file(state, tmp_path / "bad.safetensors")
    of = declaration("uni").model_copy(update={"arguments": {"init_values": 1.0, "depth": 1}})
    check_weights(of, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"blocks\.|pos_embed"):
        check_weights(of, tmp_path / "bad.safetensors")


def test_an_encoder_that_is_not_here_is_never_random():
    with pytest.raises(ConfigError, match=r"get uni.*huggingface.co/MahmoodLab/UNI"):
        image_encoder("uni", "pretrained", {"depth": 1})


def test_statistics_of_settings_replace_the_encoders():
    config = FrozenEncoderConfig(encoder="uni", mean=[0.5, 0.5, 0.5])
    assert config.mean == (0.5, 0.5, 0.5)
    with pytest.raises(BenchError):
        Ridge.configure("demo", "quick", {"mean": [0.5, 0.5]})
