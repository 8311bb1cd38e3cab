"""What a worker is asked to do, and what it answers: JSON both ways, no pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bench.data.inputs import Slide
from bench.errors import TrainingError
from bench.method import Precision

MODEL = "model"
"""Folder of the fitted model in a task's folder."""


class TrialEndedError(BaseException):
    """The harness wants no more of this fit; no method's ``except Exception`` stops it."""


@dataclass(frozen=True)
class FitTask:
    """One fit and the predictions after it.

    Attributes
    ----------
    method
        Name of the method, or a reference to one; see :mod:`bench.method_references`.
    configs
        Settings; the method is fitted under the first and predicts under each.
    inputs
        Folder that :func:`bench.worker.handover.hand_over` wrote.
    images
        Whether the method uses images.
    out
        Existing folder for predictions and model.
    scratch
        Folder for training checkpoints, None if an interrupted fit starts again.
    seed, device, precision, compile
        See :class:`bench.method.Context`.
    checkpoint
        Authors' checkpoint that takes the place of a fit.
    fitted
        Folder of a fitted model that takes the place of a fit.
    shuffled
        Seed of the permuted-image control, None where images stay with their spots.
    save
        Whether to save the model.
    looks
        Shares of the epochs after which predictions are sent, for a tuning trial.
    """

    method: str
    configs: tuple[dict[str, Any], ...]
    inputs: str
    images: bool
    out: str
    seed: int
    device: str
    precision: Precision
    scratch: str | None = None
    compile: bool = False
    checkpoint: str | None = None
    fitted: str | None = None
    shuffled: int | None = None
    save: bool = True
    looks: tuple[float, ...] = ()


@dataclass(frozen=True)
class FitReport:
    """What a worker says of a fit that came to its end.

    Attributes
    ----------
    fit_seconds, predict_seconds
        Time of the two.
    device
        Device that was used.
    curves, notes
        See :class:`bench.method.Context`.
    peak_memory_mb, peak_device_memory_mb
        Largest memory of the process and of the GPU; None where the system does not tell.
    """

    fit_seconds: float
    predict_seconds: float
    device: str
    curves: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    peak_memory_mb: float | None = None
    peak_device_memory_mb: float | None = None


def task_text(task: FitTask) -> str:
    """A task as JSON."""
    return json.dumps(asdict(task))


def read_task(text: str) -> FitTask:
    """The task of :func:`task_text`."""
    fields = json.loads(text)
    for name in ("configs", "looks"):
        fields[name] = tuple(fields[name])
    return FitTask(**fields)


def prediction_file(look: int, config: int, slide: int) -> str:
    """Name of a file of predictions; `look` is 0 for the final ones."""
    return f"predictions-{look}-{config}-{slide}.npy"


def checked_predictions(
    label: str, slides: Sequence[Slide], panel: Sequence[str], predictions: Any
) -> list[np.ndarray]:
    """Predictions as one finite float32 (spots, panel) array a slide.

    Raises
    ------
    TrainingError
        They are something else; it names method, section and, for a value that is not finite,
        the gene.
    """
    if not isinstance(predictions, list | tuple):
        raise TrainingError(f"{label} predicted {type(predictions).__name__}, not a list of arrays")
    if len(predictions) != len(slides):
        raise TrainingError(f"{label} gave {len(predictions)} predictions for {len(slides)} slides")
    checked = []
    for slide, prediction in zip(slides, predictions, strict=True):
        where, wanted = f"{label}, section {slide.name}", (len(slide), len(panel))
        if not isinstance(prediction, np.ndarray) or prediction.shape != wanted:
            shape = getattr(prediction, "shape", type(prediction).__name__)
            raise TrainingError(f"{where}: predicted {shape}, not {wanted}")
        if isinstance(prediction, np.ma.MaskedArray) or prediction.dtype.kind not in "fiu":
            kind = "masked" if isinstance(prediction, np.ma.MaskedArray) else prediction.dtype
            raise TrainingError(f"{where}: predicted {kind} values, not real numbers")
        with np.errstate(over="ignore"):
            values = np.asarray(prediction, dtype=np.float32)
        broken = ~np.isfinite(values).all(axis=0)
        if broken.any():
            gene = panel[int(np.argmax(broken))]
            raise TrainingError(f"{where}: prediction of gene {gene} is not finite")
        checked.append(values)
    return checked
