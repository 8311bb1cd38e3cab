"""Fit and prediction in this process, for debugging (``--isolation none``)."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from bench.data.images.patches import Resampling
from bench.errors import BenchError
from bench.execute.inputs import FoldInputs
from bench.files import one_line
from bench.registry import load_method
from bench.worker.fitting import fit_and_predict
from bench.worker.handover import map_array, take_over
from bench.worker.process import Answer, WorkerFailedError, WorkerRefusedError
from bench.worker.task import TrialEndedError, read_task


class InProcess:
    """Worker without a process of its own; it has the methods of a worker.

    Parameters
    ----------
    text
        The task as JSON.
    inputs
        Data of the fold.
    answer
        Answers questions.
    """

    waits_on: tuple[Any, ...] = ()
    seconds_left: float | None = 0.0

    def __init__(self, text: str, inputs: FoldInputs, answer: Answer) -> None:
        self._task = read_task(text)
        self._inputs = inputs
        self._answer = answer
        self._error: Exception | None = None
        self._result: dict[str, Any] = {}

    def step(self) -> bool:
        """Fit and predict."""
        try:
            training, slides = take_over(self._inputs.handed_over, self, images=self._task.images)
            kind = load_method(self._task.method)
            report = fit_and_predict(self._task, kind, training, slides, self)
            self._result = vars(report)
        except TrialEndedError:
            self._result = {}
        except BenchError as error:
            self._error = WorkerRefusedError(error)
        except Exception as error:  # noqa: BLE001 - a method may fail in any way
            reason = f"{type(error).__name__}: {one_line(error, 400)}"
            self._error = WorkerFailedError(reason, traceback.format_exc())
        return True

    def result(self) -> dict[str, Any]:
        """Report of the task; raises the same errors as a worker's ``result``."""
        if self._error is not None:
            raise self._error
        return self._result

    def end(self) -> None:
        """Do nothing: there is no process to end."""

    def progress(self, done: int, total: int, note: str) -> None:
        """Report the progress of the fit."""
        self._answer({"kind": "progress", "done": done, "total": total, "note": note})

    def ask(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Send a question and return the answer."""
        answer: Mapping[str, Any] | None = self._answer({"kind": kind, **facts})
        return dict(answer or {})

    def cut(self, number: int, size: int, pixels: int | None, resampling: Resampling) -> Any:
        """Patches of a section."""
        return map_array(self._inputs.patches(number, size, pixels, resampling))

    def cut_once(
        self, number: int, spots: range, size: int, pixels: int | None, resampling: Resampling
    ) -> Any:
        """Patches of a few spots, which are not kept."""
        return self._inputs.source_of(number).cut_once(spots, size, pixels, resampling)

    def extent(self, number: int) -> tuple[float, float]:
        """Width and height of the image of a section."""
        return self._inputs.source_of(number).extent()

    def features(self, number: int) -> Any:
        """Features of a section that the user has brought along."""
        return map_array(self._inputs.features(number, self._task.configs[0].get("features")))
