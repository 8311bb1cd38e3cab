"""A prediction as a task of a Ray cluster; it comes back as the value of the task."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError, DataError
from bench.execute.executors.node_task import forbid_downloads
from bench.execute.executors.parcels import file_content
from bench.execute.executors.ray import RETRIES, RayExecutor, cancel, fault, slots
from bench.execute.executors.ray_cluster import connected
from bench.execute.executors.ray_object_store import ObjectStore, SentFile
from bench.files import atomic_write
from bench.prediction.bundle import SUFFIX
from bench.prediction.elsewhere import (
    absolute_request,
    check_before_sending,
    check_versions,
    packed_bundle,
    read_result,
    versions,
)
from bench.prediction.exporting import export_bundle
from bench.prediction.finished_stripes import FinishedStripes
from bench.prediction.outputs import write_prediction
from bench.prediction.predicting import PredictionRequest, predict_image
from bench.prediction.watching import PredictionWatcher

if TYPE_CHECKING:
    from anndata import AnnData

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class SentPrediction:
    """A request with the files that nodes do not see.

    Attributes
    ----------
    request
        With the caller's absolute paths.
    files
        Content by field of the request.
    """

    request: PredictionRequest
    files: Mapping[str, SentFile]


@dataclass(frozen=True)
class PredictionReport:
    """A prediction as the bytes of files, by field or ``result``; or the reason of a failure."""

    files: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str = ""


def predict_on_ray(
    request: PredictionRequest, executor: RayExecutor, watcher: PredictionWatcher
) -> AnnData:
    """Predict on a node of a Ray cluster.

    Without a shared disk the node is sent the image, the spots and a bundle of the model, and
    nothing of the results folder or the data.

    Parameters
    ----------
    request
        The prediction.
    executor
        The cluster.
    watcher
        Told what happens.

    Raises
    ------
    BenchError
        The prediction failed, or its node was lost too often.
    """
    if request.device == "cuda" and not executor.gpus:
        raise BenchError(
            "a task of Ray sees no GPU unless it asks for one: name --ray-gpus, such as 1 or 0.5,"
            " or --device cpu"
        )
    check_before_sending(request)
    on_gpu = bool(executor.gpus) and request.device in {"auto", "cuda"}
    placed = replace(absolute_request(request), device="cuda" if on_gpu else "cpu")
    with TemporaryDirectory(prefix="spotbench-prediction-") as made:
        sent, places = _placed(placed, Path(made), executor.shared_disk, watcher)
        with connected(executor.address) as ray, closing(ObjectStore()) as store:
            slots(ray, executor, watcher.say)
            files = {name: store.file(path) for name, path in places.items()}
            task = ray.remote(predict_on_node).options(
                num_cpus=executor.cpus,
                num_gpus=executor.gpus if on_gpu else 0,
                max_retries=RETRIES,
                name="prediction",
            )
            watcher.say("the prediction runs on the Ray cluster")
            report = _report(ray, task.remote(SentPrediction(sent, files), versions()))
        if report.reason:
            raise BenchError(report.reason)
        result = Path(made) / "result.h5ad"
        _write(result, report.files["result"])
        if request.mask is not None and "mask" in report.files:
            _write(request.mask, report.files["mask"])
        return read_result(result, request)


def _placed(
    request: PredictionRequest, folder: Path, shared: bool, watcher: PredictionWatcher
) -> tuple[PredictionRequest, dict[str, Path]]:
    """The request as a node meets it, and the files to send by field."""
    places: dict[str, Path] = {}
    if request.bundle is not None and request.bundle.is_dir():
        places["bundle"] = packed_bundle(request.bundle, folder / f"model{SUFFIX}")
    if shared:
        return request, places
    if request.bundle is None:
        places["bundle"] = folder / f"model{SUFFIX}"
        export_bundle(request, places["bundle"], watcher.say)
        request = replace(
            request, bundle=places["bundle"], dataset="", method="", refit=False, fold=None
        )
    elif "bundle" not in places:
        places["bundle"] = request.bundle
    places["image"] = request.image
    if isinstance(request.spots, Path):
        places["spots"] = request.spots
    return request, places


def predict_on_node(sent: SentPrediction, expected: Mapping[str, str]) -> PredictionReport:
    """Predict on this node.

    Parameters
    ----------
    sent
        The request.
    expected
        The caller's :func:`bench.prediction.elsewhere.versions`.
    """
    with TemporaryDirectory(prefix="spotbench-prediction-") as made:
        folder, request = Path(made), sent.request
        try:
            check_versions(expected)
        except BenchError as error:
            return PredictionReport(reason=str(error))
        return _predicted(folder, request, sent.files)


def _predicted(
    folder: Path, request: PredictionRequest, files: Mapping[str, SentFile]
) -> PredictionReport:
    changes: dict[str, Any] = {}
    for name, file in files.items():
        # In folders of their own, with the names that the caller knows them by.
        changes[name] = folder / name / getattr(request, name).name
        changes[name].parent.mkdir()
        file.write(changes[name])
    if request.mask is not None:
        changes["mask"] = folder / "mask.png"
    there = replace(request, **changes)
    try:
        forbid_downloads()
        if not there.image.is_file():
            raise DataError(f"the node does not see {there.image}; use --no-shared-disk")
        finished = FinishedStripes()
        write_prediction(predict_image(there, finished=finished), folder / "result.h5ad")
        finished.forget()
    except BenchError as error:
        reason = str(error)
        for name in changes:
            reason = reason.replace(str(changes[name]), str(getattr(request, name)))
        return PredictionReport(reason=reason)
    made = {"result": folder / "result.h5ad", "mask": folder / "mask.png"}
    return PredictionReport(
        {name: np.array(file_content(path)) for name, path in made.items() if path.is_file()}
    )


def _report(ray: Any, reference: Any) -> PredictionReport:
    try:
        while not ray.wait([reference], timeout=_POLL_SECONDS)[0]:
            pass  # in turns, so that an interruption is noticed
        report: PredictionReport = ray.get(reference)
    except ray.exceptions.RayError as error:
        return PredictionReport(reason=fault(ray, error))
    except BaseException:
        cancel(ray, [reference])
        raise
    return report


def _write(path: Path, content: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.data)
