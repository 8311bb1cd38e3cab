"""DeepSpot: a spot's patch, the parts of it and the spots around it, as sets.

Nonchev K. et al., "DeepSpot: leveraging spatial context for enhanced spatial transcriptomics
prediction from H&E images", medRxiv 2025.02.09.25321567.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.api import (
    QUICK_ENCODER,
    Context,
    FrozenEncoderConfig,
    Method,
    MethodConfig,
    NetworkMethod,
    Slide,
    TrainingData,
    TrainingSection,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bench.blocks.feature_space import FeatureSpace
    from bench.blocks.features import FrozenEncoder
    from bench.methods.deepspot.network import DeepSpotNetwork
    from bench.training.module import ReadoutModule

_SPOTS_AT_ONCE = 1024

_QUICK = {
    **QUICK_ENCODER,
    "parts": 2,
    "hidden": 128,
    "learning_rate": 3e-4,
    "batch_size": 64,
    "epochs": 15,
}


class DeepSpotConfig(FrozenEncoderConfig):
    """Settings of the network, besides those of the frozen encoder.

    Attributes
    ----------
    parts
        The patch is divided into so many sub-spots along an edge. Each is resampled to the size
        that the encoder takes the whole patch in.
    neighbours
        Nearest other spots that make the bag around a spot.
    ring
        A neighbour is no farther than so many median distances of a spot to its nearest one:
        1.6 takes the first ring of a hexagonal array, and of a square one the diagonals too.
    levels
        What is seen of a spot: its patch alone (``spot``), also its sub-spots (``spot+parts``),
        also the spots around it (``spot+around``), or ``all`` three.
    hidden, dropout
        Width of the representation of a level, and the share of it that is dropped in training.
    learning_rate, weight_decay, batch_size, epochs
        AdamW on the mean squared error.
    patience
        Stop early on the validation sections after so many epochs; None trains all epochs on
        training and validation sections together.
    """

    parts: int = Field(default=3, ge=1, le=16)
    neighbours: int = Field(default=8, ge=1, le=256)
    ring: float = Field(default=1.6, gt=0, allow_inf_nan=False)
    levels: Literal["spot", "spot+parts", "spot+around", "all"] = "all"
    hidden: int = Field(default=512, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    batch_size: int = Field(default=128, ge=1)
    epochs: int = Field(default=30, ge=1)
    patience: int | None = Field(default=None, ge=1)


class DeepSpot(NetworkMethod):
    """Three sets of frozen features, each read by a network of its own, and a head on all.

    Attributes
    ----------
    spaces
        Standardised features of whole patches (``spot``) and of sub-spots (``parts``).
    """

    name: ClassVar[str] = "deepspot"
    Config: ClassVar[type[MethodConfig]] = DeepSpotConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": _QUICK,
        "tiny": {**_QUICK, "input_size": 32, "batch_size": 8, "epochs": 2, "hidden": 16},
    }
    memory: ClassVar[str | None] = "spaces.npz"
    spaces: dict[str, FeatureSpace]
    config: DeepSpotConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Levels, width, dropout, optimiser and length of the training."""
        return {
            "levels": trial.suggest_categorical(
                "levels", ["spot", "spot+parts", "spot+around", "all"]
            ),
            "hidden": trial.suggest_categorical("hidden", [128, 256, 512, 1024]),
            "dropout": trial.suggest_float("dropout", 0.0, 0.6),
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
            "epochs": trial.suggest_int("epochs", 5, 100, log=True),
        }

    def build(self, data: TrainingData, context: Context) -> DeepSpotNetwork:
        """The network on standardised features, which begins by predicting the mean target."""
        from bench.blocks.feature_space import FeatureSpace
        from bench.blocks.features import FrozenEncoder
        from bench.methods.deepspot.network import DeepSpotNetwork
        from bench.training.fitting import learned_sections

        encoder = FrozenEncoder(self.config, context.seed, context.device, context.precision)
        self._features = {
            section.name: values
            for section, values in zip(
                data.sections, self._encoded(encoder, data.sections, context), strict=True
            )
        }
        learned = [section.name for section in learned_sections(data, self.config.patience)]
        self.spaces = {}
        for level in self._features[learned[0]]:
            size = self._features[learned[0]][level].shape[-1]
            known = [self._features[name][level].reshape(-1, size) for name in learned]
            self.spaces[level] = FeatureSpace.fit(encoder, known)
        network = DeepSpotNetwork(
            self.spaces["spot"].size, len(data.panel), **self.chosen("levels", "hidden", "dropout")
        )
        network.start_from(self.mean_target(data))
        return network

    def restore(self, source: Any) -> DeepSpotNetwork:
        """The network of a file, which tells all sizes."""
        from bench.methods.deepspot.network import DeepSpotNetwork

        return DeepSpotNetwork.from_file(source, dropout=self.config.dropout)

    # No checkpoint holds the feature spaces that belong to the network.
    from_released = vars(Method)["from_released"]

    def training_module(self) -> ReadoutModule:
        """AdamW on the mean squared error."""
        from bench.training.module import ReadoutModule

        return ReadoutModule(self.network, self.config)

    def loader(self, sections: Sequence[TrainingSection], seed: int) -> Any:
        """Shuffled batches of the sets of spots, and their targets."""
        from bench.methods.deepspot.network import set_loader

        sets = [self._sets(section, self._features[section.name]) for section in sections]
        targets = [section.target for section in sections]
        return set_loader(sets, targets, self.config.batch_size, seed)

    def complete(self, data: TrainingData, context: Context) -> None:
        """Let go of the training features."""
        self._features = {}

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """The network's output for the sets of each spot."""
        import torch

        from bench.blocks.precision import to_device
        from bench.methods.deepspot.network import SetDataset

        network = to_device(self.network, context).eval()
        encoder = self.spaces["spot"].encoder(context)
        predictions = []
        with torch.inference_mode():
            for slide in slides:
                (features,) = self._encoded(encoder, [slide], None)
                spots = SetDataset([self._sets(slide, features)])
                parts = [
                    network(**{name: of.to(context.device) for name, of in spots[some].items()})
                    for some in torch.arange(len(slide)).split(_SPOTS_AT_ONCE)
                ]
                empty = torch.empty(0, network.genes)
                predictions.append((torch.cat(parts) if parts else empty).cpu().numpy())
        return predictions

    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """Not used: the network reads features in place of patches."""
        raise NotImplementedError

    def remembered(self) -> dict[str, np.ndarray]:
        """The feature spaces."""
        return {
            f"{level}.{name}": values
            for level, space in self.spaces.items()
            for name, values in space.arrays().items()
        }

    def remember(self, arrays: dict[str, np.ndarray]) -> None:
        """The feature spaces."""
        from bench.blocks.feature_space import FeatureSpace

        self.spaces = {}
        for level in ("spot", "parts"):
            start = f"{level}."
            own = {n.removeprefix(start): v for n, v in arrays.items() if n.startswith(start)}
            if own:
                self.spaces[level] = FeatureSpace.from_arrays(self.config, own)

    def _encoded(
        self, encoder: FrozenEncoder, slides: Sequence[Slide], context: Context | None
    ) -> list[dict[str, np.ndarray]]:
        """Features of the patches of slides, and of their sub-spots if the settings see them."""
        levels = {"spot": encoder.encode(slides, context)}
        if self.config.levels in {"spot+parts", "all"}:
            levels["parts"] = encoder.encode_parts(slides, self.config.parts, context)
        return [
            {level: values[number] for level, values in levels.items()}
            for number in range(len(slides))
        ]

    def _sets(self, slide: Slide, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the network is given of a slide, standardised; neighbours as rows of the slide."""
        from bench.methods.deepspot.network import bags

        sets = {level: self.spaces[level].standardise(of) for level, of in features.items()}
        if self.config.levels in {"spot+around", "all"}:
            sets["around"] = bags(slide.spatial, self.config.neighbours, self.config.ring)
        return sets
