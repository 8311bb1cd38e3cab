"""A method under check, with a fit that most checks share."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.contract.outcome import ContractError, NotApplicableError
from bench.contract.small_fold import as_slide, copied, first_spots, small_fold
from bench.data.inputs import Slide, TrainingData
from bench.method import Context, Method, MethodConfig

if TYPE_CHECKING:
    from bench.execute.executors.base import JobWatcher

DATASET = "small-fold"
SEED = 1


@dataclass(frozen=True)
class Fitted:
    """A fit of the small fold.

    Attributes
    ----------
    method
        The fitted method.
    context
        Surroundings of its fit, with what the training helper wrote there.
    predictions
        What it then predicted of :attr:`Subject.slides`.
    """

    method: Method
    context: Context
    predictions: list[np.ndarray]


class Subject:
    """A method under check.

    Parameters
    ----------
    kind
        Class of the method.
    folder
        Folder for all files written by the checks.
    module
        Module that an import of the method begins with; that of `kind` where None.
    jobs
        Opens a watcher of the run on the demo.
    reference
        What a request calls the method; its name where None.
    settings
        Settings that differ from those of every preset.
    """

    def __init__(
        self,
        kind: type[Method],
        folder: Path,
        module: str | None = None,
        jobs: Callable[[], AbstractContextManager[JobWatcher | None]] = nullcontext,
        reference: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind = kind
        self.reference = reference or kind.name
        self.settings = dict(settings or {})
        self.folder = folder
        self.module = module or kind.__module__
        self.jobs = jobs

    @property
    def preset(self) -> str:
        """The smallest preset there is."""
        return next((name for name in ("tiny", "quick") if name in self.kind.presets), "authors")

    def configured(self, changes: Mapping[str, Any] | None = None) -> MethodConfig:
        """Settings that fit the small fold."""
        return self.kind.configure(DATASET, self.preset, {**self.settings, **(changes or {})})

    @cached_property
    def _data(self) -> TrainingData:
        return small_fold(self.folder / "fold")

    def data(self, *, writeable: bool = True) -> TrainingData:
        """Small fold with new arrays, so that changes by one check do not affect another."""
        return TrainingData(
            self._data.panel,
            tuple(copied(section, writeable=writeable) for section in self._data.train),
            tuple(copied(section, writeable=writeable) for section in self._data.validation),
        )

    def slides(self, *, writeable: bool = True) -> tuple[Slide, Slide]:
        """Two slides of different length, with new arrays."""
        whole = as_slide(self._data.validation[0])
        part = first_spots(as_slide(self._data.train[0]), 7)
        return copied(whole, writeable=writeable), copied(part, writeable=writeable)

    @cached_property
    def _first(self) -> Fitted | Exception | SystemExit:
        try:
            config = self.configured()
            with self.surroundings():
                method, context = self.kind(config), Context(seed=SEED)
                method.fit(self.data(), context)
                predictions = method.predict(self.slides(), Context(seed=SEED))
            check_predictions(predictions, self.slides(), self._data.panel)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - kept for the check whose result it is
            return error
        return Fitted(method, context, list(predictions))

    def first(self) -> Fitted:
        """The fit that checks share; whatever went wrong in it is raised."""
        if not isinstance(self._first, Fitted):
            raise self._first
        return self._first

    @property
    def fitted(self) -> Fitted:
        """The fit that checks share.

        Raises
        ------
        NotApplicableError
            It failed, which is the result of another check.
        """
        if not isinstance(self._first, Fitted):
            raise NotApplicableError("needs a method that fits and predicts the small fold")
        return self._first

    def fit(
        self,
        data: TrainingData | None = None,
        *,
        config: MethodConfig | None = None,
        device: str = "cpu",
        state: int = 0,
    ) -> Method:
        """Separate fit, by default of the small fold.

        Parameters
        ----------
        data, config, device
            Passed on.
        state
            Seed of the global random generators.

        Raises
        ------
        NotApplicableError
            The shared fit failed, so that this one gives no further information.
        """
        shared = self.fitted
        method = self.kind(config or shared.method.config)
        data = data or self.data()
        with self.surroundings(state, device):
            method.fit(data, Context(seed=SEED, device=device))
        return method

    def predict(
        self,
        method: Method,
        *slides: Slide,
        panel: Sequence[str] = (),
        device: str = "cpu",
        state: int = 0,
    ) -> list[np.ndarray]:
        """Predictions of `slides` for `panel`; of :meth:`slides`, for their panel, without any.

        Raises
        ------
        ContractError
            The predictions are invalid; see :func:`check_predictions`.
        """
        chosen = slides or self.slides()
        with self.surroundings(state, device):
            predictions = method.predict(chosen, Context(seed=SEED, device=device))
        check_predictions(predictions, chosen, panel or self._data.panel)
        return list(predictions)

    @cached_property
    def difference_of_second_fit(self) -> str | None:
        """How another fit with the same seed differs, None where it does not."""
        return difference(self.fitted.predictions, self.predict(self.fit()))

    def needs_repeats(self) -> None:
        """Leave out a comparison of two fits where no two fits agree.

        Raises
        ------
        NotApplicableError
            The same seed gives other bits, which is the result of another check.
        """
        try:
            differs = self.difference_of_second_fit is not None
        except Exception:  # noqa: BLE001 - told by the check that the second fit belongs to
            differs = True
        if differs:
            raise NotApplicableError("needs a method that repeats itself")

    @contextmanager
    def surroundings(self, state: int = 0, device: str = "cpu") -> Iterator[None]:
        """Global generators in a known state, and a cache folder that nobody else uses.

        Each device has its own folder, because cached results of one must not be used for another.
        """
        import torch

        random.seed(state)
        np.random.seed(state)  # noqa: NPY002 - the very state that must not matter
        torch.manual_seed(state)
        before = os.environ.get("SPOTBENCH_CACHE")
        os.environ["SPOTBENCH_CACHE"] = str(self.folder / f"cache-{device}")
        try:
            yield
        finally:
            if before is None:
                del os.environ["SPOTBENCH_CACHE"]
            else:
                os.environ["SPOTBENCH_CACHE"] = before


def check_predictions(predictions: Any, slides: Sequence[Slide], panel: Sequence[str]) -> None:
    """Check that predictions are one finite float32 (spots, panel) array per slide.

    Raises
    ------
    ContractError
        They are not; the message describes them.
    """
    if not isinstance(predictions, list | tuple):
        raise ContractError(f"predict gave {type(predictions).__name__}, not a list of arrays")
    if len(predictions) != len(slides):
        raise ContractError(f"predict gave {len(predictions)} arrays for {len(slides)} slides")
    for slide, prediction in zip(slides, predictions, strict=True):
        if not isinstance(prediction, np.ndarray):
            raise ContractError(f"a prediction is a {type(prediction).__name__}, not an array")
        wanted = (len(slide), len(panel))
        if prediction.shape != wanted:
            raise ContractError(
                f"the prediction of {len(slide)} spots and {len(panel)} genes has shape"
                f" {prediction.shape}, not {wanted}"
            )
        if prediction.dtype != np.float32:
            raise ContractError(f"a prediction is {prediction.dtype}, not float32")
        broken = int((~np.isfinite(prediction)).sum())
        if broken:
            raise ContractError(f"{broken} of {prediction.size} predicted values are not finite")


def difference(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> str | None:
    """How two lists of predictions differ, None where every bit is the same."""
    if all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True)):
        return None
    largest = max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))
    return f"by up to {largest:.2g}"
