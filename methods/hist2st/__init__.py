"""Hist2ST: convolutions, a transformer over all spots, and a graph network over neighbours.

Zeng Y. et al., "Spatial transcriptomics prediction from histology jointly through Transformer
and graph neural networks", Briefings in Bioinformatics 23(5), bbac297 (2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from bench.api import (
    ConfigError,
    Context,
    Method,
    MethodConfig,
    PatchSize,
    Slide,
    TrainingData,
    TrainingSection,
)
from bench.blocks.positions import table_rows

if TYPE_CHECKING:
    from bench.methods.hist2st.network import Hist2STNetwork

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


class Hist2STConfig(MethodConfig):
    """Settings of Hist2ST; the defaults are those of the released her2st training.

    Attributes
    ----------
    patch_size
        Edge of a patch in pixels of the full-resolution image, or in micrometres as in
        ``"150um"``; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`, and one of the two must be
        set: the network takes patches of one size alone.
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
    as_released
        A spot without neighbours makes the prediction of the whole section NaN. Otherwise such
        a spot stands for its own neighbour.
    zinb
        Weight of the count likelihood; 0 leaves its heads out.
    bake, distillation
        Augmented views of a section in each step, and the weight of the distillation from them;
        without either there is none of it.
    learning_rate, decay, decay_epochs, epochs
        Adam, its rate multiplied by `decay` every `decay_epochs`; a step is a whole section.
    patience
        Stop early on the validation sections after so many epochs; None trains all epochs on
        training and validation sections together, as released.
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
    as_released: bool = False
    zinb: float = Field(default=0.25, ge=0)
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


class Hist2ST(Method):
    """Joins the network and its training recipe to the harness."""

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

    def fit(self, data: TrainingData, context: Context) -> None:
        """Train on one whole section a step."""
        import torch

        from bench.methods.hist2st.losses import size_factors
        from bench.methods.hist2st.network import Hist2STNetwork
        from bench.methods.hist2st.recipe import Hist2STRecipe
        from bench.training.batches import SectionDataset, section_loader
        from bench.training.fitting import train_on

        torch.manual_seed(context.seed)
        config = self.config
        self._network = Hist2STNetwork(
            len(data.panel),
            edge=self._edge(),
            tile=config.tile_size,
            channels=config.channels,
            mixer_kernel=config.mixer_kernel,
            mixer_layers=config.mixer_layers,
            attention_layers=config.attention_layers,
            heads=config.heads,
            head_dim=config.head_dim,
            hidden=config.hidden,
            graph_layers=config.graph_layers,
            dropout=config.dropout,
            position_rows=config.position_rows,
            count_heads=config.zinb > 0,
            # The weight of a single view is 1 whatever the head says.
            view_head=config.views > 1,
            as_released=config.as_released,
        )

        def loader(sections: Sequence[TrainingSection]) -> Any:
            dataset = SectionDataset(
                [self._patches(section) for section in sections],
                {
                    "target": [section.target for section in sections],
                    "counts": [section.counts for section in sections],
                    "size_factor": [size_factors(section.counts) for section in sections],
                    "position": [self._position(section) for section in sections],
                    "edges": [self._edges(section) for section in sections],
                },
            )
            return section_loader(dataset, context.seed)

        train_on(
            Hist2STRecipe(self._network, config),
            data,
            loader,
            epochs=config.epochs,
            patience=config.patience,
            context=context,
        )

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """A released checkpoint; nothing is made from the training sections."""
        from bench.blocks.weights import check_panel

        method = cls(config)
        method._network = method._restored(source)
        check_panel(source, method._network.genes, data.panel)
        if method._network.edge != method._edge():
            raise ConfigError(
                f"hist2st: the checkpoint takes patches of {method._network.edge} pixels a side,"
                f" the settings give {method._edge()} (input_size)"
            )
        return method

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Predict all spots of a slide together, from its patches as they are."""
        import torch

        from bench.blocks.images import image_batches, x_first
        from bench.blocks.precision import place

        network = place(self._network, context).eval()
        predictions = []
        with torch.inference_mode():
            for slide in slides:
                position = torch.from_numpy(self._position(slide)).to(context.device)
                edges = torch.from_numpy(self._edges(slide)).to(context.device)
                embedded = [
                    network.embed_patches(x_first(images, self.config.pixels))
                    for images in image_batches(self._patches(slide), context.device)
                ]
                features = network.relate(torch.cat(embedded), position, edges)
                predictions.append(network.gene_head(features).cpu().numpy())
        return predictions

    def save(self, folder: Path) -> None:
        """Write ``network.safetensors``."""
        from bench.blocks.weights import save_network

        save_network(self._network, folder)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote."""
        from bench.blocks.weights import NETWORK

        method = cls(config)
        method._network = method._restored(folder / NETWORK)
        return method

    def _restored(self, source: Any) -> Hist2STNetwork:
        from bench.methods.hist2st.network import Hist2STNetwork

        return Hist2STNetwork.from_released(
            source,
            heads=self.config.heads,
            dropout=self.config.dropout,
            as_released=self.config.as_released,
        )

    def _edge(self) -> int:
        from bench.blocks.images import one_edge

        edge = one_edge(self.name, self.config.patch_size, self.config.input_size)
        tile = self.config.tile_size
        if edge % tile:
            raise ConfigError(
                f"hist2st: patches of {edge} pixels a side are not cut into whole tiles of {tile}"
                " (input_size, tile_size)"
            )
        return edge

    def _patches(self, slide: Slide) -> np.ndarray:
        return slide.patches(self.config.patch_size, self.config.input_size)

    def _position(self, slide: Slide) -> np.ndarray:
        rows = self._network.x_embed.num_embeddings
        return table_rows(slide.array_xy, rows, method=self.name, section=slide.name)

    def _edges(self, slide: Slide) -> np.ndarray:
        from bench.blocks.graph import neighbour_edges

        return neighbour_edges(slide.array_xy, self.config.neighbours, self.config.graph_radius)
