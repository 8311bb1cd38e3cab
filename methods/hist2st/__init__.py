"""Hist2ST: convolutions, a transformer over all spots, and a graph network over neighbours.

Zeng Y. et al., "Spatial transcriptomics prediction from histology jointly through Transformer
and graph neural networks", Briefings in Bioinformatics 23(5), bbac297 (2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.api import (
    ConfigError,
    Context,
    MethodConfig,
    NetworkConfig,
    NetworkMethod,
    PatchSize,
    Slide,
    TrainingData,
    TrainingSection,
)
from bench.blocks.positions import check_positions

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods.hist2st.network import Hist2STModule, Hist2STNetwork

_QUICK = {
    "patch_size": None,
    "input_size": 14,
    "pixels": "rgb01",
    "channels": 64,
    "mixer_kernel": 3,
    "mixer_layers": 1,
    "attention_layers": 1,
    "heads": 2,
    "head_dim": 8,
    "hidden": 32,
    "zinb": 0.02,
    "bake": 1,
    "distillation": 0.2,
    "learning_rate": 5e-3,
    "decay": 0.1,
    "decay_epochs": 48,
    "epochs": 60,
}


class Hist2STConfig(NetworkConfig):
    """Settings of Hist2ST; the defaults are those of the released her2st training.

    Attributes
    ----------
    pixels
        How pixels are fed: ``raw255`` as they are, or ``rgb01`` divided by 255.
    tile_size
        Edge of the tiles that the first convolution cuts a patch into.
    channels, mixer_kernel, mixer_layers
        Shape of the ConvMixer; a spot's vector has
        ``(input_size / tile_size)**2 * channels / 8`` values.
    attention_layers, heads, head_dim, hidden
        Shape of the attention over all spots of a section.
    graph_layers
        Layers of the graph network; at least two, since their outputs are read as a sequence.
    dropout
        In the embedding and the attention layers.
    position_rows
        Rows of each position table; array coordinates must lie below.
    neighbours, graph_radius
        A spot's neighbours are the nearest others within this distance on the array; None sets
        no limit.
    pruning
        How neighbours are limited: ``radius`` by `graph_radius`; ``deviation`` keeps those no
        farther than the mean plus one standard deviation of the distances of a spot's nearest.
    pooling
        What the graph network reads of a spot's neighbours: their ``mean``, or ``max``, their
        component-wise maximum. A checkpoint does not record it.
    as_released
        A spot without neighbours makes the prediction of the whole section NaN, and with `pooling`
        ``max`` it is an error. Otherwise such a spot stands for its own neighbour.
    zinb
        Weight of the count likelihood; 0 leaves its heads out.
    count_head
        Likelihood of the counts: ``zinb`` zero-inflated negative binomial with size factors, or
        ``nb`` negative binomial without, summed over genes.
    bake, distillation
        Augmented views of a section in each step, and the weight of the distillation from them;
        without either there is none of it.
    learning_rate, decay, decay_epochs, epochs
        Adam, its rate multiplied by `decay` every `decay_epochs`; a step is a whole section.
    """

    patch_size: PatchSize = 112
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Literal["raw255", "rgb01"] = "raw255"
    tile_size: int = Field(default=7, ge=1)
    channels: int = Field(default=32, ge=8, multiple_of=8)
    mixer_kernel: int = Field(default=5, ge=1)
    mixer_layers: int = Field(default=2, ge=1)
    attention_layers: int = Field(default=8, ge=1)
    heads: int = Field(default=16, ge=1)
    head_dim: int = Field(default=64, ge=1)
    hidden: int = Field(default=1024, ge=1)
    graph_layers: int = Field(default=4, ge=2)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    position_rows: int = Field(default=64, ge=1)
    neighbours: int = Field(default=4, ge=1)
    graph_radius: float | None = Field(default=2.0, gt=0)
    pruning: Literal["radius", "deviation"] = "radius"
    pooling: Literal["mean", "max"] = "mean"
    as_released: bool = False
    zinb: float = Field(default=0.25, ge=0)
    count_head: Literal["zinb", "nb"] = "zinb"
    bake: int = Field(default=5, ge=0)
    distillation: float = Field(default=0.5, ge=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    decay: float = Field(default=0.9, gt=0, le=1)
    decay_epochs: int = Field(default=50, ge=1)
    epochs: int = Field(default=350, ge=1)
    patience: int | None = Field(default=None, ge=1)

    @property
    def views(self) -> int:
        """Augmented views that a step takes."""
        return self.bake if self.distillation > 0 else 0


class Hist2ST(NetworkMethod):
    """Attention and a graph network over the spots of a whole section."""

    name: ClassVar[str] = "hist2st"
    unit: ClassVar[Literal["spot", "section"]] = "section"
    Config: ClassVar[type[MethodConfig]] = Hist2STConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {
            **_QUICK,
            "channels": 16,
            "hidden": 16,
            "graph_layers": 2,
            "bake": 2,
            "epochs": 2,
        },
    }
    # The authors used no Visium section; its array has up to 128 columns.
    dataset_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "alex10x": {"position_rows": 128},
    }
    not_in_tensors: ClassVar[tuple[str, ...]] = ("heads", "pooling")
    config: Hist2STConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Learning rate, depth, dropout, the weights of the two further losses, and length."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True),
            "attention_layers": trial.suggest_int("attention_layers", 1, 8),
            "graph_layers": trial.suggest_int("graph_layers", 2, 4),
            "dropout": trial.suggest_float("dropout", 0.0, 0.4),
            "zinb": trial.suggest_float("zinb", 0.0, 1.0),
            "distillation": trial.suggest_float("distillation", 0.0, 1.0),
            "epochs": trial.suggest_int("epochs", 40, 400, log=True),
        }

    def build(self, data: TrainingData, context: Context) -> Hist2STNetwork:
        """The network for patches of the settings' size, with the heads that its losses train."""
        from bench.methods.hist2st.network import Hist2STNetwork

        shape = self.chosen(
            *("channels", "mixer_kernel", "mixer_layers", "attention_layers", "heads", "head_dim"),
            *("hidden", "graph_layers", "dropout", "position_rows", "pooling", "as_released"),
        )
        return Hist2STNetwork(
            len(data.panel),
            edge=self.input_edge(),
            tile=self.config.tile_size,
            count_head=self.config.count_head if self.config.zinb > 0 else None,
            # The weight of a single view is 1 whatever the head says.
            view_head=self.config.views > 1,
            **shape,
        )

    def restore(self, source: Any) -> Hist2STNetwork:
        """The network of a checkpoint, which tells all sizes but the number of heads."""
        from bench.methods.hist2st.network import Hist2STNetwork

        return Hist2STNetwork.from_released(
            source, **self.chosen("heads", "dropout", "pooling", "as_released")
        )

    def training_module(self) -> Hist2STModule:
        """Squared error, count likelihood and self-distillation."""
        from bench.methods.hist2st.network import Hist2STModule

        return Hist2STModule(self.network, self.config)

    def input_edge(self) -> int:
        """Edge of a patch in pixels, a multiple of the tiles' edge."""
        edge, tile = super().input_edge(), self.config.tile_size
        if edge % tile:
            raise ConfigError(
                f"hist2st: patches of {edge} pixels a side are not cut into whole tiles of {tile}"
                " (input_size, tile_size)"
            )
        return edge

    def inputs(self, slide: Slide) -> dict[str, np.ndarray]:
        """Rows of the position tables, and the graph of neighbouring spots."""
        from bench.blocks.graph import neighbour_edges

        by_deviation = self.config.pruning == "deviation"
        radius = None if by_deviation else self.config.graph_radius
        rows = self.network.x_embed.num_embeddings
        return {
            "position": check_positions(slide.array_xy, rows, method=self.name, section=slide.name),
            "edges": neighbour_edges(
                slide.array_xy, self.config.neighbours, radius, by_deviation=by_deviation
            ),
        }

    def training_arrays(self, section: TrainingSection) -> dict[str, np.ndarray]:
        """Target, counts and size factors."""
        from bench.methods.hist2st.losses import size_factors

        return {
            "target": section.target,
            "counts": section.counts,
            "size_factor": size_factors(section.counts),
        }

    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """Predict all spots of a slide together, from its patches as they are."""
        import torch

        from bench.blocks.images import x_first

        pixels = self.config.pixels
        embedded = [self.network.embed_patches(x_first(part, pixels)) for part in images]
        return self.network.gene_head(self.network.relate(torch.cat(embedded), **inputs))
