"""Settings of TRIPLEX: the authors' values by form and dataset, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.api import FrozenEncoderConfig, NetworkConfig, PatchSize
from bench.encoders.declaration import Pooling

Quirk = Literal["dropout", "grid", "mask", "mean"]
QUIRKS: tuple[Quirk, ...] = ("dropout", "grid", "mask", "mean")
"""Behaviours of the released code that are mended here unless they are asked for."""

_Depths = tuple[
    Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)], Annotated[int, Field(ge=1)]
]
_Heads = tuple[
    Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
]
_Ratio = Annotated[float, Field(gt=0, le=64)]
_Share = Annotated[float, Field(ge=0, lt=1)]


def _shape(
    depth: tuple[int, ...], heads: tuple[int, ...], ratio: tuple[float, ...], *dropout: float
) -> Mapping[str, Any]:
    return MappingProxyType(
        {"depth": depth, "heads": heads, "mlp_ratio": ratio, "dropout": dropout}
    )


_SCC = _shape((2, 2, 4), (8, 16, 16), (4, 1, 1), 0.1, 0.1, 0.3)
_BC2 = _shape((3, 3, 4), (16, 8, 8), (4, 2, 4), 0.4, 0.1, 0.3)
OF_2025: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"her2st": {}, "cscc": {**_SCC, "epochs": 200}, "stnet": _BC2}
)
"""What differs from the defaults by dataset, for the 2025 form."""

_CVPR_BC1 = _shape((1, 5, 4), (4, 8, 4), (4, 4, 4), 0.4, 0.3, 0.3)
OF_CVPR: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"her2st": _CVPR_BC1, "cscc": _SCC, "stnet": _BC2}
)
"""Shapes by dataset for the CVPR form."""

_CVPR_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        **_CVPR_BC1,
        "patch_size": 224,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "step",
        "decay": 0.9,
        "decay_epochs": 50,
        "epochs": 200,
    }
)

QUICK: Mapping[str, Any] = MappingProxyType(
    {
        "encoder": "test_resnet",
        "weights": "none",
        "patch_size": None,
        "input_size": 64,
        "target_channels": 12,
        "target_weights": "random",
        "tiles": 3,
        "depth": (1, 2, 1),
        "heads": (4, 4, 4),
        "mlp_ratio": (1, 1, 1),
        "dropout": (0.1, 0.0, 0.1),
        "start_at_mean": True,
        "clamp_training": False,
        "learning_rate": 3e-3,
        "batch_size": 64,
        "epochs": 8,
        "patience": None,
    }
)
"""Small random encoders for machines without a GPU; the frozen features have 96 values, which is
the width of the map of the residual network with 12 channels, so that both forms can be built."""


class TriplexConfig(NetworkConfig):
    """Settings of TRIPLEX; the defaults are those of the released her2st training.

    Attributes
    ----------
    variant
        ``2025``, the form of the last released code, or ``cvpr``, that of the code of the paper;
        with ``cvpr`` the defaults of shape, patches, optimiser and schedule are those of that
        code.
    encoder, weights, encoder_args, pooling, pixels, engine, store
        Frozen encoder of the tiles and of the section's patches, see
        :class:`bench.blocks.frozen.FrozenEncoderConfig`. The authors' is a ResNet-18:
        ``weights=tenpercent_resnet18.ckpt`` reads their file. The length of its features is the
        width of the network.
    target_weights
        Start of the trained ResNet-18 on the spot's patch: ``imagenet``, ``random``, or a weight
        file of a ResNet-18. None takes those of the frozen encoder where that is a ResNet-18,
        otherwise ``imagenet``.
    target_channels
        Channels of the first stage of the residual network; 64 is a ResNet-18.
    patch_size, input_size
        Of the spot's patch and of each tile around it.
    tiles
        Tiles along an edge of the neighbourhood; odd, so that the spot's patch is the middle one.
    depth, heads, mlp_ratio, dropout
        Blocks, heads, width of the feed-forward part per width, and dropout of the three encoders:
        fusion, section, neighbours.
    kernel
        Edge of the positional convolution; odd.
    distillation
        Share of the distillation in the loss of the three other heads.
    start_at_mean
        Start the biases of the heads at the mean training target, which a short training could
        not reach; as released they start at random.
    clamp_training
        Cut the predictions of the 2025 form at 0 before the loss, as released: a gene that is
        predicted below 0 learns nothing from that spot, and a rare one may be predicted 0
        everywhere. Otherwise they are cut in prediction alone.
    as_released
        Behaviours of the released code: true for all, or names of some. ``dropout`` of the
        attention among spots stays on when predicting; ``grid`` of the first training section is
        kept for all sections; ``mask`` hides rows of tiles for columns, around the corner of the
        neighbourhood, in pixels of the released patches; tiles outside of the image count in the
        ``mean`` over tiles.
    augment
        Random flips and quarter turns of the spot's patch while training.
    optimizer, learning_rate, weight_decay, batch_size, epochs
        Adam, with L2 decay, or AdamW.
    schedule, decay, decay_patience, decay_epochs
        The rate is multiplied by `decay` once the loss has not fallen for `decay_patience` epochs
        (``plateau``: the loss of the validation sections with `patience`, otherwise of training),
        or every `decay_epochs` (``step``).
    patience
        Stop early on the validation sections; under a protocol without any set it to null and
        choose the epochs.
    """

    variant: Literal["2025", "cvpr"] = "2025"
    encoder: str = "resnet18"
    weights: str = "imagenet"
    encoder_args: dict[str, Any] = Field(default_factory=dict)
    pooling: Pooling | None = None
    pixels: Literal["encoder", "rgb01", "bgr255", "imagenet"] = "encoder"
    engine: Literal["auto", "torch", "compiled", "openvino"] = "auto"
    store: Literal["float32", "float16"] = "float32"
    target_weights: str | None = None
    target_channels: int = Field(default=64, ge=1, le=1024)
    patch_size: PatchSize = "112um"
    input_size: int | None = Field(default=224, ge=8, le=1024)
    tiles: int = Field(default=5, ge=1, le=15)
    depth: _Depths = (1, 3, 3)
    heads: _Heads = (4, 16, 16)
    mlp_ratio: tuple[_Ratio, _Ratio, _Ratio] = (4, 4, 1)
    dropout: tuple[_Share, _Share, _Share] = (0.2, 0.1, 0.3)
    kernel: int = Field(default=3, ge=1, le=31)
    distillation: float = Field(default=0.3, ge=0, le=1)
    start_at_mean: bool = False
    clamp_training: bool = True
    as_released: bool | tuple[Quirk, ...] = False
    augment: bool = True
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["plateau", "step"] = "plateau"
    decay: float = Field(default=0.1, gt=0, le=1)
    decay_patience: int = Field(default=10, ge=0)
    decay_epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=128, ge=2)
    epochs: int = Field(default=1000, ge=1)
    patience: int | None = Field(default=20, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _follow_variant(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("variant") == "cvpr":
            return {**_CVPR_DEFAULTS, **values}
        return values

    @model_validator(mode="after")
    def _has_a_middle(self) -> TriplexConfig:
        for name in ("tiles", "kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd")
        return self

    def keeps(self, quirk: Quirk) -> bool:
        """Whether a behaviour of the released code is asked for."""
        if isinstance(self.as_released, bool):
            return self.as_released
        return quirk in self.as_released

    @property
    def frozen(self) -> FrozenEncoderConfig:
        """Settings of the frozen encoder; others with equal ones share its features."""
        shared = (
            *("encoder", "weights", "encoder_args", "pooling", "pixels", "engine", "store"),
            *("patch_size", "input_size"),
        )
        return FrozenEncoderConfig(clip=None, **{name: getattr(self, name) for name in shared})

    @property
    def target_start(self) -> str:
        """Start of the trained ResNet-18: ``frozen``, ``imagenet``, ``random`` or a file."""
        if self.target_weights is not None:
            return self.target_weights
        plain = self.encoder.removeprefix("timm:").partition(".")[0]
        if plain != "resnet18":
            return "imagenet"
        return "random" if self.weights == "none" else "frozen"
