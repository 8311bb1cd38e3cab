"""Transfer of jobs, data and results through Ray's object store, for nodes without a shared disk.

The files that a fold needs are put into the store once, whatever the number of folds. A node keeps
the files of a dataset in its cache folder and works in a temporary folder; the finished fold comes
back as the return value of its task.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from bench.cache import cache_folder
from bench.data.dataset import Dataset
from bench.data.stored_files import is_stored, stored_files, stored_hash, stored_state
from bench.encoders.folders import stored_folder
from bench.encoders.weights import stored_weights
from bench.errors import DataError, StoreError
from bench.execute.encoders import encoder_identity
from bench.execute.executors.parcels import (
    Files,
    existing_path,
    inside,
    pack,
    unpack,
)
from bench.execute.executors.ray_transfer import ReturnedFiles, with_texts
from bench.execute.plan import Job
from bench.files import atomic_write, canonical_hash, process_folder
from bench.sources import content_hash
from bench.store import MANIFEST, FoldFolder, RunFolder, not_writable

Sent = TypeVar("Sent")

CHUNK_BYTES = 64 << 20


"""Maximum bytes of a file per object of the object store."""


_IMAGES = "images"


_ITSELF = "."


_RECEIVED = "received"


@dataclass(frozen=True)
class SentFile:
    """A file in the object store, as references to its parts in order."""

    chunks: tuple[Any, ...]

    def write(self, path: Path) -> None:
        """Write the file on this node."""
        with atomic_write(path) as temporary, open(temporary, "wb") as stream:
            for chunk in self.chunks:
                stream.write(_get(chunk).data)


@dataclass(frozen=True)
class SentStore:
    """A Zarr store in the object store, as its files by relative name."""

    files: Mapping[str, SentFile]

    def write(self, path: Path) -> None:
        """Write the folder on this node, in the place of another of that name."""
        received = path.with_name(f".{path.name}-{_RECEIVED}")
        _remove(received)
        try:
            for name, file in self.files.items():
                file.write(received / inside(name))
            _remove(path)
            os.replace(received, path)
        finally:
            _remove(received)


@dataclass(frozen=True)
class SentPath:
    """A file or folder that a setting names, in the object store.

    Attributes
    ----------
    path
        The caller's path.
    hash
        Hash of the content.
    files
        Files by relative name; a single file has the name ``.``.
    """

    path: str
    hash: str
    files: Mapping[str, SentFile]

    @property
    def name(self) -> str:
        """Last part of the path."""
        return Path(self.path).name

    def fetched(self) -> Path:
        """Path of a copy in this node's cache, made if missing."""
        folder = _node_folder() / "inputs" / self.hash[:32]
        path = folder / self.name
        with _locked(folder):
            if not path.exists() or content_hash(path) != self.hash:
                _remove(path)
                for name, file in self.files.items():
                    file.write(path / inside(name) if name != _ITSELF else path)
                if content_hash(path) != self.hash:
                    raise DataError(
                        f"{self.name}: not all of it reached node {platform.node()}; links to"
                        " folders are not followed"
                    )
        return path


@dataclass(frozen=True)
class SentDataset:
    """Sections of a dataset, in the object store.

    Attributes
    ----------
    dataset
        The dataset with the caller's data folder.
    files
        Files of the sections, by section and role.
    """

    dataset: Dataset
    files: Mapping[tuple[str, str], SentFile | SentStore]

    def opened(self) -> Dataset:
        """The dataset with the sent files in this node's cache."""
        dataset = self.dataset
        key = canonical_hash([dataset.card.name, {n: dict(of) for n, of in dataset.hashes.items()}])
        root = _node_folder() / "data" / f"{dataset.card.name}-{key[:24]}"
        with _locked(root):
            for (section, role), sent in self.files.items():
                card = dataset.card.section(section).files[role]
                _fetch(sent, root / card.path, dataset.hashes[section][role])
        return replace(dataset, root=root)


@dataclass(frozen=True)
class SentSettings:
    """Files and folders that settings name, in the object store.

    Attributes
    ----------
    paths
        By the setting with the caller's path.
    weights
        Stored weights of image encoders, by the encoder's name.
    """

    paths: Mapping[str, SentPath]
    weights: Mapping[str, SentPath]

    def opened(self) -> Callable[[str], str]:
        """Copy them to this node; what changes the caller's settings into those of this node."""
        copies = {
            text: text.removesuffix(sent.path) + str(sent.fetched())
            for text, sent in self.paths.items()
        }
        for encoder, sent in self.weights.items():
            _place_weights(encoder, sent)
        return lambda text: copies.get(text, text)


@dataclass(frozen=True)
class SentJob:
    """A job with all files that it needs, for a node that shares no disk with the caller.

    Attributes
    ----------
    job
        Job with the caller's paths.
    dataset
        The fold's sections.
    settings
        Files and folders of its settings.
    twin
        Finished fold of the method that a permuted-image control belongs to.
    tested
        The test sections, if they are of another dataset.
    """

    job: Job
    dataset: SentDataset
    settings: SentSettings
    twin: Mapping[str, SentFile] = field(default_factory=dict)
    tested: SentDataset | None = None

    @contextmanager
    def opened(self) -> Iterator[Job]:
        """Write the files to local paths; see :class:`Parcel`."""
        results = process_folder(_node_folder() / "work")
        try:
            job = with_texts(self.job, self.settings.opened())
            there = replace(
                job,
                source=replace(
                    job.source,
                    dataset=self.dataset.opened(),
                    tested=None if self.tested is None else self.tested.opened(),
                ),
                run=_moved(job.run, results),
                twin=None if job.twin is None else _moved(job.twin, results),
            )
            if there.twin is not None:
                for name, file in self.twin.items():
                    file.write(there.twin.fold(there.fold).path / inside(name))
            yield there
        finally:
            shutil.rmtree(results, ignore_errors=True)

    def result(self, job: Job) -> ReturnedFiles:
        """The fold's files, and the small images that it refers to."""
        images = job.run.results / _IMAGES
        return ReturnedFiles(pack(job.folder.path), pack(images) if images.is_dir() else {})


class ObjectStore:
    """Parcels for nodes that share no disk with the caller."""

    def __init__(self) -> None:
        self._files: dict[Path, SentFile | SentStore] = {}
        self._paths: dict[str, SentPath] = {}

    def parcel(self, job: Job) -> SentJob:
        """Return the job with its files; files already sent with other jobs are not sent again."""
        source, fold = job.source, job.source.fold
        own = {name: source.place(name) for name in (*fold.train, *fold.validation, *fold.test)}
        dataset, tested = (
            None
            if of is None
            else self.dataset(of, [name for there, name in own.values() if there is of])
            for of in (source.dataset, source.tested)
        )
        assert dataset is not None  # a fold trains on sections of its dataset
        absolute, settings = self.settings(partial(with_texts, job), job.method_spec.config)
        twin: dict[str, SentFile] = {}
        if job.twin is not None:
            fitted = job.twin.fold(job.fold)
            if fitted.is_done():
                twin = {name: _put(fitted.path / name) for name in pack(fitted.path)}
        return SentJob(absolute, dataset, settings, twin, tested)

    def dataset(self, dataset: Dataset, sections: Sequence[str]) -> SentDataset:
        """Send sections of a dataset."""
        places = {
            (name, role): dataset.root / dataset.card.section(name).files[role].path
            for name in sections
            for role in dataset.hashes[name]
        }
        whole = set(places.values())
        files = {
            key: self._file(path)
            for key, path in places.items()
            if whole.isdisjoint(path.parents)  # an image inside a Zarr store travels with it
        }
        return SentDataset(dataset, files)

    def settings(
        self, changed: Callable[[Callable[[str], str]], Sent], config: Mapping[str, Any]
    ) -> tuple[Sent, SentSettings]:
        """Send the files and folders that settings name, and the stored weights of their encoder.

        Parameters
        ----------
        changed
            Calls a function for each text of the settings; returns what has the new texts.
        config
            The settings.

        Returns
        -------
        tuple
            What `changed` returned, with absolute paths; and what was sent.
        """
        paths: dict[str, SentPath] = {}

        def send(text: str) -> str:
            there = existing_path(text)
            if there is None:
                return text
            before, path = there
            paths[f"{before}{path}"] = self._path(path)
            return f"{before}{path}"

        absolute = changed(send)
        weights: dict[str, SentPath] = {}
        if "revision" in encoder_identity(config).get("weights", {}):
            name = str(config["encoder"])
            weights[name] = self._path(stored_folder(name))
        return absolute, SentSettings(paths, weights)

    def _file(self, path: Path) -> SentFile | SentStore:
        if path not in self._files:
            self._files[path] = (
                SentStore({name: _put(file) for name, file in stored_files(path).items()})
                if path.is_dir()
                else _put(path)
            )
        return self._files[path]

    def _path(self, path: Path) -> SentPath:
        if str(path) not in self._paths:
            if path.is_file():
                by_name = {_ITSELF: path}
            else:
                inner = sorted(file for file in path.rglob("*") if file.is_file())
                by_name = {file.relative_to(path).as_posix(): file for file in inner}
            files = {name: _put(file) for name, file in by_name.items()}
            self._paths[str(path)] = SentPath(str(path), content_hash(path), files)
        return self._paths[str(path)]

    def take(self, job: Job, result: ReturnedFiles) -> None:
        """Move a fold into its folder, manifest last; the caller holds its claim.

        Raises
        ------
        StoreError
            A file arrived damaged, or the results folder cannot be written.
        """
        try:
            self._take_images(job, result.images)
            move_in(job.folder, result.fold)
        except OSError as error:
            raise not_writable(job.folder.path, error) from error

    def _take_images(self, job: Job, images: Files) -> None:
        for name, content in images.items():
            path = job.run.results / _IMAGES / inside(name)
            if not path.is_file():
                with atomic_write(path) as temporary:
                    temporary.write_bytes(content.data)

    def close(self) -> None:
        """Release the sent files in the object store."""
        self._files.clear()
        self._paths.clear()


def move_in(folder: FoldFolder, files: Files) -> None:
    """Store received files as the result of a fold.

    They are written beside the fold and verified against their manifest before any file in
    the fold's folder is changed. The manifest is moved last.

    Raises
    ------
    StoreError
        The files are not a complete result of this fold.
    """
    staged = replace(folder, path=folder.path.with_name(f".{folder.path.name}-{_RECEIVED}"))
    shutil.rmtree(staged.path, ignore_errors=True)
    try:
        unpack(files, staged.path)
        state = staged.state()
        if not state.done:
            damage = state.damage or f"{MANIFEST} is missing"
            raise StoreError(f"{folder.path}: the result that a node sent is damaged ({damage})")
        folder.clear()
        shutil.rmtree(folder.scratch, ignore_errors=True)
        for item in staged.path.iterdir():
            if item.name != MANIFEST:
                os.replace(item, folder.path / item.name)
        os.replace(staged.path / MANIFEST, folder.path / MANIFEST)
    finally:
        shutil.rmtree(staged.path, ignore_errors=True)


def _put(path: Path) -> SentFile:
    """Copy a file into the object store, a part at a time."""
    import ray

    chunks = []
    with open(path, "rb") as stream:
        while True:
            chunk: np.ndarray = np.fromfile(stream, dtype=np.uint8, count=CHUNK_BYTES)
            if not chunk.size:
                break
            chunks.append(ray.put(chunk))
    return SentFile(tuple(chunks))


def _get(reference: Any) -> np.ndarray:
    """Content of an object, mapped into memory."""
    import ray

    # While waiting in its main thread, a task would release its CPU to another one.
    with ThreadPoolExecutor(1) as thread:
        return np.asarray(thread.submit(ray.get, reference).result())


def _moved(run: RunFolder, results: Path) -> RunFolder:
    """The same run in another results folder."""
    return replace(run, path=results / run.path.relative_to(run.results))


def _node_folder() -> Path:
    return cache_folder() / "ray"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other tasks of this node from receiving the same files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        yield


def _place_weights(encoder: str, sent: SentPath) -> None:
    """Store weights on this node, unless it has some, which are compared later."""
    folder = stored_folder(encoder)
    with _locked(folder):
        if stored_weights(encoder) is not None:
            return
        _remove(folder)
        staged = process_folder(folder.parent)
        try:
            for name, file in sent.files.items():
                file.write(staged / inside(name))
            if content_hash(staged) != sent.hash:
                raise DataError(f"weights of {encoder}: damaged on the way to {platform.node()}")
            staged.rename(folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fetch(sent: SentFile | SentStore, path: Path, expected: str) -> None:
    """Write a sent file to a path on this node, unless a file with the hash exists there."""
    if is_stored(path) and _hash_like(expected, path) == expected:
        return
    sent.write(path)
    if _hash_like(expected, path) != expected:
        raise DataError(f"{path.name}: the file changed on its way to node {platform.node()}")


def _hash_like(expected: str, path: Path) -> str:
    """Hash of a file as ``algorithm:hex``, with the algorithm of another hash."""
    return _hash(path, expected.partition(":")[0], tuple(stored_state(path)))


@lru_cache(maxsize=4096)
def _hash(path: Path, algorithm: str, _: tuple[str | int, ...]) -> str:
    """Hash of a file in a certain state; hashing whole slides for every task takes long."""
    return f"{algorithm}:{stored_hash(path, algorithm)}"
