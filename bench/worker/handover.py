"""Input of a worker: training data and slides of a fold, as read-only files.

The arrays are mapped into the memory of every worker of the fold, not copied, and refuse every
write. Images stay with the harness, which cuts patches when a worker asks for them: nothing that
a worker holds names the folder of the dataset.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from bench.data.images.patches import PatchSource, Resampling
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.files import canonical_hash, write_json

CONTENT = "content.json"


class Ask(Protocol):
    """What a worker asks the harness for, by the number of a section."""

    def cut(self, number: int, size: int, pixels: int | None, resampling: Resampling) -> np.ndarray:
        """Patches of a size, resampled to so many pixels."""

    def cut_once(
        self, number: int, spots: range, size: int, pixels: int | None, resampling: Resampling
    ) -> np.ndarray:
        """Patches of a few spots, which are not kept."""

    def extent(self, number: int) -> tuple[float, float]:
        """Width and height of the image in full-resolution pixels."""

    def features(self, number: int) -> np.ndarray:
        """(spots, features) values of the files that the method's setting names."""


_ARRAYS = ("array_xy", "spatial", "expression", "target", "counts")
_ImageFacts = tuple[str, int, float]
_Section = TypeVar("_Section", bound=Slide)


@dataclass(frozen=True)
class HandedPatches(PatchSource):
    """Patches of a section whose image only the harness can read.

    Attributes
    ----------
    number
        Number of the section in the worker's input.
    ask
        Asks the harness for patches.
    """

    number: int = 0
    ask: Ask | None = field(default=None, repr=False, compare=False)

    def cut(
        self, size: int, pixels: int | None = None, resampling: Resampling = "area"
    ) -> np.ndarray:
        """Patches around the spots; see :meth:`PatchSource.cut`."""
        assert self.ask is not None  # set wherever one is made
        return self.ask.cut(self.number, size, pixels, resampling)

    def cut_once(
        self, spots: range, size: int, pixels: int | None = None, resampling: Resampling = "area"
    ) -> np.ndarray:
        """Patches of a few spots; see :meth:`PatchSource.cut_once`."""
        assert self.ask is not None
        return self.ask.cut_once(self.number, spots, size, pixels, resampling)

    def extent(self) -> tuple[float, float]:
        """Width and height of the image; see :meth:`PatchSource.extent`."""
        assert self.ask is not None
        return self.ask.extent(self.number)


def sections_of(training: TrainingData, slides: Sequence[Slide]) -> list[Slide]:
    """Sections of a fold in the order in which they are numbered."""
    return [*training.train, *training.validation, *slides]


def content_of(training: TrainingData, slides: Sequence[Slide]) -> tuple[str, str]:
    """SHA-256 of the input of ``fit`` and ``predict``, with images represented by their hashes.

    Returns
    -------
    tuple of str
        Hash with images, and hash without images for methods that do not use them.
    """
    parts: list[Any] = [list(training.panel)]
    plain = list(parts)
    for role, sections in _by_role(training, slides):
        for section in sections:
            arrays = {name: array_hash(array) for name, array in _arrays_of(section).items()}
            facts = _facts_of(section)
            parts.append([role, facts, arrays])
            plain.append([role, {**facts, "image": None}, arrays])
    return canonical_hash(parts), canonical_hash(plain)


def array_hash(array: np.ndarray) -> str:
    """SHA-256 of an array: its type, its shape and its values."""
    import hashlib

    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def hand_over(training: TrainingData, slides: Sequence[Slide], folder: Path) -> None:
    """Write the input of a worker into an existing folder.

    Parameters
    ----------
    training
        For ``fit``.
    slides
        For ``predict``.
    folder
        Where arrays and their description go.
    """
    written: dict[int, str] = {}

    def write(array: np.ndarray) -> str:
        # A protocol with one scale for input and target holds one array under two names.
        if id(array) not in written:
            written[id(array)] = f"{len(written)}.npy"
            np.save(folder / written[id(array)], np.ascontiguousarray(array), allow_pickle=False)
        return written[id(array)]

    content: dict[str, Any] = {"panel": list(training.panel)}
    for role, sections in _by_role(training, slides):
        content[role] = [
            {
                **_facts_of(section),
                "arrays": {name: write(array) for name, array in _arrays_of(section).items()},
            }
            for section in sections
        ]
    write_json(folder / CONTENT, content)


def take_over(folder: Path, ask: Ask, *, images: bool) -> tuple[TrainingData, tuple[Slide, ...]]:
    """Training data and slides from the files of :func:`hand_over`.

    Parameters
    ----------
    folder
        Where they lie.
    ask
        Gives patches and features; see :func:`sections_of` for the numbers.
    images
        Whether the sections have images, for a method that looks at them.
    """
    content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
    mapped: dict[str, np.ndarray] = {}
    numbers = iter(range(sum(len(content[role]) for role in ("train", "validation", "slides"))))

    def read(name: str) -> np.ndarray:
        if name not in mapped:
            mapped[name] = map_array(folder / name)
        return mapped[name]

    def section(kind: type[_Section], facts: Mapping[str, Any]) -> _Section:
        number = next(numbers)
        arrays: dict[str, Any] = {name: read(file) for name, file in facts["arrays"].items()}
        source = None
        if images and facts["image"] is not None:
            image_hash, largest, scale = facts["image"]
            source = HandedPatches(
                image=Path(facts["name"]),
                image_hash=image_hash,
                max_image_pixels=largest,
                centres=arrays["spatial"],
                image_scale=scale,
                number=number,
                ask=ask,
            )
        plain = {k: facts[k] for k in facts if k not in {"arrays", "image"}}
        brought = partial(ask.features, number)
        return kind(patch_source=source, brought=brought, **arrays, **plain)

    training = TrainingData(
        panel=tuple(content["panel"]),
        train=tuple(section(TrainingSection, facts) for facts in content["train"]),
        validation=tuple(section(TrainingSection, facts) for facts in content["validation"]),
    )
    return training, tuple(section(Slide, facts) for facts in content["slides"])


def map_array(path: Path) -> np.ndarray:
    """An array of an ``.npy`` file, mapped, read-only, without a name of its file."""
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError(f"{path}: holds objects")
        start, count = stream.tell(), int(np.prod(shape))
        if count == 0:
            empty = np.empty(shape, dtype)
            empty.flags.writeable = False
            return empty
        buffer = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    values = np.frombuffer(buffer, dtype, count, start)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _by_role(
    training: TrainingData, slides: Sequence[Slide]
) -> Iterator[tuple[str, Sequence[Slide]]]:
    yield "train", training.train
    yield "validation", training.validation
    yield "slides", slides


def _arrays_of(section: Slide) -> dict[str, np.ndarray]:
    return {name: getattr(section, name) for name in _ARRAYS if hasattr(section, name)}


def _facts_of(section: Slide) -> dict[str, Any]:
    source = section.patch_source
    facts: dict[str, Any] = {
        "name": section.name,
        "patch_pixels": section.patch_pixels,
        "micrometres_per_pixel": section.micrometres_per_pixel,
        "image": source and [source.image_hash, source.max_image_pixels, source.image_scale],
    }
    if isinstance(section, TrainingSection):
        facts["patient"] = section.patient
    return facts
