import numpy as np
import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from bench.blocks import engines
from bench.blocks import features as module
from bench.blocks.engines import ENOUGH, choose_engine, openvino_version
from bench.blocks.features import FrozenEncoder
from bench.blocks.frozen import FrozenEncoderConfig
from bench.blocks.images import images_at_once
from bench.errors import ConfigError

NEEDS_OPENVINO = pytest.mark.skipif(openvino_version() is None, reason="openvino is not installed")


@pytest.mark.parametrize(
    ("asked", "installed", "device", "patches", "chosen"),
    [
        ("auto", True, "cpu", ENOUGH, "openvino"),
        ("auto", True, "cpu", ENOUGH - 1, "torch"),
        ("auto", True, "cuda", ENOUGH, "torch"),
        ("compiled", True, "cuda", 1, "compiled"),
        ("compiled", False, "cpu", ENOUGH, "compiled"),
        ("auto", False, "cpu", ENOUGH, "torch"),
        ("torch", True, "cpu", ENOUGH, "torch"),
        ("openvino", True, "cpu", 1, "openvino"),
    ],
)
def test_the_engine_follows_from_setting_device_and_patches(
    monkeypatch, asked, installed, device, patches, chosen
):
    monkeypatch.setattr(engines, "openvino_version", lambda: "1" if installed else None)
    assert choose_engine(asked, device, patches) == chosen


@pytest.mark.parametrize(("installed", "device"), [(False, "cpu"), (True, "cuda")])
def test_an_engine_that_is_not_there_is_refused(monkeypatch, installed, device):
    monkeypatch.setattr(engines, "openvino_version", lambda: "1" if installed else None)
    with pytest.raises(ConfigError, match="needs a CPU and the package"):
        choose_engine("openvino", device, 10)


def test_the_engine_and_its_version_are_in_the_key(own_cache, slide, monkeypatch):
    calls = []

    def counted(self, patches):
        calls.append(len(patches))
        return np.zeros((len(patches), 2), np.float32)

    monkeypatch.setattr(FrozenEncoder, "_compute", counted)
    small = {"encoder": "test_resnet", "weights": "none", "input_size": 32, "patch_size": None}
    for engine, release in (("torch", "1"), ("openvino", "1"), ("openvino", "2"), ("torch", "2")):
        for of in (engines, module):
            monkeypatch.setattr(of, "openvino_version", lambda release=release: release)
        FrozenEncoder(FrozenEncoderConfig(**small, engine=engine), 0, "cpu").encode([slide])
    assert len(calls) == 3


def small_config(engine, edge=32):
    return FrozenEncoderConfig(
        encoder="test_resnet", weights="none", patch_size=None, input_size=edge, engine=engine
    )


def test_a_compiled_network_is_given_batches_of_one_size(own_cache, slide, monkeypatch):
    asked = []

    def watched(network, **_):
        return lambda images: asked.append(tuple(images.shape)) or network(images)

    monkeypatch.setattr(torch, "compile", watched)
    monkeypatch.setattr(module, "_IMAGES_AT_ONCE", 8)
    found, wanted = (
        FrozenEncoder(small_config(engine), 0, "cpu").encode([slide])[0]
        for engine in ("compiled", "torch")
    )
    assert asked == [(8, 3, 32, 32)] * 3  # 20 spots
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_network_that_cannot_be_compiled_is_refused(own_cache, slide, monkeypatch):
    def failing(network, **_):
        def run(images):
            raise BackendCompilerFailed(network, RuntimeError("no compiler"), None)

        return run

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(ConfigError, match=r"cannot compile this encoder here .*no compiler"):
        FrozenEncoder(small_config("compiled"), 0, "cpu").encode([slide])
    assert list(own_cache.glob("features/**/*.npz")) == []


@pytest.mark.slow
def test_a_truly_compiled_network_gives_the_same_features(own_cache, slide):
    found, wanted = (
        FrozenEncoder(small_config(engine), 0, "cpu").encode([slide])[0]
        for engine in ("compiled", "torch")
    )
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_gpu_is_given_larger_batches():
    assert (images_at_once(32, "cpu"), images_at_once(32, "cuda")) == (32, 256)
    assert images_at_once(512, "cuda") == 512


@NEEDS_OPENVINO
@pytest.mark.parametrize("encoder", ["densenet121", "test_resnet", "timm:vit_tiny_patch16_224"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bf16", 3e-2)])
def test_features_agree_within_the_rounding_of_the_precision(
    own_cache, slide, encoder, precision, tolerance
):
    edge = 224 if "vit" in encoder else 64
    found = {}
    for engine in ("torch", "openvino"):
        config = FrozenEncoderConfig(
            encoder=encoder, weights="none", patch_size=None, input_size=edge, engine=engine
        )
        (found[engine],) = FrozenEncoder(config, 0, "cpu", precision).encode([slide])
    scale = np.abs(found["torch"]).max()
    np.testing.assert_allclose(found["openvino"], found["torch"], atol=tolerance * scale)
