"""THItoGene: capsules, a transformer and graph attention over the spots of a whole section.

Jia Y. et al., "THItoGene: a deep learning method for predicting spatial transcriptomics from
histological images", Briefings in Bioinformatics 25(1), bbad464 (2024).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from bench.api import (
    Context,
    DataError,
    Method,
    MethodConfig,
    PatchSize,
    Slide,
    TrainingData,
    TrainingSection,
    atomic_write,
)
from bench.blocks.positions import table_rows

if TYPE_CHECKING:
    from bench.methods.thitogene.network import THItoGeneNetwork

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


class THItoGeneConfig(MethodConfig):
    """Settings of THItoGene; the defaults are those of the released her2st training.

    Attributes
    ----------
    patch_size
        Edge of a patch in pixels of the full-resolution image, or in micrometres as in
        ``"150um"``; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`. At least eleven windows of
        the first convolution: 44 px with `stem` 4.
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
    learning_rate, epochs
        Adam on the mean squared error, one section a step.
    patience
        Stop early on the validation sections after so many epochs; None trains all epochs on
        training and validation sections together, as released.
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


class THItoGene(Method):
    """Joins the network and its training recipe to the harness."""

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

    def fit(self, data: TrainingData, context: Context) -> None:
        """Train on whole sections."""
        import torch

        from bench.blocks.graph import neighbour_edges
        from bench.methods.thitogene.network import THItoGeneNetwork
        from bench.methods.thitogene.recipe import THItoGeneRecipe
        from bench.training.batches import SectionDataset, section_loader
        from bench.training.fitting import learned_sections, train_on

        torch.manual_seed(context.seed)
        config = self.config
        self._network = THItoGeneNetwork(
            len(data.panel),
            patch=self._patch_edge(data.train[0]),
            stem=config.stem,
            channels=config.channels,
            capsules=config.capsules,
            capsule_dim=config.capsule_dim,
            position_rows=config.position_rows,
            layers=config.layers,
            heads=config.heads,
            head_dim=config.head_dim,
            hidden=config.hidden,
            gat_heads=config.gat_heads,
            gat_dim=config.gat_dim,
            gat_out=config.gat_out,
            gene_head_dim=config.gene_head_dim,
            dropout=config.dropout,
            norm_momentum=config.norm_momentum,
            as_released=config.as_released,
        )

        if config.start_at_mean:
            learned = learned_sections(data, config.patience)
            targets = np.concatenate([section.target for section in learned])
            self._network.start_from(torch.from_numpy(targets.mean(axis=0, dtype=np.float64)))

        def loader(sections: Sequence[TrainingSection]) -> Any:
            dataset = SectionDataset(
                [self._patches(section) for section in sections],
                {
                    "position": [self._position(section) for section in sections],
                    "edges": [
                        neighbour_edges(section.array_xy, config.neighbours) for section in sections
                    ],
                    "target": [section.target for section in sections],
                },
            )
            return section_loader(dataset, context.seed)

        train_on(
            THItoGeneRecipe(self._network, config),
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
        """A released checkpoint, with the attention it was trained with.

        Its tensors fit the released attention alone: that is what it gets, and keeps when saved,
        whatever ``as_released`` says; a note tells where the setting says otherwise.
        """
        from bench.blocks.weights import check_panel

        method = cls(config)
        method._network = method._restored(source, as_released=True)
        check_panel(source, method._network.genes, data.panel)
        if not method.config.as_released:
            context.notes.append(
                "thitogene: a released checkpoint is read with as_released=true, which it was"
                " trained with"
            )
        return method

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Capsules of each patch, then all spots of a slide together."""
        import torch

        from bench.blocks.graph import neighbour_edges
        from bench.blocks.images import image_batches, x_first
        from bench.blocks.precision import place

        network = place(self._network, context).eval()
        predictions = []
        with torch.inference_mode():
            for slide in slides:
                position = torch.from_numpy(self._position(slide)).to(context.device)
                edges = neighbour_edges(slide.array_xy, self.config.neighbours)
                capsules = [
                    network.embed_images(x_first(images, self.config.pixels))
                    for images in image_batches(self._patches(slide), context.device)
                ]
                found = network.relate(
                    torch.cat(capsules), position, torch.from_numpy(edges).to(context.device)
                )
                predictions.append(found.cpu().numpy())
        return predictions

    def save(self, folder: Path) -> None:
        """Write ``network.safetensors`` and which attention it goes with, ``graph.json``."""
        from bench.blocks.weights import save_network

        save_network(self._network, folder)
        with atomic_write(folder / _GRAPH) as temporary:
            temporary.write_text(json.dumps({"as_released": self._network.as_released}))

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote; which attention is used comes from there alone."""
        from bench.blocks.weights import NETWORK

        path = folder / _GRAPH
        try:
            as_released = json.loads(path.read_text(encoding="utf-8"))["as_released"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a readable record of the graph's attention") from error
        method = cls(config)
        method._network = method._restored(folder / NETWORK, as_released=bool(as_released))
        return method

    def _restored(self, source: Any, as_released: bool) -> THItoGeneNetwork:
        from bench.methods.thitogene.network import THItoGeneNetwork

        return THItoGeneNetwork.from_released(
            source,
            heads=self.config.heads,
            dropout=self.config.dropout,
            as_released=as_released,
        )

    def _patch_edge(self, slide: Slide) -> int:
        size = self.config.patch_size
        return self.config.input_size or (size if isinstance(size, int) else slide.patch_pixels)

    def _patches(self, slide: Slide) -> np.ndarray:
        return slide.patches(self.config.patch_size, self.config.input_size)

    def _position(self, slide: Slide) -> np.ndarray:
        rows = self._network.x_embed.num_embeddings
        return table_rows(slide.array_xy, rows, method=self.name, section=slide.name)
