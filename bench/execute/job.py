"""One job: fit on a fold's training data, predict its slides, score, store."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.data.images.image import thumbnail
from bench.data.views import Slide
from bench.errors import TrainingError
from bench.evaluate.oracles import ORACLES
from bench.execute.environment import available_devices, choose_precision
from bench.execute.plan import Job
from bench.execute.scoring import Reference, as_anndata, reference, score_fold
from bench.files import atomic_write, write_json
from bench.method import Context, Method, Precision, Progress
from bench.protocol.fold_data import FoldData, fold_data
from bench.registry import method_class
from bench.store import MODEL, FoldFolder, image_file, read_record


def run_fold(job: Job, progress: Progress | None = None) -> None:
    """Do one job and leave its result in the fold's folder, manifest last.

    Raises
    ------
    BenchError
        The request cannot be met (data, weights, settings).
    TrainingError
        The method diverged or predicted something that is not a prediction.
    OSError
        The results folder cannot be written.
    """
    folder = job.run.fold(job.fold)
    folder.clear()
    context = Context(
        seed=job.seed,
        device=device_of(job),
        precision=precision_of(job),
        compile=job.compile,
        scratch=folder.scratch,
    )
    if progress is not None:
        context.progress = progress
    reset_peak_memory(context.device)
    clock = _Clock()
    data, references = _data_of(job)
    clock.mark("data_seconds")

    method = None
    if job.entrant.method is None:
        oracle = ORACLES[job.entrant.label]
        genes = len(data.training.panel)
        predictions = [oracle(truth.totals, genes) for truth in data.truth]
    else:
        folder.scratch.mkdir(exist_ok=True)
        method = _fitted(job, data, context)
        clock.mark("fit_seconds")
        slides: Sequence[Slide] = data.slides
        if job.entrant.shuffled:
            slides = [
                slide.with_images_shuffled(job.seed + number) for number, slide in enumerate(slides)
            ]
        predictions = method.predict(slides, context)
        check_predictions(job.entrant.label, data, predictions)
    clock.mark("predict_seconds")

    scores, gene_scores = score_fold(
        job.entrant.label,
        job.fold,
        data,
        references,
        predictions,
        scale_free=job.entrant.method is None,
    )
    clock.mark("score_seconds")
    folder.write_table("scores.parquet", scores)
    folder.write_table("genes.parquet", gene_scores)
    folder.write_table("curves.parquet", pd.DataFrame(context.curves))
    with atomic_write(folder.path / "predictions.h5ad") as temporary:
        as_anndata(data, predictions).write_h5ad(temporary, compression="lzf")
    if method is not None and not job.entrant.shuffled:
        (folder.path / MODEL).mkdir(exist_ok=True)
        method.save(folder.path / MODEL)
    clock.mark("store_seconds")
    write_json(
        folder.path / "fold.json",
        {
            "fold": job.fold,
            "train": job.folds.folds[job.fold].train,
            "validation": job.folds.folds[job.fold].validation,
            "test": job.folds.folds[job.fold].test,
            "panel": data.training.panel,
            "unmeasured_genes": dict(data.unmeasured_genes),
            "dropped_spots": dict(data.dropped_spots),
            "notes": context.notes,
            "images": _small_images(job, data),
            "device": context.device,
            "precision": context.precision,
            "timings": clock.seconds,
            "peak_memory_mb": peak_memory_mb(),
            "peak_device_memory_mb": peak_device_memory_mb(context.device),
            "machine": {"platform": platform.platform(), "python": platform.python_version()},
        },
    )
    folder.finish()


def _small_images(job: Job, data: FoldData) -> dict[str, dict[str, object]]:
    """Small copies of the test sections' images, made once for all runs; what maps are drawn on."""
    found: dict[str, dict[str, object]] = {}
    for slide in data.slides:
        source = slide.patch_source
        if source is None:
            continue
        name = image_file(job.dataset.card.name, slide.name, source.image_hash)
        path = job.run.results / name
        scale = path.with_suffix(".json")
        if not (path.is_file() and scale.is_file()):
            image, of_pixel = thumbnail(
                source.image, source.max_image_pixels, _IMAGE_SIDE, source.image_hash
            )
            with atomic_write(path) as temporary:
                image.save(temporary, format="JPEG", quality=85)
            write_json(scale, {"scale": of_pixel * source.image_scale})
        found[slide.name] = {"file": name.as_posix(), **read_record(scale)}
    return found


_IMAGE_SIDE = 1000


def device_of(job: Job) -> str:
    """Device a job runs on: of its own accord only what looks at images takes a fast one."""
    if job.device != "auto":
        return job.device
    method = job.entrant.method
    wanted = method is not None and method_class(method).needs_image
    return available_devices()[0] if wanted else "cpu"


def precision_of(job: Job) -> Precision:
    """Precision a job's image encoders compute in."""
    return choose_precision(job.precision, device_of(job))


def _fitted(job: Job, data: FoldData, context: Context) -> Method:
    kind = method_class(str(job.entrant.method))
    if job.twin is not None:
        # The twin differs in its test images alone: a finished fit of the same fold is the same.
        fitted: FoldFolder = job.twin.fold(job.fold)
        if fitted.is_done():
            return kind.load(fitted.path / MODEL, job.entrant.config)
    if job.entrant.checkpoint is not None:
        return kind.from_released(
            job.entrant.checkpoint, job.entrant.config, data.training, context
        )
    method = kind(job.entrant.config)
    method.fit(data.training, context)
    return method


def check_predictions(label: str, data: FoldData, predictions: Sequence[np.ndarray]) -> None:
    """Refuse what is not one finite (spots, panel) array a slide.

    Raises
    ------
    TrainingError
        Naming method, section and, for a value that is not finite, the gene.
    """
    if len(predictions) != len(data.slides):
        raise TrainingError(
            f"{label} gave {len(predictions)} predictions for {len(data.slides)} slides"
        )
    panel = data.training.panel
    for slide, prediction in zip(data.slides, predictions, strict=True):
        wanted = (len(slide), len(panel))
        if not isinstance(prediction, np.ndarray) or prediction.shape != wanted:
            shape = getattr(prediction, "shape", type(prediction).__name__)
            raise TrainingError(f"{label}, section {slide.name}: predicted {shape}, not {wanted}")
        broken = ~np.isfinite(prediction).all(axis=0)
        if broken.any():
            gene = panel[int(np.argmax(broken))]
            raise TrainingError(
                f"{label}, section {slide.name}: prediction of gene {gene} is not finite"
            )


_latest: tuple[tuple[str, str, str, int], FoldData, list[Reference]] | None = None


def _data_of(job: Job) -> tuple[FoldData, list[Reference]]:
    """Data of a job's fold; the last one made is kept for the next method on the same fold."""
    global _latest
    key = (job.dataset.hash, job.protocol.hash, job.folds.hash, job.fold)
    if _latest is None or _latest[0] != key:
        _latest = None  # frees the old fold before the new one is read
        fold = job.folds.folds[job.fold]
        sections = {
            name: job.dataset.section(name) for name in (*fold.train, *fold.validation, *fold.test)
        }
        data = fold_data(fold, sections, job.protocol, job.listed_panel)
        _latest = (key, data, [reference(truth, job.protocol) for truth in data.truth])
    return _latest[1], _latest[2]


class _Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        """Book the time since the last mark under `name`."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 4)
        self._last = now


def reset_peak_memory(device: str) -> None:
    """Start counting anew, where the system lets us: Linux for the process, CUDA for the GPU."""
    try:
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
    except OSError:
        return
    finally:
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process since the last reset, in MB; None on Windows."""
    try:
        with open("/proc/self/status") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return None
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def peak_device_memory_mb(device: str) -> float | None:
    """Largest GPU memory allocated since the last reset, in MB."""
    if device != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated() / (1 << 20)
