"""Standardised features, in which a fitted method sees spots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from bench.blocks.features import FrozenEncoder
from bench.blocks.frozen import FrozenEncoderConfig
from bench.data.inputs import Slide
from bench.errors import DataError
from bench.files import atomic_write
from bench.method import Context

SPACE = "space.npz"
"""File of a feature space in a method's folder."""


class FeatureSpace:
    """Where a fitted method sees spots: standardised features of its frozen encoder.

    Parameters
    ----------
    settings
        Encoder, weights, patches and clipping.
    seed
        Of random weights: that of the fit, whatever that of a later prediction.
    identity
        Of the encoder it was fitted with.
    centre, scale
        (features,) float64 mean and deviation over the training spots.
    """

    def __init__(
        self,
        settings: FrozenEncoderConfig,
        seed: int,
        identity: str,
        centre: np.ndarray,
        scale: np.ndarray,
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.identity = identity
        self.centre = centre
        self.scale = scale

    @classmethod
    def fit(cls, encoder: FrozenEncoder, features: Sequence[np.ndarray]) -> Self:
        """The space in which these features have mean 0 and deviation 1; constant ones are 0.

        Parameters
        ----------
        encoder
            Where they come from.
        features
            (spots, features) arrays, one a training section.
        """
        spots = sum(len(part) for part in features)
        centre = sum(part.sum(axis=0, dtype=np.float64) for part in features) / spots
        squares = sum(((part - centre) ** 2).sum(axis=0) for part in features)
        scale = np.sqrt(squares / spots)
        # A deviation of the size of float32's rounding is none.
        scale[scale <= 1e-6 * np.abs(centre)] = 1.0
        return cls(encoder.settings, encoder.seed, encoder.identity, centre, scale)

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.centre)

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """(spots, features) features of the encoder to float32 ones of the space, clipped."""
        values = (features - self.centre) / self.scale
        if self.settings.clip is not None:
            values = np.clip(values, -self.settings.clip, self.settings.clip)
        return values.astype(np.float32)

    def encoder(self, context: Context) -> FrozenEncoder:
        """The encoder of the fit, on the device of a prediction.

        Raises
        ------
        DataError
            The encoder's weights are not those of the fit.
        """
        encoder = FrozenEncoder(self.settings, self.seed, context.device, context.precision)
        if encoder.identity != self.identity:
            raise DataError(
                f"encoder {self.settings.encoder} with weights {self.settings.weights} is not the"
                " one that the method was fitted with; restore its weights or fit again"
            )
        return encoder

    def embed(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Slides as (spots, features) float32 arrays of the space.

        Raises
        ------
        ConfigError, DataError, TrainingError
            As :meth:`encoder` and :meth:`FrozenEncoder.encode`.
        """
        return [self.standardise(part) for part in self.encoder(context).encode(slides)]

    def save(self, folder: Path) -> None:
        """Write ``space.npz`` into a method's folder."""
        with atomic_write(folder / SPACE) as temporary:
            np.savez(temporary, **self.arrays())

    @classmethod
    def load(cls, folder: Path, settings: FrozenEncoderConfig) -> Self:
        """The space that :meth:`save` wrote."""
        with np.load(folder / SPACE, allow_pickle=False) as arrays:
            return cls.from_arrays(settings, arrays)

    def arrays(self) -> dict[str, Any]:
        """What :meth:`from_arrays` needs besides the settings, for an ``npz`` file."""
        return {
            "encoder_seed": np.array(self.seed),
            "encoder_identity": np.array(self.identity),
            "feature_centre": self.centre,
            "feature_scale": self.scale,
        }

    @classmethod
    def from_arrays(cls, settings: FrozenEncoderConfig, arrays: Mapping[str, Any]) -> Self:
        """The space whose :meth:`arrays` were saved."""
        return cls(
            settings,
            int(arrays["encoder_seed"]),
            str(arrays["encoder_identity"]),
            arrays["feature_centre"],
            arrays["feature_scale"],
        )
