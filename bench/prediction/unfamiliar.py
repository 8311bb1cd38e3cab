"""How far a new image is from those that a model was fitted on: patches and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.blocks.frozen import FrozenEncoderConfig
from bench.cache import Cache
from bench.data.inputs import Slide
from bench.files import canonical_hash

if TYPE_CHECKING:
    from pathlib import Path

    from bench.method import Context, MethodConfig

QUANTILE = 0.99
"""Share of the training patches whose distance is taken for familiar."""

FAR_SHARE = 0.05
"""Share of an image's patches beyond that distance from which a note warns: 1 % are expected."""

NEIGHBOURS = 5
REFERENCE_PATCHES = 5_000
"""Training patches that new ones are compared with, drawn from all."""

STAIN_DEVIATIONS = 2.0
"""Deviations of the training patches' colour by which a section's mean colour may differ."""

STAIN_SPREAD = 2.0
"""Factor by which the spread of a section's colours may differ from the training's."""

_EDGE = 64
_VERSION = 1
CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class PatchStatistics:
    """Simple statistics of patches.

    Attributes
    ----------
    values
        (patches, 8) float64: mean and standard deviation of red, green and blue (0 to 255), and
        the mean absolute difference of horizontal and of vertical neighbours of the grey image.
    """

    values: np.ndarray

    @property
    def colours(self) -> np.ndarray:
        """(patches, 3) mean red, green and blue."""
        return self.values[:, :3]


def patch_statistics(slide: Slide, config: MethodConfig) -> PatchStatistics:
    """Statistics of the patches that a method is given, reduced to 64 px.

    Raises
    ------
    DataError
        An image that cannot be read.
    """
    source = slide.patch_source
    assert source is not None  # asked of slides with an image alone
    edge, _ = slide.patch_edges(getattr(config, "patch_size", None))
    key = canonical_hash([_VERSION, source.key(edge, _EDGE)])
    values = _STATISTICS.get(key)
    if values is None or values.shape != (len(slide), 8):
        step = 512
        parts = [
            _statistics(source.cut_once(range(at, min(at + step, len(slide))), edge, _EDGE))
            for at in range(0, len(slide), step)
        ]
        values = np.concatenate(parts)
        with _STATISTICS.new_entry(key) as temporary, open(temporary, "wb") as stream:
            np.save(stream, values, allow_pickle=False)
    return PatchStatistics(values)


def _statistics(patches: np.ndarray) -> np.ndarray:
    """Means and deviations of the channels, and mean steps of grey across and down.

    Sums of integers: exact, and several times as fast as in floating point.
    """
    pixels = patches.reshape(len(patches), -1, 3)
    mean = pixels.mean(axis=1, dtype=np.float64)
    squares = np.square(pixels, dtype=np.uint16).mean(axis=1, dtype=np.float64)
    spread = np.sqrt(np.maximum(squares - mean**2, 0.0))
    grey = patches.sum(axis=3, dtype=np.int16)
    across = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2), dtype=np.float64) / 3
    down = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2), dtype=np.float64) / 3
    return np.column_stack([mean, spread, across, down])


def _read(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


_STATISTICS = Cache("patch-statistics", ".npy", _read)
"""Statistics of patches by their key."""


def described_patches(
    slides: Sequence[Slide], config: MethodConfig, context: Context
) -> tuple[list[np.ndarray], str]:
    """What patches are compared by: features of a method's frozen encoder, else statistics.

    Returns
    -------
    tuple of list of (spots, values) arrays and str
        One array a slide, and the name of what they hold.

    Raises
    ------
    BenchError
        An image or weights that cannot be read.
    """
    if isinstance(config, FrozenEncoderConfig):
        from bench.blocks.features import FrozenEncoder

        encoder = FrozenEncoder(config, context.seed, context.device, context.precision)
        return encoder.encode(slides, context), f"features of {config.encoder}"
    return [patch_statistics(slide, config).values for slide in slides], "colour and texture"


@dataclass(frozen=True)
class Distances:
    """Distances of new patches from training patches.

    Attributes
    ----------
    scores
        (spots,) float64: distance in units of `limit`; above 1 a patch is unfamiliar.
    limit
        99th percentile of the training patches' own distances from those of other groups.
    """

    scores: np.ndarray
    limit: float


def drawn_patches(training: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """At most 5,000 patches of all sections, in their order; a section may keep none.

    Parameters
    ----------
    training
        (patches, values) a section.
    seed
        They are drawn from it.
    """
    sizes = [len(part) for part in training]
    if sum(sizes) <= REFERENCE_PATCHES:
        return list(training)
    drawn = np.sort(np.random.default_rng(seed).permutation(sum(sizes))[:REFERENCE_PATCHES])
    first = np.cumsum([0, *sizes])
    return [
        part[drawn[(drawn >= start) & (drawn < end)] - start]
        for part, start, end in zip(training, first, first[1:], strict=False)
    ]


def distances(
    new: np.ndarray, training: Sequence[np.ndarray], groups: Sequence[str]
) -> Distances | None:
    """Mean distance of patches to their nearest training patches.

    Values are standardised by the training's mean and deviation; the distance is the mean of the
    Euclidean ones to the 5 nearest training patches (after Sun et al., ICML 2022). The training's
    own are measured from each patch to those of other groups, as a new section is of none of them.

    Parameters
    ----------
    new
        (spots, values).
    training
        (spots, values) a section.
    groups
        Patient of each section, or the section where there is one patient.

    Returns
    -------
    Distances or None
        None with fewer than two groups: the training's own distances are then not known.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(set(groups)) < 2:
        return None
    values = np.concatenate(training).astype(np.float64)
    group = np.repeat(list(groups), [len(part) for part in training])
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    deviation[deviation == 0] = 1.0
    values = (values - mean) / deviation

    def nearest(of: np.ndarray, among: np.ndarray) -> np.ndarray:
        number = min(NEIGHBOURS, len(among))
        index = NearestNeighbors(n_neighbors=number, algorithm="brute").fit(among)
        return np.asarray(index.kneighbors(of)[0].mean(axis=1))

    own = np.concatenate(
        [
            nearest(values[group == name], values[group != name])
            for name in dict.fromkeys(group.tolist())
            if (group != name).any()
        ]
    )
    limit = float(np.quantile(own, QUANTILE))
    if not limit > 0:
        return None
    return Distances(nearest((new.astype(np.float64) - mean) / deviation, values) / limit, limit)


@dataclass(frozen=True)
class Stain:
    """Colours of a new section beside those of the training patches.

    Attributes
    ----------
    new_mean, new_deviation, training_mean, training_deviation
        (3,) mean and standard deviation over patches of their mean red, green and blue.
    """

    new_mean: np.ndarray
    new_deviation: np.ndarray
    training_mean: np.ndarray
    training_deviation: np.ndarray

    def mismatch(self) -> str:
        """Warning where the colours differ; empty where they do not."""
        spread = np.maximum(self.training_deviation, 1.0)
        shift = (self.new_mean - self.training_mean) / spread
        ratio = np.maximum(self.new_deviation, 1.0) / spread
        worst = int(np.argmax(np.abs(shift)))
        if abs(shift[worst]) > STAIN_DEVIATIONS:
            return (
                f"stain mismatch: mean {CHANNELS[worst]} of the patches is"
                f" {self.new_mean[worst]:.0f}, and {self.training_mean[worst]:.0f} in training"
                f" ({abs(shift[worst]):.1f} deviations)"
            )
        worst = int(np.argmax(np.abs(np.log(ratio))))
        if max(ratio[worst], 1 / ratio[worst]) > STAIN_SPREAD:
            return (
                f"stain mismatch: the patches' {CHANNELS[worst]} varies by"
                f" {self.new_deviation[worst]:.0f}, and by"
                f" {self.training_deviation[worst]:.0f} in training"
            )
        return ""


def stain(new: PatchStatistics, training: Sequence[np.ndarray]) -> Stain:
    """Colours of a new section beside those of training sections, given by their statistics."""
    known = PatchStatistics(np.concatenate(training)).colours
    return Stain(
        new.colours.mean(axis=0), new.colours.std(axis=0), known.mean(axis=0), known.std(axis=0)
    )
