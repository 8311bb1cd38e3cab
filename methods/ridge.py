"""Ridge regression on the features of a frozen image encoder, the probe of HEST-Benchmark.

Jaume G. et al., "HEST-1k: a dataset for spatial transcriptomics and histology image analysis",
NeurIPS 2024 Datasets and Benchmarks, arXiv 2406.16192.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field

from bench.api import Context, Method, MethodConfig, Slide, TrainingData, atomic_write
from bench.blocks.frozen import QUICK_ENCODER, FrozenEncoderConfig

if TYPE_CHECKING:
    from bench.blocks.feature_space import FeatureSpace
    from bench.blocks.features import FrozenEncoder

_GROUPS = 5
_AS_GOOD = 0.005
"""Loss of mean correlation that is no loss: far below what it differs by between sections."""

_Strength = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RidgeConfig(FrozenEncoderConfig):
    """Settings of ridge regression, besides those of the frozen encoder.

    Attributes
    ----------
    pca
        Principal components of the standardised features that are kept, all of them if there
        are fewer; None regresses on the features themselves.
    pca_solver
        ``exact`` algebra, or the ``randomized`` solver of scikit-learn with seed 1, which is what
        HEST-Benchmark used: it moves single genes by about 0.01.
    alpha
        Strength of the L2 penalty on the sum of squared errors; ``validation`` chooses among
        `alphas` by the correlation per gene on sections held out, ``hest`` is HEST-Benchmark's
        fixed 100 / (components * genes).
    alphas
        Strengths to choose from.
    """

    pca: int | None = Field(default=256, ge=1)
    pca_solver: Literal["exact", "randomized"] = "exact"
    alpha: Literal["validation", "hest"] | _Strength = "validation"
    alphas: tuple[_Strength, ...] = Field(
        default=(1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6), min_length=1
    )


class _Examples(NamedTuple):
    """Features that the encoder gave of some spots, their targets and array coordinates."""

    features: np.ndarray
    target: np.ndarray
    array_xy: np.ndarray


class _Solution(NamedTuple):
    """Ridge regression on principal axes, for any strength of the penalty.

    The scores on principal axes are uncorrelated, so the normal equations are solved by a
    division: ``loadings = axes' X' Y / (energy + alpha)``.
    """

    centre: np.ndarray
    axes: np.ndarray
    energy: np.ndarray
    products: np.ndarray
    intercept: np.ndarray

    def scores(self, values: np.ndarray) -> np.ndarray:
        """(spots, features) of the space to (spots, components) float64."""
        return (values - self.centre) @ self.axes

    def predict(self, scores: np.ndarray, alpha: float) -> np.ndarray:
        """(spots, components) to (spots, genes) float64."""
        return scores @ (self.products / (self.energy + alpha)[:, None]) + self.intercept

    def linear_map(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """The same as (features, genes) coefficients and (genes,) intercept, float32."""
        coefficients = self.axes @ (self.products / (self.energy + alpha)[:, None])
        intercept = self.intercept - self.centre @ coefficients
        return coefficients.astype(np.float32), intercept.astype(np.float32)


class Ridge(Method):
    """What a frozen encoder knows of expression, read out linearly."""

    name: ClassVar[str] = "ridge"
    reads_section: ClassVar[bool] = False
    Config: ClassVar[type[MethodConfig]] = RidgeConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {**QUICK_ENCODER},
        "tiny": {**QUICK_ENCODER, "input_size": 32},
    }
    config: RidgeConfig

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Components, who chooses the strength, and how far single features may stand out."""
        strengths = ["validation", "hest", 1e1, 1e2, 1e3, 1e4, 1e5]
        return {
            "pca": trial.suggest_categorical("pca", [64, 128, 256, 512, None]),
            "alpha": trial.suggest_categorical("alpha", strengths),
            "clip": trial.suggest_categorical("clip", [1.0, 2.0, 5.0, None]),
        }

    def fit(self, data: TrainingData, context: Context) -> None:
        """Choose the strength, then solve on training and validation sections together."""
        from bench.blocks.features import FrozenEncoder

        encoder = FrozenEncoder(self.config, context.seed, context.device, context.precision)
        features = encoder.encode(data.sections, context)
        examples = [
            _Examples(part, section.target, section.array_xy)
            for part, section in zip(features, data.sections, strict=True)
        ]
        alpha = self.config.alpha
        if alpha == "validation":
            alpha = self._best_alpha(encoder, data, examples, context)
        self._space, solution = self._solve(encoder, examples)
        if alpha == "hest":
            alpha = 100 / (len(solution.energy) * len(data.panel))
        self._alpha = alpha
        self._coefficients, self._intercept = solution.linear_map(alpha)

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """The linear map of each spot's features."""
        return [
            part @ self._coefficients + self._intercept
            for part in self._space.embed(slides, context)
        ]

    def save(self, folder: Path) -> None:
        """Write the linear map, and where it starts from, as ``ridge.npz``."""
        with atomic_write(folder / "ridge.npz") as temporary:
            np.savez(
                temporary,
                alpha=np.array(self._alpha),
                coefficients=self._coefficients,
                intercept=self._intercept,
                **self._space.arrays(),
            )

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read ``ridge.npz``."""
        from bench.blocks.feature_space import FeatureSpace

        method = cls(config)
        with np.load(folder / "ridge.npz", allow_pickle=False) as stored:
            method._alpha = float(stored["alpha"])
            method._coefficients = stored["coefficients"]
            method._intercept = stored["intercept"]
            method._space = FeatureSpace.from_arrays(method.config, stored)
        return method

    def _solve(
        self, encoder: FrozenEncoder, examples: Sequence[_Examples]
    ) -> tuple[FeatureSpace, _Solution]:
        from bench.blocks.feature_space import FeatureSpace

        space = FeatureSpace.fit(encoder, [part.features for part in examples])
        values = [space.standardise(part.features) for part in examples]
        spots = sum(len(part) for part in values)
        centre = sum(part.sum(axis=0, dtype=np.float64) for part in values) / spots
        intercept = sum(part.target.sum(axis=0, dtype=np.float64) for part in examples) / spots
        # Sums over sections, so that no second copy of all features is made in float64.
        covariance = np.zeros((space.size, space.size))
        products = np.zeros((space.size, len(intercept)))
        for part, example in zip(values, examples, strict=True):
            centred = part - centre
            covariance += centred.T @ centred
            products += centred.T @ (example.target - intercept)
        kept = min(self.config.pca or space.size, space.size, spots)
        if self.config.pca_solver == "randomized" and self.config.pca:
            energy, axes = _randomized_axes(values, kept, covariance)
        else:
            energy, axes = np.linalg.eigh(covariance)
            energy, axes = energy[::-1][:kept].clip(min=0), axes[:, ::-1][:, :kept]
        return space, _Solution(centre, axes, energy, axes.T @ products, intercept)

    def _best_alpha(
        self,
        encoder: FrozenEncoder,
        data: TrainingData,
        examples: Sequence[_Examples],
        context: Context,
    ) -> float:
        """Strength by held-out sections: of those about as good as the best, the least error.

        Correlation alone would not mind if everything were shrunk to the mean. The scores go
        to the curves, one row a strength.
        """
        alphas = sorted(self.config.alphas)
        correlations: list[list[float]] = [[] for _ in alphas]
        errors: list[list[float]] = [[] for _ in alphas]
        for learned, held in _divisions(data, examples):
            space, solution = self._solve(encoder, learned)
            for part in held:
                scores = solution.scores(space.standardise(part.features))
                for i, alpha in enumerate(alphas):
                    prediction = solution.predict(scores, alpha)
                    correlations[i].append(mean_correlation(part.target, prediction))
                    errors[i].append(float(np.mean((part.target - prediction) ** 2)))
        correlation = [_nanmean(values) for values in correlations]
        error = [_nanmean(values) for values in errors]
        context.curves.extend(
            {"epoch": float(i), "alpha": alpha, "val_pcc": correlation[i], "val_mse": error[i]}
            for i, alpha in enumerate(alphas)
        )
        enough = np.nan_to_num(correlation, nan=-1.0)
        good = np.flatnonzero(enough >= enough.max() - _AS_GOOD)
        # Without anything to tell by, the largest: its predictions are nearest to the mean.
        best = min(good, key=lambda i: (np.nan_to_num(error[i]), -alphas[i]))
        return alphas[best]


def _randomized_axes(
    values: Sequence[np.ndarray], components: int, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energies and axes of the subspace that scikit-learn's randomised PCA finds with seed 1.

    The axes are turned within the subspace so that scores on them are uncorrelated; ridge
    regression gives the same predictions on any orthogonal axes of one subspace.
    """
    from sklearn.decomposition import PCA

    pca = PCA(components, svd_solver="randomized", random_state=1).fit(np.concatenate(values))
    axes = pca.components_.T.astype(np.float64)
    energy, turn = np.linalg.eigh(axes.T @ covariance @ axes)
    return energy[::-1].clip(min=0), (axes @ turn)[:, ::-1]


def _divisions(
    data: TrainingData, examples: Sequence[_Examples]
) -> Iterator[tuple[list[_Examples], list[_Examples]]]:
    """Examples to learn from and examples to choose by, in every way they are divided.

    The validation sections where there are some. Otherwise each of up to five groups of
    training sections in turn, or of a single section each of five stripes across it: single
    spots would be too easy to guess from their neighbours.
    """
    train = [part for part in examples[: len(data.train)] if len(part.target)]
    validation = [part for part in examples[len(data.train) :] if len(part.target)]
    if validation:
        yield train, validation
        return
    parts = _stripes(train[0]) if len(train) == 1 else train
    groups = min(_GROUPS, len(parts)) if len(parts) > 1 else 0
    for group in range(groups):
        learned = [part for i, part in enumerate(parts) if i % groups != group]
        yield learned, parts[group::groups]


def _stripes(section: _Examples) -> list[_Examples]:
    x, y = section.array_xy.T
    stripes = np.array_split(np.lexsort((y, x)), _GROUPS)
    return [_Examples(*(part[spots] for part in section)) for spots in stripes if len(spots)]


def mean_correlation(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Pearson correlation per gene, averaged over the genes for which it is defined.

    Parameters
    ----------
    truth, prediction : (spots, genes)

    Returns
    -------
    float
        NaN where no gene varies in both, or there are fewer than three spots.
    """
    if len(truth) < 3:
        return float("nan")
    varies = (np.ptp(truth, axis=0) > 0) & (np.ptp(prediction, axis=0) > 0)
    if not varies.any():
        return float("nan")
    a, b = (
        values[:, varies] - values[:, varies].mean(axis=0, dtype=np.float64)
        for values in (truth, prediction)
    )
    norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return float(np.mean((a * b).sum(axis=0) / norms))


def _nanmean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
