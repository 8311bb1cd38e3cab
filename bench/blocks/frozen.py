"""What methods on features of images share. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from bench.data.images.patches import PatchSize
from bench.data.inputs import Slide
from bench.encoders.declaration import Pooling
from bench.encoders.settings import EncoderConfig

QUICK_ENCODER: Mapping[str, Any] = MappingProxyType(
    {"encoder": "test_resnet", "weights": "none", "patch_size": None, "input_size": 64}
)
"""A random encoder small enough for a machine without a GPU."""


_Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FrozenEncoderConfig(EncoderConfig):
    """Settings of a frozen encoder; methods with equal ones share their features on disk.

    Attributes
    ----------
    encoder
        A named encoder of ``bench list encoders``, ``timm:NAME`` or a plain name of timm,
        ``hf-hub:OWNER/NAME[@revision]``, or ``local-dir:PATH``. ``densenet121`` is torchvision's,
        without the final ReLU. Settings that are not given follow the declaration of a named
        encoder.
    weights
        ``pretrained`` or ``imagenet`` (the encoder's published ones), ``none`` (random, drawn from
        the seed), or a weight file of the encoder.
    encoder_args
        Arguments of the encoder's constructor that differ from the declared ones.
    pooling
        ``cls``, ``avg``, ``cls+avg`` or ``stage3``; None takes the encoder's own.
    patch_size
        Edge of a patch in pixels of the full-resolution image, or in micrometres as in
        ``"112um"``; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`.
    pixels
        How pixels are fed: standardised as in the ``encoder``'s own training or as for
        ``imagenet``, ``rgb01`` or ``bgr255``.
    mean, std
        Of the channels on the scale 0 to 1, in place of the encoder's own.
    features
        Folder with a file a section, or a file, of features that were computed elsewhere: they
        take the place of the encoder. See :mod:`bench.encoders.brought`.
    engine
        What computes: ``torch``; ``compiled`` by torch, which takes about a minute once; on a CPU
        ``openvino`` (an extra); or ``auto`` for OpenVINO where it is installed and the section has
        at least 1,000 patches, else ``torch``.
    store
        Type in which features are kept on disk; they are rounded to it.
    clip
        Standardised features are held within so many deviations; None lets them run. A feature
        that hardly ever fires in training is otherwise worth tens of deviations where it does.
    """

    encoder: str = "densenet121"
    weights: str = "imagenet"
    encoder_args: dict[str, Any] = Field(default_factory=dict)
    pooling: Pooling | None = None
    patch_size: PatchSize = 224
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Literal["encoder", "rgb01", "bgr255", "imagenet"] = "encoder"
    mean: tuple[float, float, float] | None = None
    std: tuple[_Deviation, _Deviation, _Deviation] | None = None
    features: str | None = None
    engine: Literal["auto", "torch", "compiled", "openvino"] = "auto"
    store: Literal["float32", "float16"] = "float32"
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

    Returns
    -------
    array of the same shape and dtype
        Row i belongs to spot i of the slide that the method was given.

    Raises
    ------
    ValueError
        The array does not have one row a spot.
    """
    if len(values) != len(slide):
        raise ValueError(f"section {slide.name}: {len(values)} rows for {len(slide)} spots")
    return values if slide.image_order is None else values[slide.image_order]
