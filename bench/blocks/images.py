"""Image encoders, their weights, and what happens to pixels on the way in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.blocks.feeding import prefetch
from bench.blocks.precision import ImageModule
from bench.blocks.weights import load_strict, read_tensors
from bench.data.images.patches import PatchSize
from bench.errors import ConfigError
from bench.files import one_line

Pixels = Literal["rgb01", "bgr255", "imagenet"]
RawPixels = Literal["raw255", "rgb01"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

# torchvision's published DenseNet files name a layer's parts 'norm.1', the module 'norm1'.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)")
_CLASSIFIER = re.compile(r"(?:classifier|fc|head(?:\.fc)?|heads)\.(?:weight|bias)")


class ImageEncoder(ImageModule):
    """Images to one feature vector each.

    Attributes
    ----------
    features
        Length of the vector.
    """

    def __init__(self, model: nn.Module, features: int) -> None:
        super().__init__()
        self.model = model
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, features)."""
        return self.compute(self.model, images)


def image_encoder(name: str, weights: str) -> ImageEncoder:
    """Build an image encoder.

    Parameters
    ----------
    name
        ``densenet121``: torchvision's feature maps averaged over space, without the ReLU that
        torchvision's own forward applies to them. Any other name is a timm model;
        ``timm:densenet121`` is timm's.
    weights
        ``none`` (random), ``imagenet`` (fetched by torchvision or timm), or the path of a
        ``.safetensors``, ``.pt`` or ``.pth`` file of this encoder's tensors.

    Raises
    ------
    ConfigError
        No such encoder, or weights that cannot be fetched: never silently random.
    DataError
        A weight file that is missing, unsafe, or of another network.
    """
    pretrained = weights == "imagenet"
    if name == "densenet121":
        encoder = _densenet121(pretrained)
    else:
        encoder = _timm(name.removeprefix("timm:"), pretrained)
    if weights not in {"imagenet", "none"}:
        load_encoder_weights(encoder, Path(weights))
    return encoder


def _densenet121(pretrained: bool) -> ImageEncoder:
    from torchvision.models import DenseNet121_Weights, densenet121

    wanted = DenseNet121_Weights.IMAGENET1K_V1 if pretrained else None
    try:
        network = densenet121(weights=wanted)
    except OSError as error:
        raise _not_fetched("densenet121", error) from error
    pooled = nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ImageEncoder(pooled, network.classifier.in_features)


def _timm(name: str, pretrained: bool) -> ImageEncoder:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3]
        offer = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
        raise ConfigError(f"unknown encoder '{name}'{offer}")
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        if pretrained:
            raise _not_fetched(name, error) from error
        raise ConfigError(f"encoder '{name}' cannot be built ({error})") from error
    # Networks with a convolution after pooling give more features than their last stage has.
    features = getattr(network, "head_hidden_size", None) or network.num_features
    return ImageEncoder(network, int(features))


def _not_fetched(name: str, error: Exception) -> ConfigError:
    reason = one_line(error, 120)
    return ConfigError(
        f"ImageNet weights of {name} cannot be fetched ({reason}); connect once, or set"
        " weights to a local file, or to 'none' for a random start"
    )


def load_encoder_weights(encoder: ImageEncoder, path: Path) -> None:
    """Load a weight file into an encoder; a classifier in it is left aside.

    Raises
    ------
    DataError
        The file is missing, would run code, or lacks, adds or reshapes a tensor.
    """
    network = encoder.model
    state = read_tensors(path)
    renamed = {}
    for key, tensor in state.items():
        if _CLASSIFIER.fullmatch(key):
            continue
        key = _OLD_DENSENET_NAME.sub(r"\1\2", key)
        if isinstance(network, nn.Sequential):
            key = "0." + key.removeprefix("features.").removeprefix("0.")
        renamed[key] = tensor
    load_strict(network, renamed, str(path))


def image_batches(patches: np.ndarray, device: str, size: int = 64) -> Iterator[Tensor]:
    """Patches off the disk, `size` at a time.

    Parameters
    ----------
    patches : (n, height, width, 3) uint8, memory-mapped is fine

    Returns
    -------
    iterator of (size, 3, height, width) uint8 on the device, channels-last
    """
    parts = (np.array(patches[start : start + size]) for start in range(0, len(patches), size))
    return prefetch((torch.from_numpy(part).permute(0, 3, 1, 2) for part in parts), device)


def to_network_scale(patches: Tensor, pixels: Pixels) -> Tensor:
    """uint8 RGB patches as a network is fed them.

    Parameters
    ----------
    patches : (n, 3, height, width) uint8 RGB
    pixels : ``rgb01`` divides by 255; ``imagenet`` also standardises with ImageNet's mean and
        deviation; ``bgr255`` reverses the channels and keeps 0..255

    Returns
    -------
    (n, 3, height, width) float32
    """
    if pixels == "bgr255":
        return patches.flip(1).float()
    scaled = patches.float() / 255
    if pixels == "rgb01":
        return scaled
    mean = torch.tensor(_IMAGENET_MEAN, device=patches.device).view(1, 3, 1, 1)
    std = torch.tensor(_IMAGENET_STD, device=patches.device).view(1, 3, 1, 1)
    return (scaled - mean) / std


def x_first(patches: Tensor, pixels: RawPixels) -> Tensor:
    """Patches as the networks on whole sections are fed them: the x axis before the y axis.

    Parameters
    ----------
    patches : (n, 3, height, width) uint8 RGB
    pixels : ``raw255`` keeps 0..255, ``rgb01`` divides by 255

    Returns
    -------
    (n, 3, width, height) float32
    """
    images = patches.transpose(2, 3).contiguous().float()
    return images if pixels == "raw255" else images / 255


def one_edge(method: str, patch_size: PatchSize, input_size: int | None) -> int:
    """Edge in pixels of what a network of one input size is fed.

    Raises
    ------
    ConfigError
        The settings leave it to the dataset.
    """
    edge = input_size or patch_size
    if not isinstance(edge, int):
        raise ConfigError(
            f"{method}: set input_size, or patch_size in pixels; patches need one size"
        )
    return edge
