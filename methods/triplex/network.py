"""Network of TRIPLEX in its two published forms; tensor names are those of the checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from bench.api import ConfigError, DataError
from bench.blocks.precision import ImageModule
from bench.blocks.weights import (
    Released,
    load_strict,
    numbered,
    released_tensors,
    tensor_size,
)
from bench.methods.triplex.attention import (
    EncoderShape,
    FusionEncoder,
    GlobalEncoder,
    NeighbourEncoder,
    SectionAttention,
)
from bench.methods.triplex.positions import ArrayPositions, PixelPositions

Variant = Literal["2025", "cvpr"]
"""Published form: that of the 2025 code, or that of the code of the CVPR paper."""

_HEADS = ("fc", "fc_target", "fc_neighbor", "fc_global")
_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


class TriplexOutputs(NamedTuple):
    """Predictions of the four heads, (spots, genes) each; the first one is the prediction."""

    fused: Tensor
    target: Tensor
    neighbours: Tensor
    section: Tensor


class TriplexNetwork(ImageModule):
    """A spot's expression from its patch, the tiles around it, and all spots of its section.

    Parameters
    ----------
    genes
        Panel size.
    dim
        Width, which is that of the frozen features.
    fusion, section, neighbours
        Shapes of the three encoders.
    variant
        ``2025`` or ``cvpr``: another packing and dropout of the attention among spots, another
        positional layer, no linear layer on the tokens of the patch, and predictions that may be
        negative.
    kernel, tiles
        Edge of the positional convolution, and of the neighbourhood in tiles.
    channels
        Channels of the first stage of the residual network on the patch; 64 is ResNet-18.
    clamp_training
        The 2025 form cuts predictions at 0 before the loss too, and not in prediction alone.
    mean_over_hidden
        As released, tiles that are not there count in the mean over the tokens of the tiles.
    always_drops
        As released, dropout of the attention among spots stays on in evaluation.

    Raises
    ------
    ConfigError
        Heads that do not divide the width, or a width that the variant cannot have.
    """

    def __init__(
        self,
        genes: int,
        *,
        dim: int,
        fusion: EncoderShape,
        section: EncoderShape,
        neighbours: EncoderShape,
        variant: Variant = "2025",
        kernel: int = 3,
        tiles: int = 5,
        channels: int = 64,
        clamp_training: bool = True,
        mean_over_hidden: bool = False,
        always_drops: bool = False,
    ) -> None:
        super().__init__()
        for shape in (fusion, section, neighbours):
            if dim % shape.heads:
                raise ConfigError(f"triplex: {shape.heads} heads do not divide {dim} features")
        if section.depth < 2:
            raise ConfigError("triplex: the encoder of the section needs at least 2 blocks")
        self.variant = variant
        self.clamp_training = clamp_training
        self.mean_over_hidden = mean_over_hidden
        self.target_encoder = residual_network(channels)
        self.fc_target = nn.Linear(dim, genes)
        if variant == "2025":
            self.target_linear = nn.Linear(8 * channels, dim)
        elif dim != 8 * channels:
            raise ConfigError(
                f"triplex: variant cvpr needs frozen features as wide as the map of its residual"
                f" network, {8 * channels}, not {dim}; choose another encoder or target_channels"
            )
        self.neighbor_encoder = NeighbourEncoder(dim, neighbours, tiles)
        self.fc_neighbor = nn.Linear(dim, genes)
        positional = PixelPositions if variant == "2025" else ArrayPositions
        self.global_encoder = GlobalEncoder(
            dim,
            section,
            positional(dim, kernel),
            interleaved=variant == "2025",
            weights_dropout=section.dropout if variant == "2025" else 0.0,
        )
        self.fc_global = nn.Linear(dim, genes)
        self.fusion_encoder = FusionEncoder(dim, fusion)
        self.fc = nn.Linear(dim, genes)
        for part in self.modules():
            if isinstance(part, SectionAttention):
                part.always_drops = always_drops

    @classmethod
    def from_released(
        cls,
        source: Released,
        *,
        heads: tuple[int, int, int] = (4, 16, 16),
        dropout: tuple[float, float, float] = (0.2, 0.1, 0.3),
        clamp_training: bool = True,
        mean_over_hidden: bool = False,
        always_drops: bool = False,
    ) -> Self:
        """The network with the tensors of a checkpoint, which tell its form and sizes.

        Parameters
        ----------
        source
            A checkpoint file, or tensors by name.
        heads, dropout
            Of the fusion, section and neighbour encoders. Tensors tell the heads of the last one,
            and of the others only whether there is one head or several.
        clamp_training, mean_over_hidden, always_drops
            As of the class.

        Raises
        ------
        DataError
            A tensor is missing, unexpected or of another shape, or the heads do not fit.
        """
        state, where = released_tensors(source)
        positional = "global_encoder.pos_layer"
        variant: Variant = "cvpr" if f"{positional}.proj1.weight" in state else "2025"
        projection = f"{positional}.{'proj' if variant == '2025' else 'proj1'}.weight"
        stacks = (
            "fusion_encoder.fusion_layer.layers",
            "global_encoder.layer1.layers",
            "neighbor_encoder.layer.layers",
        )
        biases = f"{stacks[2]}.0.0.fn.attention_biases"
        of_section = numbered(state, f"{stacks[1]}.") + numbered(
            state, "global_encoder.layer2.layers."
        )
        depths = (numbered(state, f"{stacks[0]}."), of_section, numbered(state, f"{stacks[2]}."))
        several = [f"{stack}.0.0.fn.to_out.0.weight" in state for stack in stacks]
        known = (heads[0], heads[1], tensor_size(state, biases, 0, where))
        shapes = [
            EncoderShape(
                depths[i],
                known[i] if several[i] else 1,
                tensor_size(state, f"{stacks[i]}.0.1.fn.net.0.weight", 0, where),
                dropout[i],
            )
            for i in range(3)
        ]
        try:
            network = cls(
                tensor_size(state, "fc.weight", 0, where),
                dim=tensor_size(state, "fc.weight", 1, where),
                fusion=shapes[0],
                section=shapes[1],
                neighbours=shapes[2],
                variant=variant,
                kernel=tensor_size(state, projection, 2, where),
                tiles=math.isqrt(tensor_size(state, biases, 1, where)),
                channels=tensor_size(state, "target_encoder.0.weight", 0, where),
                clamp_training=clamp_training,
                mean_over_hidden=mean_over_hidden,
                always_drops=always_drops,
            )
        except ConfigError as error:
            raise DataError(f"{where}: {error}") from error
        load_strict(network, state, where)
        return network.eval()

    @property
    def genes(self) -> int:
        """Number of outputs."""
        return self.fc.out_features

    @property
    def dim(self) -> int:
        """Width, which is that of the frozen features."""
        return self.fc.in_features

    def target_tokens(self, images: Tensor) -> Tensor:
        """(n, 3, edge, edge) standardised patches to (n, places of the feature map, dim)."""
        tokens = self.compute(self.target_encoder, images).flatten(2).transpose(1, 2)
        return self.target_linear(tokens) if self.variant == "2025" else tokens

    def section_tokens(
        self, features: Tensor, position: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Tokens of all spots of a section.

        Parameters
        ----------
        features : (spots, dim) frozen features of their patches
        position : (spots, 2) pixel (x, y), or array (row, column) of the CVPR form
        grid : columns and rows of the positional grid; those of the section where None

        Returns
        -------
        (spots, dim)
        """
        return self.global_encoder(features, position, grid)

    def forward(
        self, images: Tensor, neighbours: Tensor, mask: Tensor, tokens: Tensor
    ) -> TriplexOutputs:
        """Predictions of all heads, as they enter the loss.

        Parameters
        ----------
        images : (n, 3, edge, edge) standardised patches
        neighbours : (n, tiles², dim) frozen features of the tiles around them
        mask : (n, tiles²) bool, True where a tile is inside the image
        tokens : (n, dim) of :meth:`section_tokens`
        """
        target = self.target_tokens(images)
        around = self.neighbor_encoder(neighbours, mask)
        fused = self.fusion_encoder(tokens, target, around, mask)
        outputs = (
            self.fc(fused),
            self.fc_target(target.mean(dim=1)),
            self.fc_neighbor(self._mean_of_tiles(around, mask)),
            self.fc_global(tokens),
        )
        if self.variant == "2025" and self.clamp_training:
            outputs = tuple(output.clamp(min=0) for output in outputs)
        return TriplexOutputs(*outputs)

    def predict(self, images: Tensor, neighbours: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """(n, genes) prediction; parameters as of :meth:`forward`."""
        around = self.neighbor_encoder(neighbours, mask)
        fused = self.fusion_encoder(tokens, self.target_tokens(images), around, mask)
        return self.cut(self.fc(fused))

    def cut(self, prediction: Tensor) -> Tensor:
        """A prediction at 0 or above in the 2025 form, as it is in the CVPR form."""
        return prediction.clamp(min=0) if self.variant == "2025" else prediction

    def _mean_of_tiles(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.mean_over_hidden:
            return tokens.mean(dim=1)
        weights = mask.to(tokens.dtype)[..., None]
        return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def start_from(self, mean: np.ndarray) -> None:
        """Let the bias of each head be the (genes,) mean target."""
        with torch.no_grad():
            for name in _HEADS:
                self.get_parameter(f"{name}.bias").copy_(torch.from_numpy(np.asarray(mean)))

    def start_target_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """Load the residual network from tensors by the names of a ResNet-18.

        Raises
        ------
        DataError
            They are not those of this network.
        """
        renamed = {}
        for name, tensor in state.items():
            first, _, rest = name.removeprefix("resnet.").partition(".")
            if first in _CHILDREN:
                renamed[f"{_CHILDREN[first]}.{rest}"] = tensor
            elif first != "fc":
                renamed[name] = tensor
        load_strict(self.target_encoder, renamed, where)


def residual_network(channels: int) -> nn.Sequential:
    """Layers of a ResNet-18 before its pooling; `channels` of its first stage, 64 as published."""
    stages = [_stage(channels, channels, 1)]
    stages += [_stage(channels << i, channels << (i + 1), 2) for i in range(3)]
    network = nn.Sequential(
        nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        *stages,
    )
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return network


def _stage(before: int, channels: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(
            nn.Conv2d(before, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
        )
    return nn.Sequential(
        BasicBlock(before, channels, stride, shortcut), BasicBlock(channels, channels)
    )


def triplex_loss(
    outputs: TriplexOutputs, target: Tensor, distillation: float = 0.3
) -> dict[str, Tensor]:
    """Loss of a batch and its parts.

    ``loss`` is the mean squared error of the prediction, plus for each of the other heads
    ``1 - distillation`` times its mean squared error and ``distillation`` times its mean squared
    difference from the prediction, through which both of them learn.

    Returns
    -------
    dict
        ``loss``, ``loss_fusion``, and ``loss_X`` and ``distillation_X`` for X target, neighbour
        and global.
    """
    parts = {"loss_fusion": F.mse_loss(outputs.fused, target)}
    total = parts["loss_fusion"]
    for name, output in zip(("target", "neighbour", "global"), outputs[1:], strict=True):
        parts[f"loss_{name}"] = F.mse_loss(output, target)
        parts[f"distillation_{name}"] = F.mse_loss(outputs.fused, output)
        total = total + (1 - distillation) * parts[f"loss_{name}"]
        total = total + distillation * parts[f"distillation_{name}"]
    return {"loss": total, **parts}
