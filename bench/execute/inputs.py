"""Data of a fold, made once for all its jobs: the input of workers, and the truth."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np
from threadpoolctl import threadpool_limits

from bench.cache import JsonCache, cache_folder
from bench.data.dataset import Dataset
from bench.data.images.patches import PatchSource, Resampling
from bench.data.inputs import Slide
from bench.data.layouts import reader_hash
from bench.data.section import Section
from bench.encoders.brought import SpotPlaces, store_matched
from bench.errors import BenchError, DataError
from bench.execute.scoring import Reference, reference
from bench.files import atomic_write, canonical_hash, one_line, process_folder
from bench.protocol.fold_data import FoldData, Truth, fold_data
from bench.protocol.folds import Fold, Folds
from bench.protocol.rules import Protocol
from bench.protocol.training_patients import learned_sections
from bench.protocol.transfer import at_training_scale, own_name
from bench.sources import code_hash
from bench.version import installed_version
from bench.worker.handover import array_hash, content_of, hand_over, sections_of

_HANDED_OVER = "handover"
if TYPE_CHECKING:
    from bench.execute.method_specs import MethodSpec

_PACKAGES = ("anndata", "numpy", "pandas", "scanpy", "scipy")


@dataclass(frozen=True)
class FoldSource:
    """Sources of the data of a fold.

    Attributes
    ----------
    dataset
        Sections, including those of the fold.
    protocol
        Panel, scales and HEG rules.
    listed_panel
        Gene list, for a protocol that uses one.
    folds
        All folds.
    index
        Number of this fold.
    tested
        Dataset of the test sections, if it is another one.
    train_patients
        Number of training patients that methods are given; None for all.
    """

    dataset: Dataset
    protocol: Protocol
    listed_panel: tuple[str, ...] | None
    folds: Folds
    index: int
    tested: Dataset | None = None
    train_patients: int | None = None

    @property
    def fold(self) -> Fold:
        """The fold by section names."""
        return self.folds.folds[self.index]

    @property
    def learned(self) -> tuple[str, ...]:
        """Training sections that methods are given."""
        return learned_sections(self.folds, self.fold, self.train_patients)

    @property
    def test_dataset(self) -> Dataset:
        """Dataset of the test sections."""
        return self.tested or self.dataset

    def place(self, name: str) -> tuple[Dataset, str]:
        """Dataset of a section of the fold, and its name there."""
        if self.tested is None or name not in self.fold.test:
            return self.dataset, name
        return self.tested, own_name(name, self.tested.hashes, self.tested.card.name)

    def stored(self, name: str) -> Section:
        """A section of the fold as its dataset has it."""
        dataset, own = self.place(name)
        return dataset.section(own)

    def sections(self) -> dict[str, Section]:
        """Sections of the fold as methods are given them, by name."""
        fold = self.fold
        names = (*fold.train, *fold.validation, *fold.test)
        sections = {name: self.stored(name) for name in names}
        if self.tested is not None:
            seen = (*fold.train, *fold.validation)
            scales = [sections[name].micrometres_per_pixel for name in seen]
            edge = self.dataset.card.patch_pixels
            for name in fold.test:
                sections[name] = at_training_scale(sections[name], name, scales, edge)
        return sections

    @cached_property
    def key(self) -> str:
        """Hash of the files, rules and code that the data are made from; cheap to compute."""
        dataset = self.dataset
        names = (*self.fold.train, *self.fold.validation, *self.fold.test)
        places = {name: self.place(name) for name in names}
        more: dict[str, Any] = {}
        if self.tested is not None:
            reader = reader_hash(self.tested.card.layout)
            more["tested"] = [self.tested.hash, reader, code_hash(["bench.protocol.transfer"])]
        if self.train_patients is not None:
            more["learned"] = self.learned
        return canonical_hash(
            {
                **more,
                "dataset": dataset.hash,
                "reader": reader_hash(dataset.card.layout),
                "labels": {n: of.hashes[own].get("labels") for n, (of, own) in places.items()},
                "protocol": self.protocol.hash,
                "panel": self.listed_panel,
                "fold": self.fold.model_dump(mode="json"),
                "code": code_hash(["bench.protocol.fold_data", "bench.worker.handover"]),
                "packages": {name: installed_version(name) for name in _PACKAGES},
            }
        )


class FoldHashes(NamedTuple):
    """Hashes of a fold's values.

    Attributes
    ----------
    with_images, without
        Hash of the input of a worker, for methods that use images and for those that do not.
    truth
        Hash of the measured values of the test sections.
    """

    with_images: str
    without: str
    truth: str

    def seen_by(self, method_spec: MethodSpec) -> str:
        """Hash of the input of the predictions, which is the truth for an oracle."""
        if method_spec.kind == "oracle":
            return self.truth
        return self.with_images if method_spec.needs_image else self.without


class FoldInputs:
    """Data of one fold; each part is made when it is first asked for.

    Parameters
    ----------
    source
        Sources of the data.
    folder
        Folder for the files of workers; :meth:`let_go` removes them.
    """

    def __init__(self, source: FoldSource, folder: Path) -> None:
        self.source = source
        self._folder = folder / canonical_hash(source.key)[:24]

    @cached_property
    def data(self) -> FoldData:
        """Training data, slides and truth."""
        source = self.source
        sections = source.sections()
        with threadpool_limits(1):  # the same sums on every machine, also on a busy one
            return fold_data(
                source.fold,
                sections,
                source.protocol,
                source.listed_panel,
                learned=source.learned,
                shared_genes=source.tested is not None,
            )

    @cached_property
    def references(self) -> list[Reference]:
        """References that predictions of the test sections are compared with."""
        with threadpool_limits(1):
            return [reference(truth, self.source.protocol) for truth in self.data.truth]

    @cached_property
    def hashes(self) -> FoldHashes:
        """Hashes of the workers' input and of the truth, by content.

        The hashes are cached, so that a finished fold is recognised without reading its data.
        """
        known = _HASHES.get(self.source.key)
        if known is not None:
            return known
        data = self.data
        with_images, without = content_of(data.training, data.slides)
        truth = canonical_hash([_truth_hash(truth) for truth in data.truth])
        hashes = FoldHashes(with_images, without, truth)
        _HASHES.put(self.source.key, hashes._asdict())
        return hashes

    @cached_property
    def handed_over(self) -> Path:
        """Folder with the files that workers read."""
        self._folder.mkdir(parents=True)
        hand_over(self.data.training, self.data.slides, self._folder)
        return self._folder

    @cached_property
    def sections(self) -> Sequence[Slide]:
        """Sections in the order in which workers number them."""
        return sections_of(self.data.training, self.data.slides)

    def patches(
        self, number: int, size: int, pixels: int | None, resampling: Resampling = "area"
    ) -> Path:
        """File with the patches of a section; cut if missing."""
        return self.source_of(number).store(size, pixels, resampling)

    def source_of(self, number: int) -> PatchSource:
        """Image and spots of a section."""
        source = self.sections[number].patch_source
        assert source is not None  # workers ask only for sections with an image
        return source

    def features(self, number: int, path: str | None) -> Path:
        """File with the features of a section that the user has brought along.

        Parameters
        ----------
        number
            Number of the section.
        path
            Value of the method's setting ``features``.

        Raises
        ------
        DataError
            They are missing, damaged or of another section.
        """
        if path is None:
            raise DataError("features are asked for, but the method's setting 'features' is empty")
        section = self.source.stored(self.sections[number].name)
        spots = SpotPlaces(section.name, tuple(section.adata.obs_names), section.spatial)
        return store_matched(Path(path).expanduser(), spots)

    def answer(
        self, message: Mapping[str, Any], config: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Answer to a question of a worker on its input; None for other messages.

        Parameters
        ----------
        message
            The question.
        config
            Settings of the method, which alone name files that may be read.
        """
        if message["kind"] == "patches":
            return self.answer_patches(message)
        if message["kind"] in {"patches once", "extent"}:
            return self._answer_on_image(message)
        if message["kind"] == "features":
            return self._answer_features(message, config.get("features"))
        return None

    def _answer_features(self, message: Mapping[str, Any], given: str | None) -> dict[str, Any]:
        try:
            path = self.features(int(message["section"]), given)
        except (BenchError, LookupError, TypeError, ValueError) as error:
            return {"error": one_line(error, 400)}
        return {"path": str(path.absolute())}

    def answer_patches(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer to a worker's request for patches: their file, or the reason for none."""
        try:
            pixels = message["pixels"]
            path = self.patches(
                int(message["section"]),
                int(message["size"]),
                None if pixels is None else int(pixels),
                message["resampling"],
            )
        except (BenchError, LookupError, TypeError, ValueError, AssertionError) as error:
            return {"error": one_line(error, 400)}
        return {"path": str(path.absolute())}

    def _answer_on_image(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer on a section's image: its extent, or a new file of patches of a few spots."""
        try:
            source = self.source_of(int(message["section"]))
            if message["kind"] == "extent":
                width, height = source.extent()
                return {"width": width, "height": height}
            pixels = message["pixels"]
            patches = source.cut_once(
                range(int(message["first"]), int(message["stop"])),
                int(message["size"]),
                None if pixels is None else int(pixels),
                message["resampling"],
            )
        except (BenchError, LookupError, TypeError, ValueError, AssertionError) as error:
            return {"error": one_line(error, 400)}
        # Beside the worker's input: what an ended worker leaves is removed with it.
        path = self.handed_over / f"once-{uuid4().hex}.npy"
        with atomic_write(path) as temporary:
            np.save(temporary, patches, allow_pickle=False)
        return {"path": str(path.absolute())}

    def let_go(self) -> None:
        """Free the memory and remove the files; they are made again when asked for."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for name in ("data", "references", "handed_over", "sections"):
            vars(self).pop(name, None)


_HASHES = JsonCache(
    "folds", lambda known: FoldHashes(**{name: str(known[name]) for name in FoldHashes._fields})
)
"""Hashes of folds by the key of their source."""


class InputsOfFolds:
    """Data of the folds of a plan; only those of the folds in progress are kept in memory."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._inputs: dict[str, FoldInputs] = {}

    def of(self, source: FoldSource) -> FoldInputs:
        """Data of a fold, read when first accessed."""
        if source.key not in self._inputs:
            if self._folder is None:
                self._folder = process_folder(cache_folder() / _HANDED_OVER)
            self._inputs[source.key] = FoldInputs(source, self._folder)
        return self._inputs[source.key]

    def keep_only(self, used: Collection[FoldInputs]) -> None:
        """Let go of the data of all other folds."""
        for inputs in self._inputs.values():
            if inputs not in used:
                inputs.let_go()

    def close(self) -> None:
        """Let go of all data."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._inputs.clear()
        self._folder = None


def _truth_hash(truth: Truth) -> str:
    parts: list[Any] = [truth.section, truth.patient, list(truth.labels), list(truth.spot_names)]
    counts = truth.counts.tocsr(copy=True)
    counts.sort_indices()
    arrays = (
        *(truth.expression, truth.heg, truth.totals, truth.spatial, truth.array_xy),
        *(counts.data, counts.indices.astype(np.int64), counts.indptr.astype(np.int64)),
    )
    return canonical_hash([*parts, *map(array_hash, arrays)])
