"""Gradient boosting on the features of a frozen image encoder, a probe of HEST-Benchmark.

Jaume G. et al., "HEST-1k: a dataset for spatial transcriptomics and histology image analysis",
NeurIPS 2024 Datasets and Benchmarks, arXiv 2406.16192, which uses XGBoost. The trees here are
scikit-learn's, grown on histograms of the principal components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from bench.api import (
    QUICK_ENCODER,
    Context,
    FrozenEncoderConfig,
    Method,
    MethodConfig,
    Slide,
    TrainingData,
    load_estimator,
    save_estimator,
)

if TYPE_CHECKING:
    from bench.api import FeatureSpace

_MODELS = "boosting.skops"


class BoostingConfig(FrozenEncoderConfig):
    """Settings of gradient boosting, besides those of the frozen encoder.

    Attributes
    ----------
    pca
        Principal components of the standardised features that the trees are grown on.
    trees, learning_rate, depth
        Number of trees of a gene, weight of each, and their depth.
    min_leaf
        Training spots in a leaf at least.
    """

    pca: int = Field(default=256, ge=1)
    trees: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    depth: int = Field(default=3, ge=1)
    min_leaf: int = Field(default=20, ge=1)


class Boosting(Method):
    """One sequence of regression trees a gene; the genes share nothing but the components."""

    name: ClassVar[str] = "boosting"
    reads_section: ClassVar[bool] = False
    Config: ClassVar[type[MethodConfig]] = BoostingConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {**QUICK_ENCODER, "pca": 16, "trees": 20, "depth": 2},
        "tiny": {**QUICK_ENCODER, "input_size": 32, "pca": 4, "trees": 3, "depth": 2},
    }
    config: BoostingConfig
    space: FeatureSpace

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Size of the trees, their number and weight."""
        return {
            "pca": trial.suggest_categorical("pca", [16, 32, 64, 128, 256]),
            "trees": trial.suggest_int("trees", 20, 300, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
            "depth": trial.suggest_int("depth", 2, 6),
        }

    def fit(self, data: TrainingData, context: Context) -> None:
        """Grow the trees of every gene on all sections that may be used."""
        from sklearn.decomposition import PCA
        from sklearn.ensemble import HistGradientBoostingRegressor

        from bench.api import FeatureSpace, FrozenEncoder

        encoder = FrozenEncoder(self.config, context.seed, context.device, context.precision)
        features = encoder.encode(data.sections, context)
        self.space = FeatureSpace.fit(encoder, features)
        values = np.concatenate([self.space.standardise(part) for part in features])
        target = np.concatenate([section.target for section in data.sections])
        kept = min(self.config.pca, *values.shape)
        self._pca = PCA(kept, svd_solver="full").fit(values)
        components = self._pca.transform(values)
        self._models = []
        # Trees this small spend their time waiting for one another's threads.
        with threadpool_limits(1):
            for gene, column in enumerate(target.T):
                context.progress(gene, target.shape[1], f"trees of {data.panel[gene]}")
                model = HistGradientBoostingRegressor(
                    max_iter=self.config.trees,
                    learning_rate=self.config.learning_rate,
                    max_depth=self.config.depth,
                    min_samples_leaf=self.config.min_leaf,
                    early_stopping=False,
                    random_state=context.seed,
                )
                self._models.append(model.fit(components, column))

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """The trees' prediction for each spot's components."""
        predictions = []
        for part in self.space.embed(slides, context):
            prediction = np.empty((len(part), len(self._models)), dtype=np.float32)
            if len(part):
                components = self._pca.transform(part)
                with threadpool_limits(1):
                    for gene, model in enumerate(self._models):
                        prediction[:, gene] = model.predict(components)
            predictions.append(prediction)
        return predictions

    def save(self, folder: Path) -> None:
        """Write the components and trees as ``boosting.skops``, and the feature space."""
        save_estimator([self._pca, *self._models], folder / _MODELS)
        self.space.save(folder)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote."""
        from bench.api import FeatureSpace

        method = cls(config)
        method._pca, *method._models = load_estimator(folder / _MODELS)
        method.space = FeatureSpace.load(folder, method.config)
        return method
