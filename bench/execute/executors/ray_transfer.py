"""Transfer of jobs to the nodes of a Ray cluster, and of their results back.

With a shared disk a job travels alone and its result is written in place. For nodes without one see
:mod:`bench.execute.executors.ray_object_store`.
"""

from __future__ import annotations

import platform
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from bench.data.dataset import Dataset
from bench.errors import StoreError
from bench.execute.executors.parcels import (
    Files,
    existing_path,
    map_texts,
)
from bench.execute.plan import Job
from bench.files import atomic_write
from bench.store import RunFolder, not_writable


@dataclass(frozen=True)
class ReturnedFiles:
    """Files of a finished fold returned by a task, in addition to those written in place.

    Attributes
    ----------
    fold
        Files of the fold's folder; empty with a shared disk.
    images
        Small copies of images, by their names in the folder ``images`` of the results.
    """

    fold: Files = field(default_factory=dict)
    images: Files = field(default_factory=dict)


class Parcel(Protocol):
    """A job prepared for a node."""

    def opened(self) -> AbstractContextManager[Job]:
        """On the node: yields the job with local paths."""

    def result(self, job: Job) -> ReturnedFiles:
        """On the node, within the context of :meth:`opened`: files to return to the caller."""


class Transfer(Protocol):
    """The caller's side: makes parcels and stores results."""

    def parcel(self, job: Job) -> Parcel:
        """Prepare a job for a node."""

    def take(self, job: Job, result: ReturnedFiles) -> None:
        """Store a result in the job's folder; the fold is done afterwards."""

    def close(self) -> None:
        """Remove files made for the nodes."""


def with_texts(job: Job, change: Callable[[str], str]) -> Job:
    """A job with the texts in its settings, and the path of its checkpoint, changed."""
    method_spec = job.method_spec
    checkpoint = (
        None if method_spec.checkpoint is None else Path(change(str(method_spec.checkpoint)))
    )
    config = map_texts(method_spec.config, change)
    return replace(job, method_spec=replace(method_spec, config=config, checkpoint=checkpoint))


def absolute_text(text: str) -> str:
    """A setting's text with the absolute path of the file or folder that it names, if any."""
    there = existing_path(text)
    return text if there is None else f"{there[0]}{there[1]}"


# ------------------------------------------------------------------------------ a shared disk


@dataclass(frozen=True)
class SharedJob:
    """A job whose folders all nodes see; `token` is the content of the file `marker`."""

    job: Job
    marker: Path
    token: str

    @contextmanager
    def opened(self) -> Iterator[Job]:
        """Check that this node sees the folders; see :class:`Parcel`."""
        mend = "use --no-shared-disk, or put it on a disk that all nodes share"
        try:
            seen = self.marker.read_text(encoding="utf-8")
        except (OSError, UnicodeError):
            seen = ""
        if seen != self.token:
            folder = self.marker.parent
            raise StoreError(f"node {platform.node()} does not see the results {folder}; {mend}")
        source = self.job.source
        for root in dict.fromkeys((source.dataset.root, source.test_dataset.root)):
            if not root.is_dir():
                node = platform.node()
                raise StoreError(f"node {node} does not see the data folder {root}; {mend}")
        yield self.job

    def result(self, job: Job) -> ReturnedFiles:
        """Return no files: the result has been written in place."""
        return ReturnedFiles()


class SharedDisk:
    """Parcels for nodes that see the results folder and the data.

    Parameters
    ----------
    results
        Results folder, which contains a small marker file during the call.
    """

    def __init__(self, results: Path) -> None:
        self._token = uuid.uuid4().hex
        self._marker = results.absolute() / f".ray-{self._token}"
        try:
            with atomic_write(self._marker) as temporary:
                temporary.write_text(self._token, encoding="utf-8")
        except OSError as error:
            raise not_writable(results, error) from error

    def parcel(self, job: Job) -> SharedJob:
        """Return the job with absolute paths."""
        job = with_texts(job, absolute_text)
        source, tested = job.source, job.source.tested
        there = replace(
            job,
            source=replace(
                source,
                dataset=_rooted(source.dataset),
                tested=None if tested is None else _rooted(tested),
            ),
            run=_absolute(job.run),
            twin=None if job.twin is None else _absolute(job.twin),
        )
        return SharedJob(there, self._marker, self._token)

    def take(self, job: Job, result: ReturnedFiles) -> None:
        """Do nothing: the result is in its place."""

    def close(self) -> None:
        """Remove the marker."""
        self._marker.unlink(missing_ok=True)


def _rooted(dataset: Dataset) -> Dataset:
    return replace(dataset, root=dataset.root.absolute())


def _absolute(run: RunFolder) -> RunFolder:
    return replace(run, path=run.path.absolute())


# --------------------------------------------------------------------------- no shared disk
