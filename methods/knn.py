"""Nearest neighbours: mean of the training spots that look alike to a frozen image encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from bench.api import Context, Method, MethodConfig, Slide, TrainingData, atomic_write
from bench.blocks.frozen import QUICK_ENCODER, FrozenEncoderConfig


class NearestNeighboursConfig(FrozenEncoderConfig):
    """Settings of the nearest neighbours, besides those of the frozen encoder.

    Attributes
    ----------
    neighbours
        Training spots averaged, nearest by cosine of the standardised features; all of them if
        there are fewer.
    weighting
        By the ``inverse_square`` of the distance, or plain ``mean``.
    distance
        The distance between standardised features that the weights are made of.
    """

    neighbours: int = Field(default=50, ge=1)
    weighting: Literal["inverse_square", "mean"] = "inverse_square"
    distance: Literal["l1", "l2"] = "l2"


class NearestNeighbours(Method):
    """What mere likeness of patches tells, with nothing trained."""

    name: ClassVar[str] = "knn"
    reads_section: ClassVar[bool] = False
    Config: ClassVar[type[MethodConfig]] = NearestNeighboursConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {**QUICK_ENCODER},
        "tiny": {**QUICK_ENCODER, "input_size": 32, "neighbours": 5},
    }
    predict_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "neighbours": (5, 10, 20, 50, 100, 200, 500),
        "weighting": ("inverse_square", "mean"),
        "distance": ("l1", "l2"),
    }
    config: NearestNeighboursConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """How far single features may stand out; all else is tried on one fit."""
        return {"clip": trial.suggest_categorical("clip", [1.0, 2.0, 5.0, None])}

    def fit(self, data: TrainingData, context: Context) -> None:
        """Keep features and targets of all sections that may be used."""
        from bench.blocks.feature_space import FeatureSpace
        from bench.blocks.features import FrozenEncoder

        encoder = FrozenEncoder(self.config, context.seed, context.device, context.precision)
        features = encoder.encode(data.sections, context)
        self._space = FeatureSpace.fit(encoder, features)
        self._keys = np.concatenate([self._space.standardise(part) for part in features])
        self._values = np.concatenate([section.target for section in data.sections])

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Weighted mean of the targets of the nearest training spots."""
        return next(self.predict_each(slides, context, [self.config]))

    def predict_each(
        self, slides: Sequence[Slide], context: Context, configs: Sequence[Any]
    ) -> Iterator[list[np.ndarray]]:
        """The same under each setting of the retrieval; the images are embedded once."""
        import torch

        from bench.blocks.retrieval import retrieve_each

        embedded = [
            torch.from_numpy(queries).to(context.device)
            for queries in self._space.embed(slides, context)
        ]
        settings = [
            {"top_k": one.neighbours, "distance": one.distance, "weighting": one.weighting}
            for one in configs
        ]
        yield from retrieve_each(embedded, self._keys, self._values, settings)

    def save(self, folder: Path) -> None:
        """Write features and targets of the training spots as ``bank.npz``."""
        with atomic_write(folder / "bank.npz") as temporary:
            np.savez(temporary, keys=self._keys, values=self._values, **self._space.arrays())

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read ``bank.npz``."""
        from bench.blocks.feature_space import FeatureSpace

        method = cls(config)
        with np.load(folder / "bank.npz", allow_pickle=False) as bank:
            method._keys, method._values = bank["keys"], bank["values"]
            method._space = FeatureSpace.from_arrays(method.config, bank)
        return method
