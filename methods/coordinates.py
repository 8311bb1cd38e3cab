"""Control: mean of the training spots nearest by array position, whatever the image shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import Field

from bench.api import Context, Method, MethodConfig, Slide, TrainingData, atomic_write


class CoordinatesConfig(MethodConfig):
    """Settings of the control.

    Attributes
    ----------
    neighbours
        Training spots averaged, all of them if there are fewer.
    """

    neighbours: int = Field(default=10, ge=1)


class Coordinates(Method):
    """Tells how much of a score position alone explains."""

    name: ClassVar[str] = "coordinates"
    needs_image: ClassVar[bool] = False
    control: ClassVar[bool] = True
    Config: ClassVar[type[MethodConfig]] = CoordinatesConfig

    def fit(self, data: TrainingData, context: Context) -> None:
        """Keep positions and targets of all sections that may be used."""
        self.positions = np.concatenate([section.array_xy for section in data.sections])
        self.targets = np.concatenate([section.target for section in data.sections])

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Mean target of the nearest training spots."""
        from sklearn.neighbors import KNeighborsRegressor

        neighbours = min(self.config.neighbours, len(self.positions))
        regressor = KNeighborsRegressor(n_neighbors=neighbours, algorithm="kd_tree")
        regressor.fit(self.positions, self.targets)
        return [regressor.predict(slide.array_xy).astype(np.float32) for slide in slides]

    def save(self, folder: Path) -> None:
        """Write both arrays as ``bank.npz``."""
        with atomic_write(folder / "bank.npz") as temporary:
            np.savez(temporary, positions=self.positions, targets=self.targets)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read ``bank.npz``."""
        method = cls(config)
        with np.load(folder / "bank.npz", allow_pickle=False) as bank:
            method.positions, method.targets = bank["positions"], bank["targets"]
        return method
