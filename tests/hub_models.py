"""Small models in the form of the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.blocks.encoders import image_encoder


def write_snapshot(folder: Path, seed: int) -> Path:
    """Write ``config.json`` and random weights of timm's smallest ResNet; returns the folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.4] * 3}})
    )
    torch.manual_seed(seed)
    save_file(image_encoder("test_resnet", "none").model.state_dict(), folder / "model.safetensors")
    return folder
