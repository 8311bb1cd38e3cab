"""Features of a dataset's sections under frozen encoders, computed ahead of runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench.blocks.frozen import FrozenEncoderConfig
from bench.data.dataset import Dataset
from bench.data.section import Section
from bench.errors import ConfigError, UnknownNameError
from bench.execute.encoders import prepare_encoder
from bench.files import atomic_write, one_line
from bench.method import Precision
from bench.protocol.fold_data import slide_of
from bench.store import folder_name


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
        Time of computing; 0 where they were kept from before.
    """

    encoder: str
    section: str
    spots: int
    features: int | None
    megabytes: float
    seconds: float


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
        for name in self.settings:
            if name not in FrozenEncoderConfig.model_fields:
                known = FrozenEncoderConfig.model_fields
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


def compute_features(
    dataset: Dataset,
    request: FeatureRequest,
    told: Callable[[SectionFeatures], None],
    out: Path | None = None,
) -> list[SectionFeatures]:
    """Compute what is missing, section by section; the same call continues.

    Parameters
    ----------
    dataset
        Sections with images.
    request
        Encoders and settings.
    told
        Called after each section.
    out
        Folder that also gets a file ``ENCODER/SECTION.h5`` each, with ``features``, ``barcode``
        and ``coords`` (centres), for other programs or for the setting ``features``.

    Raises
    ------
    BenchError
        An encoder, setting or image that cannot be used; nothing half-written is left.
    """
    return _each(dataset, request, told, compute=True, out=out)


def stored_features(dataset: Dataset, request: FeatureRequest) -> list[SectionFeatures]:
    """Which features are kept on disk.

    Raises
    ------
    BenchError
        As :func:`compute_features`.
    """
    return _each(dataset, request, lambda _: None, compute=False, out=None)


def _each(
    dataset: Dataset,
    request: FeatureRequest,
    told: Callable[[SectionFeatures], None],
    *,
    compute: bool,
    out: Path | None,
) -> list[SectionFeatures]:
    from bench.blocks.features import FrozenEncoder

    configs = {encoder: request.config(encoder) for encoder in request.encoders}
    results = []
    for name, config in configs.items():
        encoder = FrozenEncoder(config, request.seed, request.device, request.precision)
        for section in dataset:
            slide = slide_of(section)
            values, seconds = encoder.stored(slide), 0.0
            if values is None and compute:
                started = time.perf_counter()
                (values,) = encoder.encode([slide])
                seconds = time.perf_counter() - started
            if out is not None and values is not None:
                _write(out / folder_name(name).strip("."), section, values, config.store)
            results.append(_facts(name, section, values, config.store, seconds))
            told(results[-1])
    return results


def _facts(
    encoder: str, section: Section, values: np.ndarray | None, kind: str, seconds: float
) -> SectionFeatures:
    size = 0.0 if values is None else values.size * np.dtype(kind).itemsize / 1e6
    width = None if values is None else values.shape[1]
    return SectionFeatures(encoder, section.name, len(section.spatial), width, size, seconds)


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
