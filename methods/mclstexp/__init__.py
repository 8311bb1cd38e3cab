"""mclSTExp: contrastive learning of image and spot embeddings, prediction by retrieval.

Min W. et al., "Multimodal contrastive learning for spatial gene expression prediction using
histology images", Briefings in Bioinformatics 25(6), bbae551 (2024), arXiv 2407.08216.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.api import (
    Context,
    MethodConfig,
    PatchSize,
    RetrievalConfig,
    RetrievalMethod,
    TrainingData,
    TrainingSection,
)
from bench.blocks.positions import check_positions

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods.mclstexp.network import MclSTExpModule, MclSTExpNetwork

_QUICK = {
    "encoder": "test_resnet",
    "weights": "none",
    "patch_size": None,
    "input_size": 64,
    "augment": "quarter_turns",
    "position_rows": 128,
    "learning_rate": 1e-3,
    "batch_size": 64,
    "epochs": 12,
    "top_k": 50,
    "distance": "l2",
}


class MclSTExpConfig(RetrievalConfig):
    """Settings of mclSTExp; the defaults are those of the released her2st training.

    Attributes
    ----------
    encoder
        ``densenet121`` (torchvision, without the final ReLU), an encoder of ``bench list
        encoders``, or any of timm; see :class:`bench.blocks.frozen.FrozenEncoderConfig`.
    weights
        ``pretrained`` or ``imagenet``, ``none``, or a weight file of the encoder.
    freeze_encoder
        Train the heads alone.
    pixels
        ``rgb01`` (legacy ST), ``bgr255`` (released Visium), ``imagenet``, or ``encoder`` for
        the statistics of the encoder's own training.
    augment
        ``jitter_flip_rotate`` (legacy ST), ``quarter_turns`` (released Visium), ``none``.
    augment_at_test
        As released for Visium.
    position
        What indexes the position tables: ``array`` coordinates x, y (legacy ST) or ``pixel``
        row and column (released Visium). ``sinusoid`` takes fixed sines and cosines of the array
        coordinates in place of trained tables, ``none`` no position.
    position_rows
        Rows of each position table; None for as many as the training spots need, since others are
        never looked up. The released tables have 65536, whatever the data.
    layers, heads, head_dim, projection_dim, dropout
        Shape of the spot encoder and of the shared space.
    temperature
        Divides the dot products in the loss.
    image_share
        Weight of the cross entropy of images against spots in the loss, the paper's lambda; that of
        spots against images has the rest.
    optimizer
        ``adam`` with L2 decay (released code) or ``adamw`` (the paper's text).
    learning_rate, weight_decay, batch_size, epochs
        Training. A batch is also the sequence whose spots attend to one another.
    key_context
        Which spots attend to one another when the retrieval keys are made: so many
        ``consecutive`` ones across section borders (released: 32), or a whole ``section``.
    top_k, distance, weighting
        Retrieval: candidates by cosine, weights from the distance of the raw embeddings, or from
        one minus their ``cosine``.
    """

    encoder: str = "densenet121"
    weights: str = "imagenet"
    freeze_encoder: bool = False
    patch_size: PatchSize = 224
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Literal["rgb01", "bgr255", "imagenet", "encoder"] = "rgb01"
    augment: Literal["none", "jitter_flip_rotate", "quarter_turns"] = "jitter_flip_rotate"
    augment_at_test: bool = False
    position: Literal["array", "pixel", "sinusoid", "none"] = "array"
    position_rows: int | None = Field(default=None, ge=1)
    layers: int = Field(default=2, ge=0)
    heads: int = Field(default=8, ge=1)
    head_dim: int = Field(default=64, ge=1)
    projection_dim: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)
    image_share: float = Field(default=0.5, ge=0, le=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    batch_size: int = Field(default=128, ge=2)
    epochs: int = Field(default=90, ge=1)
    patience: int | None = Field(default=None, ge=1)
    key_context: Literal["section"] | int = 32
    top_k: int = Field(default=200, ge=1)
    distance: Literal["l1", "l2", "cosine"] = "l1"
    weighting: Literal["inverse_square", "mean"] = "inverse_square"


class MclSTExp(RetrievalMethod):
    """Retrieval with embeddings of a contrastive training; spots attend to one another."""

    name: ClassVar[str] = "mclstexp"
    Config: ClassVar[type[MethodConfig]] = MclSTExpConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {
            **_QUICK,
            "input_size": 32,
            "batch_size": 8,
            "epochs": 2,
            "heads": 2,
            "head_dim": 8,
            "top_k": 5,
        },
    }
    dataset_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "her2st": {"top_k": 200, "distance": "l1"},
        "cscc": {"top_k": 600, "distance": "l2"},
        "alex10x": {
            "top_k": 200,
            "distance": "l2",
            "pixels": "bgr255",
            "augment": "quarter_turns",
            "augment_at_test": True,
            "position": "pixel",
        },
    }
    predict_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "top_k": (20, 50, 100, 200, 400, 600, 1000),
        "distance": ("l1", "l2"),
        "weighting": ("inverse_square", "mean"),
    }
    not_in_tensors: ClassVar[tuple[str, ...]] = ("heads",)
    config: MclSTExpConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """The paper's grid (rate, width, decay); further the loss, the spot encoder, the length."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
            "projection_dim": trial.suggest_categorical("projection_dim", [128, 256, 512, 1024]),
            "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
            # Embeddings leave a LayerNorm, so dot products reach the width of the shared space: at
            # 256, CLIP's 0.01 to 0.07 on cosines are 2.6 to 18 here.
            "temperature": trial.suggest_float("temperature", 0.5, 100.0, log=True),
            "heads": trial.suggest_categorical("heads", [2, 4, 8, 16]),
            "layers": trial.suggest_int("layers", 1, 4),
            "freeze_encoder": trial.suggest_categorical("freeze_encoder", [False, True]),
            "epochs": trial.suggest_int("epochs", 8, 120, log=True),
        }

    def build(self, data: TrainingData, context: Context) -> MclSTExpNetwork:
        """Both encoders and their heads."""
        from bench.methods.mclstexp.network import MclSTExpNetwork

        shape = self.chosen(
            *("encoder", "weights", "layers", "heads", "head_dim", "projection_dim", "dropout"),
            "temperature",
        )
        rows = self.config.position_rows or self._rows_needed(data.sections)
        network = MclSTExpNetwork(len(data.panel), position_rows=rows, **shape)
        if self.config.position in {"none", "sinusoid"}:
            network.fix_positions(self.config.position)
        return network

    def restore(self, source: Any) -> MclSTExpNetwork:
        """The network of a checkpoint, which tells all sizes but the number of heads."""
        from bench.methods.mclstexp.network import MclSTExpNetwork

        return MclSTExpNetwork.from_released(
            source, **self.chosen("encoder", "heads", "dropout", "temperature")
        )

    def training_module(self) -> MclSTExpModule:
        """Symmetric contrastive loss."""
        from bench.methods.mclstexp.network import MclSTExpModule

        return MclSTExpModule(self.network, self.config)

    def training_arrays(self, section: TrainingSection) -> dict[str, np.ndarray]:
        """Expression, and rows of the position tables."""
        rows = self.network.x_embed.num_embeddings
        position = self._position(section)
        return {
            "expression": section.expression,
            "position": check_positions(position, rows, method=self.name, section=section.name),
        }

    def embed_spots(self, sections: Sequence[TrainingSection], device: str) -> Iterator[Tensor]:
        """Embeddings of the spots of sections, those of a context attending to one another."""
        import torch

        each = [self.training_arrays(section) for section in sections]
        joined = {
            name: torch.from_numpy(np.concatenate([arrays[name] for arrays in each]))
            for name in each[0]
        }
        lengths = [len(section) for section in sections]
        for start, stop in key_contexts(lengths, self.config.key_context):
            context = {name: values[start:stop].to(device) for name, values in joined.items()}
            yield self.network.embed_spots(**context)

    def _position(self, section: TrainingSection) -> np.ndarray:
        if self.config.position == "none":
            return np.zeros_like(section.array_xy)
        if self.config.position in {"array", "sinusoid"}:
            return section.array_xy
        return np.floor(section.spatial[:, ::-1]).astype(np.int64)  # row, column

    def _rows_needed(self, sections: Sequence[TrainingSection]) -> int:
        """Rows that hold every position; predicting looks up none, as images alone are embedded."""
        positions = np.concatenate([self._position(section) for section in sections])
        return max(1, 1 + int(positions.max()))


def key_contexts(
    lengths: Sequence[int], context: Literal["section"] | int
) -> Iterator[tuple[int, int]]:
    """Bounds of the runs of spots that attend to one another as keys.

    Parameters
    ----------
    lengths
        Spots of each section.
    context
        Length of a run across section borders, or ``section`` for runs that are sections.
    """
    if context == "section":
        stops = np.cumsum(lengths).tolist()
    else:
        total = sum(lengths)
        stops = [*range(context, total, context), total]
    yield from zip([0, *stops[:-1]], stops, strict=True)
