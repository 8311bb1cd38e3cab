"""Features of a dataset's sections under frozen encoders, computed ahead of runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from pydantic import ValidationError

from bench.blocks.frozen import FrozenEncoderConfig
from bench.cache import cache_folder
from bench.data.dataset import Dataset
from bench.data.inputs import Slide
from bench.data.section import Section
from bench.errors import ConfigError, DataError, UnknownNameError
from bench.execute.encoders import prepare_encoder
from bench.files import atomic_write, one_line
from bench.method import Precision
from bench.protocol.fold_data import slide_of
from bench.store import folder_name

if TYPE_CHECKING:
    from bench.blocks.features import FrozenEncoder


@dataclass(frozen=True)
class SectionFeatures:
    """Features of one section.

    Attributes
    ----------
    encoder, section
        Names.
    spots
        Spots of the section.
    features
        Length of a spot's vector; None where they have not been computed.
    megabytes
        Size of the values in memory, as they are stored.
    seconds
        Time of computing; 0 where they were kept from before, None where it is not known.
    """

    encoder: str
    section: str
    spots: int
    features: int | None
    megabytes: float
    seconds: float | None


@dataclass(frozen=True)
class FeatureRequest:
    """What features are asked for; the values are those of ``bench run``.

    Attributes
    ----------
    encoders
        Names of encoders.
    settings
        Settings of frozen encoders, such as ``patch_size``.
    device, precision, seed
        As the run will have them.
    """

    encoders: tuple[str, ...]
    settings: Mapping[str, Any]
    device: str
    precision: Precision
    seed: int = 0

    def config(self, encoder: str) -> FrozenEncoderConfig:
        """Settings of one encoder.

        Raises
        ------
        BenchError
            A setting that does not exist or is not allowed, or an encoder that cannot be used.
        """
        known = set(FrozenEncoderConfig.model_fields) - {"features"}
        for name in self.settings:
            if name not in known:
                raise UnknownNameError("setting of frozen encoders", name, known)
        try:
            config = FrozenEncoderConfig.model_validate({**self.settings, "encoder": encoder})
        except ValidationError as error:
            raise ConfigError(
                f"settings of {encoder}: {one_line(error.errors()[0]['msg'])}"
            ) from error
        values = config.model_dump(mode="json")
        prepare_encoder(values, {"encoder": encoder})
        return config


class FeaturePart(NamedTuple):
    """Features of one section under one encoder."""

    encoder: str
    section: str


@dataclass(frozen=True)
class FeatureWork:
    """Features that a request asks of a dataset.

    Attributes
    ----------
    dataset
        Sections with images.
    request
        Encoders and settings.
    """

    dataset: Dataset
    request: FeatureRequest

    @cached_property
    def configs(self) -> dict[str, FrozenEncoderConfig]:
        """Settings by encoder.

        Raises
        ------
        BenchError
            As :meth:`FeatureRequest.config`.
        """
        return {name: self.request.config(name) for name in self.request.encoders}

    @property
    def parts(self) -> list[FeaturePart]:
        """All parts, encoder by encoder."""
        return [FeaturePart(name, section) for name in self.configs for section in self.sections]

    @property
    def sections(self) -> list[str]:
        """Names of the sections."""
        return list(self.dataset.hashes)

    def key(self, part: FeaturePart) -> str:
        """Key of the features in the cache."""
        return self._encoders[part.encoder].key(self._slide(part))

    def stored(self, part: FeaturePart) -> np.ndarray | None:
        """(spots, features) array that is kept on disk; None where there is none."""
        return self._encoders[part.encoder].stored(self._slide(part))

    def compute(self, part: FeaturePart) -> np.ndarray:
        """Compute features and keep them; (spots, features) array.

        Raises
        ------
        BenchError
            An image that cannot be read, or features that are not finite.
        """
        encoder = self._encoders[part.encoder]
        encoder.encode([self._slide(part)])
        values = encoder.stored(self._slide(part))
        assert values is not None  # it has just been written
        return values

    def keep(self, part: FeaturePart, values: np.ndarray) -> None:
        """Keep features that another machine has computed.

        Raises
        ------
        TrainingError, DataError
            They are not those of this section.
        """
        self._encoders[part.encoder].keep(self._slide(part), values)

    def _slide(self, part: FeaturePart) -> Slide:
        return slide_of(self.dataset.section(part.section))

    @cached_property
    def _encoders(self) -> dict[str, FrozenEncoder]:
        from bench.blocks.features import FrozenEncoder

        of = self.request
        return {
            name: FrozenEncoder(config, of.seed, of.device, of.precision)
            for name, config in self.configs.items()
        }


class FeatureRunner(Protocol):
    """Computes parts, here or elsewhere; they are kept on this machine's disk afterwards."""

    def run(
        self,
        work: FeatureWork,
        parts: Sequence[FeaturePart],
        done: Callable[[FeaturePart, float | None], None],
    ) -> None:
        """Compute parts that are missing.

        Parameters
        ----------
        work
            What the parts belong to.
        parts
            Parts to compute.
        done
            Called in this process after a part is kept, with the seconds that it took.

        Raises
        ------
        BenchError
            A part cannot be computed; others may have been.
        """


class LocalFeatures:
    """Computes parts in this process, one after another."""

    def run(
        self,
        work: FeatureWork,
        parts: Sequence[FeaturePart],
        done: Callable[[FeaturePart, float | None], None],
    ) -> None:
        """Compute parts; see :class:`FeatureRunner`."""
        for part in parts:
            started = time.perf_counter()
            work.compute(part)
            done(part, time.perf_counter() - started)


def compute_features(
    work: FeatureWork,
    told: Callable[[SectionFeatures], None],
    out: Path | None = None,
    runner: FeatureRunner | None = None,
) -> list[SectionFeatures]:
    """Compute what is missing, section by section; the same call continues.

    Parameters
    ----------
    work
        Dataset, encoders and settings.
    told
        Called after each section.
    out
        Folder that also gets a file ``ENCODER/SECTION.h5`` each, with ``features``, ``barcode``
        and ``coords`` (centres), for other programs or for the setting ``features``.
    runner
        Where it is computed; in this process by default.

    Raises
    ------
    BenchError
        An encoder, setting or image that cannot be used; nothing half-written is left.
    """
    results: dict[FeaturePart, SectionFeatures] = {}

    def take(part: FeaturePart, seconds: float | None) -> None:
        values = work.stored(part)
        if values is None:
            raise DataError(
                f"{part.encoder}, {part.section}: the features vanished from {cache_folder()}"
            )
        kind = work.configs[part.encoder].store
        if out is not None:
            section = work.dataset.section(part.section)
            _write(out / folder_name(part.encoder).strip("."), section, values, kind)
        results[part] = _facts(part, len(values), values, kind, seconds)
        told(results[part])

    missing = []
    for part in work.parts:
        if work.stored(part) is None:
            missing.append(part)
        else:
            take(part, 0.0)
    if missing:
        (runner or LocalFeatures()).run(work, missing, take)
    return [results[part] for part in work.parts]


def stored_features(work: FeatureWork) -> list[SectionFeatures]:
    """Which features are kept on disk.

    Raises
    ------
    BenchError
        As :func:`compute_features`.
    """
    rows = []
    for part in work.parts:
        spots = len(work.dataset.section(part.section).spatial)
        kind = work.configs[part.encoder].store
        rows.append(_facts(part, spots, work.stored(part), kind, 0.0))
    return rows


def _facts(
    part: FeaturePart, spots: int, values: np.ndarray | None, kind: str, seconds: float | None
) -> SectionFeatures:
    size = 0.0 if values is None else values.size * np.dtype(kind).itemsize / 1e6
    width = None if values is None else values.shape[1]
    return SectionFeatures(part.encoder, part.section, spots, width, size, seconds)


def _write(folder: Path, section: Section, values: np.ndarray, kind: str) -> None:
    import h5py

    with (
        atomic_write(folder / f"{section.name}.h5") as temporary,
        h5py.File(temporary, "w") as file,
    ):
        file["features"] = values.astype(kind)
        names: Sequence[str] = list(section.adata.obs_names)
        file["barcode"] = np.array([name.encode() for name in names])
        file["coords"] = section.spatial
