"""Features of frozen encoders as tasks of a Ray cluster; they come back as the tasks' values."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bench.data.dataset import Dataset
from bench.errors import BenchError, DataError
from bench.execute.encoders import encoder_identity
from bench.execute.executors.node_task import forbid_downloads
from bench.execute.executors.parcels import map_texts
from bench.execute.executors.ray import RETRIES, RayExecutor, cancel, fault, slots
from bench.execute.executors.ray_cluster import connected
from bench.execute.executors.ray_node import check_encoder, check_installation, installation
from bench.execute.executors.ray_object_store import ObjectStore, SentDataset, SentSettings
from bench.execute.executors.ray_transfer import absolute_text
from bench.execute.features import FeaturePart, FeatureRequest, FeatureWork

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class SentPart:
    """A part with what a node needs to compute it.

    Attributes
    ----------
    part
        Encoder and section.
    request
        Encoders and settings.
    dataset
        The dataset, or its sent section where no disk is shared.
    settings
        Sent files of settings, None where a disk is shared.
    encoder
        Identity of the caller's encoder.
    """

    part: FeaturePart
    request: FeatureRequest
    dataset: Dataset | SentDataset
    settings: SentSettings | None
    encoder: Mapping[str, Any]


@dataclass(frozen=True)
class PartReport:
    """Features that a node computed, (spots, features); or the reason why it could not."""

    values: np.ndarray | None = None
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class RayFeatures:
    """Computes features on a Ray cluster; see :class:`bench.execute.features.FeatureRunner`.

    Attributes
    ----------
    executor
        The cluster.
    warn
        Receives warnings.
    """

    executor: RayExecutor
    warn: Callable[[str], None]

    def run(
        self,
        work: FeatureWork,
        parts: Sequence[FeaturePart],
        done: Callable[[FeaturePart, float | None], None],
    ) -> None:
        """Compute parts on the nodes, and keep them on this machine.

        Raises
        ------
        BenchError
            A node could not compute a part, or was lost too often.
        """
        on_gpu = work.request.device == "cuda"
        if on_gpu and not self.executor.gpus:
            raise BenchError(
                "a task of Ray sees no GPU unless it asks for one: name --ray-gpus, such as 1 or"
                " 0.5, or --device cpu"
            )
        left = list(parts)
        with connected(self.executor.address) as ray, closing(ObjectStore()) as store:
            task = ray.remote(compute_part).options(
                num_cpus=self.executor.cpus,
                num_gpus=self.executor.gpus if on_gpu else 0,
                max_retries=RETRIES,
                name="features",
            )
            limit, expected = slots(ray, self.executor, self.warn) + 1, installation()
            running: dict[Any, FeaturePart] = {}
            try:
                while left or running:
                    while left and len(running) < limit:
                        part = left.pop(0)
                        running[task.remote(self._sent(work, part, store), expected)] = part
                    ready, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
                    for reference in ready:
                        part = running.pop(reference)
                        report = _report(ray, reference)
                        if report.values is None:
                            raise BenchError(f"{part.encoder}, {part.section}: {report.reason}")
                        work.keep(part, np.array(report.values))
                        done(part, report.seconds)
            except BaseException:
                cancel(ray, list(running))
                raise

    def _sent(self, work: FeatureWork, part: FeaturePart, store: ObjectStore) -> SentPart:
        dataset, request = work.dataset.only([part.section]), work.request
        config = work.configs[part.encoder].model_dump(mode="json")
        identity = encoder_identity(config)
        asked = {**request.settings, "encoder": part.encoder}
        if self.executor.shared_disk:
            dataset = replace(dataset, root=dataset.root.absolute())
            return _part(part, request, map_texts(asked, absolute_text), dataset, None, identity)
        sent = store.dataset(dataset, [part.section])
        there, settings = store.settings(partial(map_texts, asked), config)
        return _part(part, request, there, sent, settings, identity)


def compute_part(sent: SentPart, expected: Mapping[str, str]) -> PartReport:
    """Compute a part on this node."""
    try:
        check_installation(expected)
        forbid_downloads()
        request, dataset = sent.request, sent.dataset
        if sent.settings is not None:
            change = sent.settings.opened()
            request = replace(
                request,
                encoders=tuple(map(change, request.encoders)),
                settings=map_texts(request.settings, change),
            )
        if isinstance(dataset, SentDataset):
            dataset = dataset.opened()
        elif not dataset.root.is_dir():
            raise DataError(f"the node does not see {dataset.root}; use --no-shared-disk")
        work = FeatureWork(dataset, request)
        (part,) = work.parts
        check_encoder(work.configs[part.encoder].model_dump(mode="json"), sent.encoder)
        started = time.perf_counter()
        values = work.stored(part)
        if values is None:
            values = work.compute(part)
        return PartReport(values, time.perf_counter() - started)
    except BenchError as error:
        return PartReport(reason=str(error))


def _part(
    part: FeaturePart,
    request: FeatureRequest,
    asked: Mapping[str, Any],
    dataset: Dataset | SentDataset,
    settings: SentSettings | None,
    identity: Mapping[str, Any],
) -> SentPart:
    own = dict(asked)
    there = replace(request, encoders=(str(own.pop("encoder")),), settings=own)
    return SentPart(part, there, dataset, settings, identity)


def _report(ray: Any, reference: Any) -> PartReport:
    try:
        report: PartReport = ray.get(reference)
    except ray.exceptions.RayError as error:
        return PartReport(reason=fault(ray, error))
    return report
