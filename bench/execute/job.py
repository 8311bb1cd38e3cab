"""One job: the task of a worker, and the result stored from its report."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from bench.data.images.image import thumbnail
from bench.data.images.stored_patches import StoredPatches
from bench.errors import BenchError, TrainingError
from bench.evaluate.oracles import ORACLES
from bench.execute.ensembles import average
from bench.execute.inputs import FoldInputs
from bench.execute.keys import fit_key, score_key
from bench.execute.plan import Job
from bench.execute.scoring import as_anndata, score_fold
from bench.files import atomic_write, write_json
from bench.protocol.fold_data import FoldData
from bench.records import read_record, write_record
from bench.store import MODEL, PICKLES, FoldFolder, image_file
from bench.worker.task import FitReport, FitTask, checked_predictions, prediction_file

_IMAGE_SIDE = 1000


def job_keys(job: Job, inputs: FoldInputs) -> tuple[str, str]:
    """Fit key and score key of a job; see :mod:`bench.execute.keys`."""
    fit = fit_key(job.run.key, job.fold, inputs.hashes.seen_by(job.method_spec))
    return fit, score_key(fit, inputs.hashes.truth)


def fit_task(job: Job, inputs: FoldInputs, *, twin_done: bool) -> FitTask:
    """Task of a worker for a job; clears the folder of the fold.

    Parameters
    ----------
    job, inputs
        The job and the data of its fold.
    twin_done
        Whether the method of a permuted-image control has been fitted to this very fold.
    """
    folder = job.folder
    folder.clear()
    folder.scratch.mkdir(exist_ok=True)
    folder.work.mkdir()
    fitted = job.twin.fold(job.fold).path / MODEL if job.twin is not None and twin_done else None
    checkpoint = job.method_spec.checkpoint
    return FitTask(
        method=str(job.method_spec.method),
        configs=(dict(job.method_spec.config),),
        inputs=str(inputs.handed_over.absolute()),
        images=job.method_spec.needs_image,
        out=str(folder.work.absolute()),
        scratch=str(folder.scratch.absolute()),
        seed=job.seed,
        device=job.device,
        precision=job.precision,
        compile=job.compile,
        checkpoint=str(checkpoint.absolute()) if checkpoint else None,
        fitted=str(fitted.absolute()) if fitted else None,
        shuffled=job.seed if job.method_spec.shuffled else None,
        save=not job.method_spec.shuffled,
    )


def read_predictions(
    label: str, data: FoldData, out: Path, *, look: int = 0, config: int = 0
) -> list[np.ndarray]:
    """Predictions written by a worker, one (spots, panel) float32 array per test section.

    Raises
    ------
    TrainingError
        A file is missing or contains something else.
    """
    predictions = []
    for number in range(len(data.slides)):
        path = out / prediction_file(look, config, number)
        try:
            predictions.append(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise TrainingError(f"{label} left no readable predictions ({error})") from error
    return checked_predictions(label, data.slides, data.training.panel, predictions)


def store_fit(
    job: Job,
    inputs: FoldInputs,
    answer: Mapping[str, Any],
    timings: Mapping[str, float],
    facts: Mapping[str, Any],
) -> None:
    """Score the predictions of a worker and store both; the manifest is written last.

    Parameters
    ----------
    job, inputs
        The job and the data of its fold.
    answer
        Fields of :class:`~bench.worker.task.FitReport`, from the worker.
    timings, facts
        Further seconds by name, and further fields of ``fold.json``.

    Raises
    ------
    TrainingError
        A prediction of the worker is invalid, or one of its files is not a regular file.
    """
    folder, out = job.folder, job.folder.work
    predictions = read_predictions(job.method_spec.label, inputs.data, out)
    try:
        report = FitReport(**{name: answer[name] for name in FitReport.__annotations__})
        curves = pd.DataFrame(report.curves)
        times = {
            "fit_seconds": round(float(report.fit_seconds), 4),
            "predict_seconds": round(float(report.predict_seconds), 4),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{job.method_spec.label}: its worker's report is broken") from error
    folder.write_table("curves.parquet", curves)
    if not job.method_spec.shuffled:
        _take_model(job, out / MODEL, folder.path / MODEL)
    more = {
        "notes": report.notes,
        "device": report.device,
        "peak_memory_mb": report.peak_memory_mb,
        "peak_device_memory_mb": report.peak_device_memory_mb,
        **facts,
    }
    _store(job, inputs, predictions, {**timings, **times}, more)


def run_oracle(job: Job, inputs: FoldInputs) -> None:
    """Run the job of an oracle, which reads the truth."""
    job.folder.clear()
    started = time.perf_counter()
    oracle, data = ORACLES[job.method_spec.label], inputs.data
    genes = len(data.training.panel)
    predictions = [oracle(truth.totals, genes).astype(np.float32) for truth in data.truth]
    job.folder.write_table("curves.parquet", pd.DataFrame())
    timings = {"predict_seconds": round(time.perf_counter() - started, 4)}
    nothing: dict[str, Any] = {"notes": [], "peak_memory_mb": None, "peak_device_memory_mb": None}
    _store(job, inputs, predictions, timings, {"device": "cpu", **nothing})


def run_ensemble(job: Job, inputs: FoldInputs) -> None:
    """Run the job of an ensemble, which averages stored predictions.

    Raises
    ------
    TrainingError
        Predictions of a member are missing.
    """
    predictions, seconds = average(job.members, job.fold, inputs)
    job.folder.clear()
    job.folder.write_table("curves.parquet", pd.DataFrame())
    timings = {"predict_seconds": round(seconds, 4)}
    nothing: dict[str, Any] = {"notes": [], "peak_memory_mb": None, "peak_device_memory_mb": None}
    _store(job, inputs, predictions, timings, {"device": "cpu", **nothing})


def rescore(job: Job, inputs: FoldInputs) -> None:
    """Score the stored predictions of a fit again, without fitting.

    Raises
    ------
    BenchError
        The stored predictions belong to another fold.
    """
    import anndata

    stored = anndata.read_h5ad(job.folder.path / "predictions.h5ad")
    data = inputs.data
    lengths = [len(truth.spot_names) for truth in data.truth]
    if stored.shape != (sum(lengths), len(data.training.panel)):
        raise BenchError(f"{job.folder.path}: stored predictions are not of this fold; use --force")
    values = np.asarray(stored.X, dtype=np.float32)
    predictions = np.split(values, np.cumsum(lengths)[:-1])
    facts = job.folder.facts()
    with job.folder.rescoring(job_keys(job, inputs)[1]) as staged:
        _write_scores(job, inputs, predictions, staged, facts)


def _store(
    job: Job,
    inputs: FoldInputs,
    predictions: Sequence[np.ndarray],
    timings: Mapping[str, float],
    facts: Mapping[str, Any],
) -> None:
    fold = inputs.source.fold
    about = {
        "fold": job.fold,
        "train": inputs.source.learned,
        "validation": fold.validation,
        "test": fold.test,
        "panel": inputs.data.training.panel,
        "precision": job.precision,
        "timings": dict(timings),
        "images": _small_images(job, inputs.data),
        "patches": _patches_seen(job, inputs),
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "host": platform.node(),
        },
        **facts,
    }
    _write_scores(job, inputs, predictions, job.folder, about)
    job.folder.finish(*job_keys(job, inputs))


def _write_scores(
    job: Job,
    inputs: FoldInputs,
    predictions: Sequence[np.ndarray],
    folder: FoldFolder,
    facts: Mapping[str, Any],
) -> None:
    data, started = inputs.data, time.perf_counter()
    references = inputs.references
    with threadpool_limits(1):  # the same sums on every machine, also on a busy one
        scores, genes = score_fold(
            job.method_spec.label,
            job.fold,
            data,
            references,
            predictions,
            scale_free=job.method_spec.kind == "oracle",
        )
    scored = time.perf_counter()
    folder.write_table("scores.parquet", scores)
    folder.write_table("genes.parquet", genes)
    with atomic_write(folder.path / "predictions.h5ad") as temporary:
        as_anndata(data, predictions).write_h5ad(temporary, compression="lzf")
    timings = {
        **facts["timings"],
        "score_seconds": round(scored - started, 4),
        "store_seconds": round(time.perf_counter() - scored, 4),
    }
    write_json(
        folder.path / "fold.json",
        {
            **facts,
            "timings": timings,
            "unmeasured_genes": dict(data.unmeasured_genes),
            "dropped_spots": dict(data.dropped_spots),
            "left_out": dict(data.left_out),
            "reduced_images": dict(data.reduced_images),
        },
    )


def _patches_seen(job: Job, inputs: FoldInputs) -> list[dict[str, float | int | None]]:
    """Sizes of the patches that a method with such settings is given, each once.

    ``pixels`` of the full-resolution image, ``um`` micrometres (None where the scale is not
    known), ``input`` pixels after resampling.
    """
    config = job.method_spec.config
    if "patch_size" not in config or config.get("features"):
        return []
    sizes = set()
    for section in inputs.sections:
        edge, resampled = section.patch_edges(config["patch_size"], config.get("input_size"))
        scale = section.micrometres_per_pixel
        sizes.add((edge, None if scale is None else round(edge * scale, 2), resampled or edge))
    return [
        {"pixels": edge, "um": um, "input": fed}
        for edge, um, fed in sorted(sizes, key=lambda size: (size[0], size[2], size[1] or 0))
    ]


def _take_model(job: Job, made: Path, target: Path) -> None:
    """Move the folder saved by a method into the fold's folder.

    It may hold regular files alone, and no pickles.
    """
    if not made.is_dir() or made.is_symlink():
        raise TrainingError(f"{job.method_spec.label}: its worker left no model")
    for folder, subfolders, files in os.walk(made):
        for name in (*subfolders, *files):
            path = Path(folder) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise TrainingError(
                    f"{job.method_spec.label}: saved {name}, which is not a regular file"
                )
            if path.suffix.lower() in PICKLES and path.is_file():
                raise TrainingError(
                    f"{job.method_spec.label}: saved {name}, a pickle by its name, whose code runs"
                    " when it is loaded; use numpy.savez, save_network or save_estimator"
                )
    shutil.rmtree(target, ignore_errors=True)
    os.replace(made, target)


def _small_images(job: Job, data: FoldData) -> dict[str, dict[str, object]]:
    """Small copies of the test sections' images for drawing maps, made once for all runs."""
    copies: dict[str, dict[str, object]] = {}
    for slide in data.slides:
        source = slide.patch_source
        if source is None or isinstance(source, StoredPatches):
            continue  # stored patches show no section as a whole
        name = image_file(job.source.test_dataset.card.name, slide.name, source.image_hash)
        path = job.run.results / name
        scale = path.with_suffix(".json")
        if not (path.is_file() and scale.is_file()):
            image, of_pixel = thumbnail(
                source.image, source.max_image_pixels, _IMAGE_SIDE, source.image_hash
            )
            with atomic_write(path) as temporary:
                image.save(temporary, format="JPEG", quality=85)
            write_record(scale, {"scale": of_pixel * source.image_scale})
        copies[slide.name] = {"file": name.as_posix(), **read_record(scale)}
    return copies
