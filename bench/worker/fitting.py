"""A fit and the predictions after it, as a worker does them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.data.inputs import Slide, TrainingData
from bench.files import one_line
from bench.method import Context, Method
from bench.worker.memory import peak_device_memory_mb, peak_memory_mb, reset_peak_memory
from bench.worker.shuffling import ShuffledSlide, check_shuffled, shuffled_slides
from bench.worker.task import (
    MODEL,
    FitReport,
    FitTask,
    TrialEndedError,
    checked_predictions,
    prediction_file,
)


class Harness(Protocol):
    """What a fit can say to the harness."""

    def progress(self, done: int, total: int, note: str) -> None:
        """Say how far the fit has come."""

    def ask(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Ask something and wait for the answer."""


def fit_and_predict(
    task: FitTask,
    kind: type[Method],
    training: TrainingData,
    slides: Sequence[Slide],
    harness: Harness,
) -> FitReport:
    """Fit, predict and save as a task says; the work of a worker.

    Raises
    ------
    BenchError
        What the method refuses, or a permuted-image control whose images were not permuted.
    TrainingError
        It predicted something that is no prediction.
    """
    out = Path(task.out)
    context = Context(
        seed=task.seed,
        device=task.device,
        precision=task.precision,
        compile=task.compile,
        scratch=Path(task.scratch) if task.scratch else None,
        progress=harness.progress,
    )
    shuffled: list[ShuffledSlide] = []
    if task.shuffled is not None:
        slides = shuffled = shuffled_slides(slides, task.shuffled)
    configs = [kind.Config.model_validate(config) for config in task.configs]
    panel = training.panel
    # Whatever a method draws from follows from the seed.
    random.seed(task.seed)
    np.random.seed(task.seed % 2**32)  # noqa: NPY002
    reset_peak_memory(task.device)
    started = time.perf_counter()
    if task.fitted is not None:
        method: Method = kind.load(Path(task.fitted), configs[0])
    elif task.checkpoint is not None:
        method = kind.from_released(Path(task.checkpoint), configs[0], training, context)
    else:
        method = kind(configs[0])
        if task.looks:
            context.inspector = _Look(task, method, slides, panel, context, harness)
        method.fit(training, context)
    fitted = time.perf_counter()
    if len(configs) == 1:
        each = iter([method.predict(slides, context)])
    else:
        each = method.predict_each(slides, context, configs)
    for number, predictions in enumerate(each):
        _write(out, 0, number, checked_predictions(kind.name, slides, panel, predictions))
    predicted = time.perf_counter()
    check_shuffled(shuffled, kind.name)
    if task.save:
        (out / MODEL).mkdir()
        method.save(out / MODEL)
    return FitReport(
        fit_seconds=fitted - started,
        predict_seconds=predicted - fitted,
        device=context.device,
        curves=context.curves,
        notes=[one_line(note, 1000) for note in context.notes],
        peak_memory_mb=peak_memory_mb(),
        peak_device_memory_mb=peak_device_memory_mb(context.device),
    )


def _write(out: Path, look: int, config: int, predictions: Sequence[np.ndarray]) -> None:
    for number, values in enumerate(predictions):
        np.save(out / prediction_file(look, config, number), values, allow_pickle=False)


class _Look:
    """Sends predictions made during training; the harness decides whether to continue."""

    def __init__(
        self,
        task: FitTask,
        method: Method,
        slides: Sequence[Slide],
        panel: Sequence[str],
        context: Context,
        harness: Harness,
    ) -> None:
        self._task, self._method, self._slides = task, method, slides
        self._panel, self._context, self._harness = panel, context, harness

    def _epochs(self, total: int) -> list[int]:
        return [max(1, math.ceil(share * total)) for share in self._task.looks]

    def wants(self, done: int, total: int) -> bool:
        """Whether `done` is one of the chosen shares of all epochs."""
        return done in self._epochs(total)

    def __call__(self, done: int, total: int) -> None:
        look = self._epochs(total).index(done) + 1
        predictions = self._method.predict(self._slides, self._context)
        name = self._method.name
        checked = checked_predictions(name, self._slides, self._panel, predictions)
        _write(Path(self._task.out), look, 0, checked)
        if not self._harness.ask("look", look=look)["go_on"]:
            raise TrialEndedError
