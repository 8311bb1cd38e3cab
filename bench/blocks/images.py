"""Patches as networks are fed them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bench.blocks.encoders import ImageEncoder
from bench.blocks.feeding import prefetch
from bench.data.images.patches import PatchSize
from bench.encoders.declaration import IMAGENET_MEAN, IMAGENET_STD
from bench.errors import ConfigError

Pixels = Literal["encoder", "rgb01", "bgr255", "imagenet"]
RawPixels = Literal["raw255", "rgb01"]


AT_ONCE_ON_GPU = 256
"""Images: a GPU is three times as fast with them as with 32, as its kernels are started singly."""


def images_at_once(size: int, device: str) -> int:
    """Batch of a network that is not trained: `size`, on a GPU :data:`AT_ONCE_ON_GPU` at least."""
    return max(size, AT_ONCE_ON_GPU) if device == "cuda" else size


def image_batches(patches: np.ndarray, device: str, size: int) -> Iterator[Tensor]:
    """Patches off the disk, :func:`images_at_once` at a time.

    Parameters
    ----------
    patches
        (n, height, width, 3) uint8; may be mapped from a file.
    device
        ``cpu``, ``cuda`` or ``mps``.
    size
        Patches of a batch on a CPU.

    Returns
    -------
    iterator of (size, 3, height, width) uint8 on the device, channels-last
    """
    size = images_at_once(size, device)
    parts = (np.array(patches[start : start + size]) for start in range(0, len(patches), size))
    return prefetch((torch.from_numpy(part).permute(0, 3, 1, 2) for part in parts), device)


def to_network_scale(
    patches: Tensor, pixels: Pixels, encoder: ImageEncoder | None = None
) -> Tensor:
    """uint8 RGB patches as a network is fed them.

    Parameters
    ----------
    patches
        (n, 3, height, width) uint8 RGB.
    pixels
        ``rgb01`` divides by 255; ``imagenet`` also standardises with ImageNet's mean and standard
        deviation, ``encoder`` with those of the encoder; ``bgr255`` reverses the channels and
        keeps 0..255.
    encoder
        Encoder whose statistics ``encoder`` uses; ImageNet's where None.

    Returns
    -------
    (n, 3, height, width) float32

    Raises
    ------
    ConfigError
        Another name of a scale.
    """
    if pixels not in get_args(Pixels):
        raise ConfigError(
            f"unknown scale of pixels '{pixels}'; known: {', '.join(get_args(Pixels))}"
        )
    if pixels == "bgr255":
        return patches.flip(1).float()
    scaled = patches.float() / 255
    if pixels == "rgb01":
        return scaled
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if encoder is not None and pixels == "encoder":
        mean, std = encoder.mean, encoder.std
    centre, scale = (torch.tensor(of, device=patches.device).view(1, 3, 1, 1) for of in (mean, std))
    return (scaled - centre) / scale


def x_first(patches: Tensor, pixels: RawPixels) -> Tensor:
    """Patches as the networks on whole sections are fed them: the x axis before the y axis.

    Parameters
    ----------
    patches
        (n, 3, height, width) uint8 RGB.
    pixels
        ``raw255`` keeps 0..255, ``rgb01`` divides by 255.

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
