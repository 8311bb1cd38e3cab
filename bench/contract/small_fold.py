"""A small fold on which any method is fitted in seconds, and its sections as a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from bench.data.images.patches import PatchSource
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.files import atomic_write, file_hash

if TYPE_CHECKING:
    from bench.data.section import Section

GENES, SPOTS = 6, 20
_EDGE = 40

AnySlide = TypeVar("AnySlide", bound=Slide)


def small_fold(folder: Path) -> TrainingData:
    """Three sections of two patients; the first gene is the brightness of the patch.

    Parameters
    ----------
    folder
        Where the images are written.
    """
    rng = np.random.default_rng(0)
    sections = []
    for number, name in enumerate(("A1", "A2", "B1")):
        level = rng.integers(0, 256, SPOTS)
        path = _write_image(folder / f"{name}.png", level)
        spatial = _spatial()
        target = rng.random((SPOTS, GENES), dtype=np.float32)
        target[:, 0] = level / 64
        sections.append(
            TrainingSection(
                name=name,
                array_xy=_array_xy(number),
                spatial=spatial,
                patch_pixels=_EDGE,
                patch_source=PatchSource(path, f"sha256:{file_hash(path)}", 10**6, spatial),
                patient=name[0],
                expression=target.copy(),
                target=target,
                counts=np.rint(10 * target),
            )
        )
    panel = tuple(f"G{i}" for i in range(GENES))
    return TrainingData(panel, tuple(sections[:2]), tuple(sections[2:]))


def small_sections(folder: Path, *, scrambled: str | None = None) -> dict[str, Section]:
    """Four sections of three patients as they are read from a dataset, by name.

    Two of the eight genes are too rare to come into a panel, but not in the `scrambled` section.

    Parameters
    ----------
    folder
        Where the images are written.
    scrambled
        Section whose counts are shuffled among its spots and genes, and increased.
    """
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

    from bench.data.section import Section

    rng = np.random.default_rng(1)
    sections = {}
    for number, name in enumerate(("A1", "A2", "B1", "C1")):
        level = rng.integers(0, 256, SPOTS)
        counts = rng.poisson(8, (SPOTS, GENES + 2))
        counts[:, 0] = level
        counts[:, GENES:] = 0
        if name == scrambled:
            counts = 1 + 3 * np.random.default_rng(2).permuted(counts)
        image = _write_image(folder / f"{name}.png", level)
        array_xy = _array_xy(number)
        adata = AnnData(
            X=sp.csr_matrix(counts.astype(np.int32)),
            obs=pd.DataFrame(
                {
                    "array_row": array_xy[:, 1],
                    "array_col": array_xy[:, 0],
                    "in_tissue": 1,
                    "label": "",
                },
                index=[f"{x}x{y}" for x, y in array_xy],
            ),
            var=pd.DataFrame(index=[f"G{i}" for i in range(GENES + 2)]),
            obsm={"spatial": _spatial()},
        )
        hashed = f"sha256:{file_hash(image)}"
        sections[name] = Section(name, name[0], adata, image, hashed, 10**6, 1.0, _EDGE)
    return sections


def _write_image(path: Path, level: np.ndarray) -> Path:
    """Image with one patch per spot, each of constant brightness except for a darker top."""
    pixels = np.zeros((_EDGE, _EDGE * SPOTS, 3), dtype=np.uint8)
    for spot, value in enumerate(level):
        pixels[:, _EDGE * spot : _EDGE * spot + _EDGE] = value
    pixels[:10] //= 2  # a patch is not its own mirror image
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)
    return path


def _spatial() -> np.ndarray:
    middle = _EDGE / 2
    return np.stack([middle + _EDGE * np.arange(SPOTS), np.full(SPOTS, middle)], axis=1)


def _array_xy(row: int) -> np.ndarray:
    return np.stack([np.arange(SPOTS), np.full(SPOTS, row)], axis=1)


def as_slide(section: TrainingSection) -> Slide:
    """Slide for prediction from a section."""
    return Slide(
        section.name, section.array_xy, section.spatial, section.patch_pixels, section.patch_source
    )


def arrays_of(section: Slide) -> dict[str, np.ndarray]:
    """Arrays of a section that a method can access, by name; not copied."""
    values = {field.name: getattr(section, field.name) for field in fields(section)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    if section.patch_source is not None:
        arrays["centres"] = section.patch_source.centres
    return arrays


def with_arrays(section: AnySlide, arrays: Mapping[str, np.ndarray]) -> AnySlide:
    """Section with some arrays replaced, by the names of :func:`arrays_of`."""
    changes: dict[str, Any] = {k: v for k, v in arrays.items() if k != "centres"}
    if "centres" in arrays and section.patch_source is not None:
        changes["patch_source"] = replace(section.patch_source, centres=arrays["centres"])
    return replace(section, **changes)


def first_spots(section: AnySlide, spots: int) -> AnySlide:
    """Section reduced to its first spots."""
    return with_arrays(section, {k: v[:spots].copy() for k, v in arrays_of(section).items()})


def copied(section: AnySlide, *, writeable: bool = True) -> AnySlide:
    """Copy of a section with copied arrays, optionally read-only."""
    arrays = {name: value.copy() for name, value in arrays_of(section).items()}
    for value in arrays.values():
        value.flags.writeable = writeable
    return with_arrays(section, arrays)
