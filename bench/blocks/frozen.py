"""What methods on features of images share. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from pydantic import Field

from bench.data.inputs import Slide
from bench.method import MethodConfig

QUICK_ENCODER: Mapping[str, Any] = MappingProxyType(
    {"encoder": "test_resnet", "weights": "none", "patch_size": None, "input_size": 64}
)
"""A random encoder small enough for a machine without a GPU."""


class FrozenEncoderConfig(MethodConfig):
    """Settings of a frozen encoder; methods with equal ones share their features on disk.

    Attributes
    ----------
    encoder
        ``densenet121`` (torchvision, without the final ReLU) or any timm encoder by name.
    weights
        ``imagenet``, ``none`` (random, drawn from the seed) or a weight file of the encoder.
    patch_size
        Edge of a patch in pixels of the full-resolution image; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`.
    pixels
        How pixels are fed: standardised as for ``imagenet``, ``rgb01`` or ``bgr255``.
    clip
        Standardised features are held within so many deviations; None lets them run. A feature
        that hardly ever fires in training is otherwise worth tens of deviations where it does.
    """

    encoder: str = "densenet121"
    weights: str = "imagenet"
    patch_size: int | None = Field(default=224, ge=8, le=4096)
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Literal["rgb01", "bgr255", "imagenet"] = "imagenet"
    clip: float | None = Field(default=5.0, gt=0, allow_inf_nan=False)


def in_image_order(slide: Slide, values: np.ndarray) -> np.ndarray:
    """Values that a method has computed of a slide's images, each at the spot of its image.

    A method that looks up such values by section and spot passes them through this function, so
    that the permuted-image control permutes them as it permutes patches. Elsewhere the values are
    returned as they are.

    Parameters
    ----------
    slide
        The slide.
    values
        (spots, ...) array, row i computed of the image at spot i.

    Raises
    ------
    ValueError
        The array does not have one row a spot.
    """
    if len(values) != len(slide):
        raise ValueError(f"section {slide.name}: {len(values)} rows for {len(slide)} spots")
    return values if slide.image_order is None else values[slide.image_order]
