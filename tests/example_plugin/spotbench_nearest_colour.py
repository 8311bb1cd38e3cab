"""Nearest colour: mean of the training spots whose patches have the nearest mean colour."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from bench.api import Method, MethodConfig, atomic_write


class NearestColourConfig(MethodConfig):
    neighbours: int = Field(default=20, ge=1)


class NearestColour(Method):
    name: ClassVar[str] = "nearest_colour"
    Config: ClassVar[type[MethodConfig]] = NearestColourConfig
    predict_space = {"neighbours": (5, 10, 20, 50, 100)}

    def fit(self, data, context):
        self.colours = np.concatenate([self._colours(s) for s in data.sections])
        self.targets = np.concatenate([s.target for s in data.sections])

    def predict(self, slides, context):
        return [self._predict(self._colours(slide)) for slide in slides]

    def save(self, folder: Path):
        with atomic_write(folder / "bank.npz") as temporary:
            np.savez(temporary, colours=self.colours, targets=self.targets)

    @classmethod
    def load(cls, folder: Path, config):
        method = cls(config)
        with np.load(folder / "bank.npz", allow_pickle=False) as bank:
            method.colours, method.targets = bank["colours"], bank["targets"]
        return method

    def _colours(self, section):
        return section.patches(section.patch_pixels).mean(axis=(1, 2))

    def _predict(self, colours):
        from sklearn.neighbors import KNeighborsRegressor

        neighbours = min(self.config.neighbours, len(self.colours))
        near = KNeighborsRegressor(neighbours).fit(self.colours, self.targets)
        return near.predict(colours).astype(np.float32)
