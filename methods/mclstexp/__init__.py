"""mclSTExp: contrastive learning of image and spot embeddings, prediction by retrieval.

Min W. et al., "Multimodal contrastive learning for spatial gene expression prediction using
histology images", Briefings in Bioinformatics 25(6), bbae551 (2024), arXiv 2407.08216.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from bench.api import (
    Context,
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
    from torch import Tensor

    from bench.methods.mclstexp.network import MclSTExpNetwork

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


class MclSTExpConfig(MethodConfig):
    """Settings of mclSTExp; the defaults are those of the released her2st training.

    Attributes
    ----------
    encoder
        ``densenet121`` (torchvision, without the final ReLU) or any timm encoder by name.
    weights
        ``imagenet``, ``none`` or a weight file of the encoder.
    freeze_encoder
        Train the heads alone.
    patch_size
        Edge of a patch in pixels of the full-resolution image, or in micrometres as in
        ``"150um"``; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`.
    pixels
        How pixels are fed: ``rgb01`` (legacy ST), ``bgr255`` (released Visium), ``imagenet``.
    augment
        ``jitter_flip_rotate`` (legacy ST), ``quarter_turns`` (released Visium), ``none``.
    augment_at_test
        As released for Visium: the same random changes when predicting.
    position
        What indexes the position tables: ``array`` coordinates x, y (legacy ST) or ``pixel``
        row and column (released Visium).
    position_rows
        Rows of each position table; None for as many as the training spots need, since others are
        never looked up. The released tables have 65536, whatever the data.
    layers, heads, head_dim, projection_dim, dropout
        Shape of the spot encoder and of the shared space.
    temperature
        Divides the dot products in the loss.
    optimizer
        ``adam`` with L2 decay (released code) or ``adamw`` (the paper's text).
    learning_rate, weight_decay, batch_size, epochs
        Training. A batch is also the sequence whose spots attend to one another.
    patience
        Stop early on the validation sections after so many epochs; None trains all epochs on
        training and validation sections together, as released.
    key_context
        Which spots attend to one another when the retrieval keys are made: so many
        ``consecutive`` ones across section borders (released: 32), or a whole ``section``.
    top_k, distance, weighting
        Retrieval: candidates by cosine, weights from the distance of the raw embeddings.
    """

    encoder: str = "densenet121"
    weights: str = "imagenet"
    freeze_encoder: bool = False
    patch_size: PatchSize = 224
    input_size: int | None = Field(default=None, ge=8, le=4096)
    pixels: Literal["rgb01", "bgr255", "imagenet"] = "rgb01"
    augment: Literal["none", "jitter_flip_rotate", "quarter_turns"] = "jitter_flip_rotate"
    augment_at_test: bool = False
    position: Literal["array", "pixel"] = "array"
    position_rows: int | None = Field(default=None, ge=1)
    layers: int = Field(default=2, ge=0)
    heads: int = Field(default=8, ge=1)
    head_dim: int = Field(default=64, ge=1)
    projection_dim: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    batch_size: int = Field(default=128, ge=2)
    epochs: int = Field(default=90, ge=1)
    patience: int | None = Field(default=None, ge=1)
    key_context: Literal["section"] | int = 32
    top_k: int = Field(default=200, ge=1)
    distance: Literal["l1", "l2"] = "l1"
    weighting: Literal["inverse_square", "mean"] = "inverse_square"


class MclSTExp(Method):
    """Joins the network, its training recipe and the retrieval bank to the harness."""

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

    def fit(self, data: TrainingData, context: Context) -> None:
        """Train both encoders, then embed the training spots as retrieval keys."""
        import torch

        from bench.methods.mclstexp.network import MclSTExpNetwork
        from bench.methods.mclstexp.recipe import MclSTExpRecipe
        from bench.training.batches import SpotDataset, spot_loader
        from bench.training.fitting import train_on

        torch.manual_seed(context.seed)
        config = self.config
        self._network = MclSTExpNetwork(
            len(data.panel),
            encoder=config.encoder,
            weights=config.weights,
            position_rows=config.position_rows or self._rows_needed(data.sections),
            layers=config.layers,
            heads=config.heads,
            head_dim=config.head_dim,
            projection_dim=config.projection_dim,
            dropout=config.dropout,
            temperature=config.temperature,
        )

        def loader(sections: Sequence[TrainingSection]) -> Any:
            dataset = SpotDataset(
                [self._patches(section) for section in sections],
                {
                    "expression": [section.expression for section in sections],
                    "position": [self._position(section) for section in sections],
                },
            )
            return spot_loader(dataset, config.batch_size, context.seed)

        make_bank = partial(self._make_bank, data, context)
        train_on(
            MclSTExpRecipe(self._network, config),
            data,
            loader,
            epochs=config.epochs,
            patience=config.patience,
            context=context,
            ready=make_bank,
        )
        make_bank()

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """A released checkpoint, with the training spots embedded as retrieval keys."""
        from bench.blocks.weights import check_panel

        method = cls(config)
        method._network = method._restored(source)
        check_panel(source, method._network.genes, data.panel)
        method._make_bank(data, context)
        return method

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Embed the images and average the targets of the nearest keys."""
        return next(self.predict_each(slides, context, [self.config]))

    def predict_each(
        self, slides: Sequence[Slide], context: Context, configs: Sequence[Any]
    ) -> Iterator[list[np.ndarray]]:
        """The same under each setting of the retrieval; the images are embedded once."""
        from bench.blocks.retrieval import retrieve_each

        embedded = [self._embed_images(slide, context) for slide in slides]
        settings = [
            {"top_k": one.top_k, "distance": one.distance, "weighting": one.weighting}
            for one in configs
        ]
        yield from retrieve_each(embedded, self._keys, self._values, settings)

    def save(self, folder: Path) -> None:
        """Write ``network.safetensors`` and the retrieval bank ``bank.npz``."""
        from bench.blocks.weights import save_network

        save_network(self._network, folder)
        with atomic_write(folder / "bank.npz") as temporary:
            np.savez(temporary, keys=self._keys, values=self._values)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote; the encoder's weights come from there alone."""
        from bench.blocks.weights import NETWORK

        method = cls(config)
        with np.load(folder / "bank.npz", allow_pickle=False) as bank:
            method._keys, method._values = bank["keys"], bank["values"]
        method._network = method._restored(folder / NETWORK)
        return method

    def _restored(self, source: Any) -> MclSTExpNetwork:
        from bench.methods.mclstexp.network import MclSTExpNetwork

        return MclSTExpNetwork.from_released(
            source,
            encoder=self.config.encoder,
            heads=self.config.heads,
            dropout=self.config.dropout,
            temperature=self.config.temperature,
        )

    def _make_bank(self, data: TrainingData, context: Context) -> None:
        self._keys = self._embed_spots(data.sections, context)
        self._values = np.concatenate([section.target for section in data.sections])

    def _patches(self, slide: Slide) -> np.ndarray:
        return slide.patches(self.config.patch_size, self.config.input_size)

    def _position(self, section: TrainingSection) -> np.ndarray:
        rows = self._network.x_embed.num_embeddings
        return table_rows(
            self._unchecked_position(section), rows, method=self.name, section=section.name
        )

    def _unchecked_position(self, section: TrainingSection) -> np.ndarray:
        if self.config.position == "array":
            return section.array_xy
        return np.floor(section.spatial[:, ::-1]).astype(np.int64)  # row, column

    def _rows_needed(self, sections: Sequence[TrainingSection]) -> int:
        """Rows that hold every position; predicting looks up none, as images alone are embedded."""
        positions = np.concatenate([self._unchecked_position(section) for section in sections])
        return max(1, 1 + int(positions.max()))

    def _embed_images(self, slide: Slide, context: Context) -> Tensor:
        import torch

        from bench.blocks.augment import augmentation
        from bench.blocks.images import image_batches, to_network_scale
        from bench.blocks.precision import place

        # Seeded slide by slide: what is drawn for one must not depend on those before it.
        torch.manual_seed(context.seed)
        change = augmentation(self.config.augment if self.config.augment_at_test else "none")
        network = place(self._network, context).eval()
        embedded = []
        with torch.inference_mode():
            for images in image_batches(self._patches(slide), context.device):
                images = to_network_scale(change(images), self.config.pixels)
                embedded.append(network.embed_images(images))
        return torch.cat(embedded)

    def _embed_spots(self, sections: Sequence[TrainingSection], context: Context) -> np.ndarray:
        import torch

        from bench.blocks.precision import place

        network = place(self._network, context).eval()
        expression = np.concatenate([section.expression for section in sections])
        position = np.concatenate([self._position(section) for section in sections])
        embedded = []
        with torch.inference_mode():
            for start, stop in self._contexts([len(section) for section in sections]):
                keys = network.embed_spots(
                    torch.from_numpy(expression[start:stop]).to(context.device),
                    torch.from_numpy(position[start:stop]).to(context.device),
                )
                embedded.append(keys.cpu().numpy())
        return np.concatenate(embedded)

    def _contexts(self, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Bounds of the runs of spots that attend to one another."""
        total = sum(lengths)
        if self.config.key_context == "section":
            stops = np.cumsum(lengths).tolist()
        else:
            stops = [*range(self.config.key_context, total, self.config.key_context), total]
        yield from zip([0, *stops[:-1]], stops, strict=True)
