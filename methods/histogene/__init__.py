"""HisToGene: a transformer over all spots of a section predicts expression from their patches.

Pang M., Su K., Li M., "Leveraging information in spatial transcriptomics to predict
super-resolution gene expression from histology images in tumors", bioRxiv 2021.11.28.470212.
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
    from bench.methods.histogene.network import HisToGeneNetwork

_QUICK = {
    "patch_size": None,
    "input_size": 16,
    "pixels": "rgb01",
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "head_dim": 16,
    "hidden": 128,
    "learning_rate": 3e-3,
    "epochs": 100,
}


class HisToGeneConfig(MethodConfig):
    """Settings of HisToGene; the defaults are those of the authors' tutorial.

    Attributes
    ----------
    patch_size
        Edge of a patch in pixels of the full-resolution image, or in micrometres as in
        ``"150um"``; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`, and one of the two must be
        set: the first layer takes patches of one size alone.
    pixels
        How pixels are fed: ``raw255`` as they are, or ``rgb01`` divided by 255.
    as_released_cscc
        Feed black instead of every patch of a section but its first, as the released loader for
        cSCC does: what the network then learns is the array coordinates.
    position_rows
        Rows of each position table; array coordinates must lie below.
    dim, layers, heads, head_dim, hidden, dropout
        Shape of the transformer.
    learning_rate, epochs
        Adam at a constant rate; a step is a whole section.
    patience
        Stop early on the validation sections after so many epochs; None trains all epochs on
        training and validation sections together, as released.
    """

    patch_size: PatchSize = 112
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Literal["raw255", "rgb01"] = "raw255"
    as_released_cscc: bool = False
    position_rows: int = Field(default=64, ge=1)
    dim: int = Field(default=1024, ge=1)
    layers: int = Field(default=8, ge=1)
    heads: int = Field(default=16, ge=1)
    head_dim: int = Field(default=64, ge=1)
    hidden: int = Field(default=2048, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: int = Field(default=100, ge=1)
    patience: int | None = Field(default=None, ge=1)


class HisToGene(Method):
    """Joins the network and its training recipe to the harness."""

    name: ClassVar[str] = "histogene"
    unit: ClassVar[Literal["spot", "section"]] = "section"
    Config: ClassVar[type[MethodConfig]] = HisToGeneConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {
            **_QUICK,
            "dim": 32,
            "layers": 1,
            "heads": 2,
            "head_dim": 8,
            "hidden": 32,
            "epochs": 2,
        },
    }
    # The authors used no Visium section; its array has up to 128 columns.
    dataset_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "alex10x": {"position_rows": 128},
    }
    config: HisToGeneConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Learning rate, depth, dropout and length of the training."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True),
            "layers": trial.suggest_int("layers", 1, 8),
            "dropout": trial.suggest_float("dropout", 0.0, 0.4),
            "epochs": trial.suggest_int("epochs", 30, 300, log=True),
        }

    def fit(self, data: TrainingData, context: Context) -> None:
        """Train on one whole section a step."""
        import torch

        from bench.methods.histogene.network import HisToGeneNetwork
        from bench.methods.histogene.recipe import HisToGeneRecipe
        from bench.training import SectionDataset, section_loader, train_on

        torch.manual_seed(context.seed)
        config = self.config
        self._network = HisToGeneNetwork(
            len(data.panel),
            edge=self._edge(),
            position_rows=config.position_rows,
            dim=config.dim,
            layers=config.layers,
            heads=config.heads,
            head_dim=config.head_dim,
            hidden=config.hidden,
            dropout=config.dropout,
        )

        def loader(sections: Sequence[TrainingSection]) -> Any:
            dataset = SectionDataset(
                [self._patches(section) for section in sections],
                {
                    "target": [section.target for section in sections],
                    "position": [self._position(section) for section in sections],
                },
            )
            return section_loader(dataset, context.seed)

        train_on(
            HisToGeneRecipe(self._network, config),
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
                f"histogene: the checkpoint takes patches of {method._network.edge} pixels a side,"
                f" the settings give {method._edge()} (input_size)"
            )
        return method

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Predict all spots of a slide together."""
        import torch

        from bench.blocks.images import image_batches
        from bench.blocks.precision import place
        from bench.methods.histogene.network import flat_patches

        network = place(self._network, context).eval()
        predictions = []
        with torch.inference_mode():
            for slide in slides:
                position = torch.from_numpy(self._position(slide)).to(context.device)
                embedded = [
                    network.embed_patches(flat_patches(images, self.config.pixels))
                    for images in image_batches(self._patches(slide), context.device)
                ]
                predicted = network.relate(torch.cat(embedded), position)
                predictions.append(predicted.cpu().numpy())
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

    def _restored(self, source: Any) -> HisToGeneNetwork:
        from bench.methods.histogene.network import HisToGeneNetwork

        return HisToGeneNetwork.from_released(
            source, heads=self.config.heads, dropout=self.config.dropout
        )

    def _edge(self) -> int:
        from bench.blocks.images import one_edge

        return one_edge(self.name, self.config.patch_size, self.config.input_size)

    def _patches(self, slide: Slide) -> np.ndarray:
        patches = slide.patches(self.config.patch_size, self.config.input_size)
        if self.config.as_released_cscc:
            patches = np.array(patches)
            patches[1:] = 0
        return patches

    def _position(self, slide: Slide) -> np.ndarray:
        rows = self._network.x_embed.num_embeddings
        return table_rows(slide.array_xy, rows, method=self.name, section=slide.name)
