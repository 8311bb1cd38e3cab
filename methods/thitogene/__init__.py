"""THItoGene: capsules, a transformer and graph attention over the spots of a whole section.

Jia Y. et al., "THItoGene: a deep learning method for predicting spatial transcriptomics from
histological images", Briefings in Bioinformatics 25(1), bbad464 (2024).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from bench.api import (
    Context,
    DataError,
    MethodConfig,
    NetworkConfig,
    NetworkMethod,
    PatchSize,
    Slide,
    TrainingData,
    atomic_write,
)
from bench.blocks.positions import check_positions

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods.thitogene.network import THItoGeneModule, THItoGeneNetwork

_GRAPH = "graph.json"
_Filters = Annotated[int, Field(ge=1)]
_CapsuleFilters = Annotated[int, Field(ge=8, multiple_of=8)]
_QUICK = {
    "patch_size": None,
    "input_size": 32,
    "stem": 2,
    "channels": (16, 16, 32, 32, 64),
    "capsules": 6,
    "capsule_dim": 16,
    "position_rows": 128,
    "layers": 1,
    "heads": 4,
    "head_dim": 16,
    "hidden": 128,
    "gat_heads": 2,
    "gat_dim": 64,
    "gat_out": 64,
    "gene_head_dim": 128,
    "dropout": 0.1,
    "norm_momentum": 0.5,
    "start_at_mean": True,
    "learning_rate": 2e-3,
    "epochs": 16,
}


class THItoGeneConfig(NetworkConfig):
    """Settings of THItoGene; the defaults are those of the released her2st training.

    Attributes
    ----------
    input_size
        At least eleven windows of the first convolution: 44 px with `stem` 4.
    pixels
        How pixels are fed: ``raw255`` as released, or ``rgb01``.
    stem, channels
        Edge and stride of the first convolution; filters of the five convolutions, the last one
        a multiple of eight.
    capsules, capsule_dim
        Digit capsules of a patch; their length is also the width of a position table.
    position_rows
        Rows of each position table; array coordinates x, y index them.
    layers, heads, head_dim, hidden
        Shape of the transformer over the spots of a section.
    neighbours
        Nearest other spots that a spot has as neighbours.
    gat_heads, gat_dim, gat_out, gene_head_dim
        Graph attention: heads, width of each, width of the result; hidden width of the gene head.
    dropout
        In the transformer and in the graph attention.
    norm_momentum
        Weight of the newest section in the stored statistics of the batch normalisations; a
        short training at a high rate outruns those of the usual 0.1.
    as_released
        Normalise the graph's attention over the spots that ask, as the released code does, and
        not over the neighbours of a spot.
    start_at_mean
        Start the bias of the last layer at the mean training target, which a short training
        could not reach; as released it starts at random.
    """

    patch_size: PatchSize = 112
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Literal["raw255", "rgb01"] = "raw255"
    stem: int = Field(default=4, ge=1)
    channels: tuple[_Filters, _Filters, _Filters, _Filters, _CapsuleFilters] = (16, 32, 64, 64, 128)
    capsules: int = Field(default=20, ge=1)
    capsule_dim: int = Field(default=64, ge=1)
    position_rows: int = Field(default=64, ge=1)
    layers: int = Field(default=4, ge=0)
    heads: int = Field(default=16, ge=1)
    head_dim: int = Field(default=64, ge=1)
    hidden: int = Field(default=2048, ge=1)
    neighbours: int = Field(default=4, ge=1)
    gat_heads: int = Field(default=8, ge=1)
    gat_dim: int = Field(default=1024, ge=1)
    gat_out: int = Field(default=512, ge=1)
    gene_head_dim: int = Field(default=1024, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    norm_momentum: float = Field(default=0.1, gt=0, le=1)
    as_released: bool = False
    start_at_mean: bool = False
    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: int = Field(default=200, ge=1)
    patience: int | None = Field(default=None, ge=1)


class THItoGene(NetworkMethod):
    """Capsules and graph attention, trained by Adam on the mean squared error of a section."""

    name: ClassVar[str] = "thitogene"
    Config: ClassVar[type[MethodConfig]] = THItoGeneConfig
    unit: ClassVar[Literal["spot", "section"]] = "section"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {**_QUICK, "heads": 2, "head_dim": 8, "epochs": 2},
    }
    dataset_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cscc": {"layers": 8},
        # Array columns of Visium go up to 127.
        "alex10x": {"position_rows": 128},
    }
    not_in_tensors: ClassVar[tuple[str, ...]] = ("heads",)
    config: THItoGeneConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Learning rate, dropout, depth of the transformer, and length of the training."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True),
            "dropout": trial.suggest_float("dropout", 0.0, 0.5),
            "layers": trial.suggest_int("layers", 1, 8),
            "epochs": trial.suggest_int("epochs", 10, 300, log=True),
        }

    def build(self, data: TrainingData, context: Context) -> THItoGeneNetwork:
        """The network for patches of the training sections' size."""
        import torch

        from bench.methods.thitogene.network import THItoGeneNetwork

        shape = self.chosen(
            *("stem", "channels", "capsules", "capsule_dim", "position_rows", "layers", "heads"),
            *("head_dim", "hidden", "gat_heads", "gat_dim", "gat_out", "gene_head_dim"),
            *("dropout", "norm_momentum", "as_released"),
        )
        size, first = self.config.patch_size, data.train[0]
        edge = self.config.input_size or (size if isinstance(size, int) else first.patch_pixels)
        network = THItoGeneNetwork(len(data.panel), patch=edge, **shape)
        if self.config.start_at_mean:
            network.start_from(torch.from_numpy(self.mean_target(data)))
        return network

    def restore(self, source: Any) -> THItoGeneNetwork:
        """The network of a checkpoint, which tells all sizes but the number of heads.

        Its attention is the released one; :meth:`load` sets the one that was saved.
        """
        from bench.methods.thitogene.network import THItoGeneNetwork

        return THItoGeneNetwork.from_released(source, **self.chosen("heads", "dropout"))

    def training_module(self) -> THItoGeneModule:
        """Mean squared error of a section."""
        from bench.methods.thitogene.network import THItoGeneModule

        return THItoGeneModule(self.network, self.config)

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """A released checkpoint, with the attention it was trained with.

        Its tensors fit the released attention alone: that is what it gets, and keeps when saved,
        whatever ``as_released`` says; a note tells where the setting says otherwise.
        """
        method = super().from_released(source, config, data, context)
        if not method.config.as_released:
            context.notes.append(
                "thitogene: a released checkpoint is read with as_released=true, which it was"
                " trained with"
            )
        return method

    def inputs(self, slide: Slide) -> dict[str, np.ndarray]:
        """Rows of the position tables, and the graph of neighbouring spots."""
        from bench.blocks.graph import neighbour_edges

        rows = self.network.x_embed.num_embeddings
        return {
            "position": check_positions(slide.array_xy, rows, method=self.name, section=slide.name),
            "edges": neighbour_edges(slide.array_xy, self.config.neighbours),
        }

    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """Capsules of each patch, then all spots of a slide together."""
        import torch

        from bench.blocks.images import x_first

        pixels = self.config.pixels
        capsules = [self.network.embed_images(x_first(part, pixels)) for part in images]
        return self.network.relate(torch.cat(capsules), **inputs)

    def save(self, folder: Path) -> None:
        """Write ``network.safetensors`` and which attention it goes with, ``graph.json``."""
        super().save(folder)
        with atomic_write(folder / _GRAPH) as temporary:
            temporary.write_text(json.dumps({"as_released": self.network.as_released}))

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote; which attention is used comes from there alone."""
        path = folder / _GRAPH
        try:
            as_released = json.loads(path.read_text(encoding="utf-8"))["as_released"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a readable record of the graph's attention") from error
        method = super().load(folder, config)
        method.network.as_released = bool(as_released)
        return method
