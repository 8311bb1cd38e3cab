"""Control: each gene's mean over all training spots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from bench.api import Context, Method, MethodConfig, Slide, TrainingData, atomic_write


class Mean(Method):
    """Predicts the same for every spot: the error any method has to beat."""

    name: ClassVar[str] = "mean"
    needs_image: ClassVar[bool] = False
    control: ClassVar[bool] = True

    def fit(self, data: TrainingData, context: Context) -> None:
        """Take the mean over the spots of all sections that may be used."""
        targets = np.concatenate([section.target for section in data.sections])
        self.mean = targets.mean(axis=0, dtype=np.float64).astype(np.float32)

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """The mean, once a spot."""
        return [np.tile(self.mean, (len(slide), 1)) for slide in slides]

    def save(self, folder: Path) -> None:
        """Write the mean as ``mean.npy``."""
        with atomic_write(folder / "mean.npy") as temporary:
            np.save(temporary, self.mean)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read ``mean.npy``."""
        method = cls(config)
        method.mean = np.load(folder / "mean.npy", allow_pickle=False)
        return method
