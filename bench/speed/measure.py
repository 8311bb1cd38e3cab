"""Speed of a method: the harness, the ceiling and the plain loop by turns on one machine."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from bench.blocks.precision import unplace
from bench.cache import cache_folder
from bench.method import Context, Method, MethodConfig, Precision
from bench.speed.calls import NetworkCalls
from bench.speed.fold import SpeedFold
from bench.speed.machine import Stopwatch, ratios, spread
from bench.speed.reference import NoReferenceError, reference_batches
from bench.speed.steps import (
    Batch,
    NoTrainingError,
    images_in,
    optimizer_of,
    random_batch,
    step,
    to_device,
    training_parts,
    unaugmented,
    unlogged,
)
from bench.training.fitting import seed_batch
from bench.worker.memory import peak_device_memory_mb, peak_memory_mb, reset_peak_memory

_Loop = Iterator[tuple[int, torch.Tensor]]
_CACHE = "SPOTBENCH_CACHE"
_MANY = 1_000_000
"""Epochs: a fit is ended when enough has been seen of it."""


@dataclass(frozen=True)
class SpeedRequest:
    """How to measure.

    Attributes
    ----------
    device
        ``cpu``, ``cuda`` or ``mps``.
    warm_up
        Steps of training before the first that counts.
    steps
        Steps of training in one measurement of one variant.
    repeats
        Measurements of each variant.
    seconds
        No further round of measurements begins after so long, in each of training and prediction.
    precision
        ``float32`` or ``bf16``, of image encoders; the plain loop stays in float32.
    compile
        Whether image encoders are compiled in training; in the plain loop they are not.
    reference
        Whether the plain loop is measured.
    trajectory
        Steps whose losses are compared between harness and plain loop; none where 0.
    seed
        Of weights and batches.
    """

    device: str = "cpu"
    warm_up: int = 2
    steps: int = 2
    repeats: int = 3
    seconds: float = 120.0
    precision: Precision = "float32"
    compile: bool = False
    reference: bool = True
    trajectory: int = 0
    seed: int = 0

    def context(self, precision: Precision | None = None) -> Context:
        """Surroundings of a fit or a prediction, in another precision where one is named."""
        return Context(seed=self.seed, device=self.device, precision=precision or self.precision)


@dataclass
class _Variant:
    """One way to train, or to predict, and how fast it was each time."""

    name: str
    run: Callable[[], int]
    """Does one measurement's worth of work; returns how many images that was."""
    rates: list[float] = field(default_factory=list)

    def measure(self, device: str) -> None:
        watch = Stopwatch(device)
        images = self.run()
        self.rates.append(images / watch.seconds())


def measure_method(
    kind: type[Method],
    config: MethodConfig,
    fold: SpeedFold,
    request: SpeedRequest,
    progress: Callable[[str], None],
    plain: MethodConfig | None = None,
) -> dict[str, Any]:
    """Images a second of a method, in training and in prediction.

    Parameters
    ----------
    kind, config
        The method and its settings; how long it trains is not taken from them.
    fold
        What it is trained on and what it predicts.
    request
        How to measure.
    progress
        Told what is being done.
    plain
        Settings of the plain loop where they differ; losses are compared under `config`.

    Returns
    -------
    dict
        ``training`` and ``prediction``, each with ``end_to_end``, ``ceiling`` and where there is
        one ``reference`` (``images_per_second``), with the ratios of the first to the others and
        the peak memory of the first; ``notes`` on what could not be measured.

    Raises
    ------
    BenchError
        The method cannot be fitted or cannot predict.
    """
    if "epochs" in type(config).model_fields:
        config = config.model_copy(update={"epochs": _MANY})
    found: dict[str, Any] = {
        "method": kind.name,
        "settings": config.model_dump(mode="json", exclude={"epochs"}),
        "plain_settings": (plain or config).model_dump(mode="json", exclude={"epochs"}),
        "notes": [],
    }
    method = kind(config)
    with _own_cache():
        progress(f"{kind.name}: training")
        found["training"] = _training(method, kind(plain or config), fold, request, found["notes"])
        if request.trajectory and found["training"] is not None:
            progress(f"{kind.name}: losses of the first steps")
            try:
                found["trajectory"] = loss_trajectories(kind, config, fold, request)
            except NoReferenceError as reason:
                found["notes"].append(f"no losses to compare: {reason}")
        progress(f"{kind.name}: prediction")
        found["prediction"] = _prediction(method, fold, request)
    return found


@contextmanager
def _own_cache() -> Iterator[None]:
    """Keep patches of a part of a fold, and features of random weights, out of the user's cache."""
    users = os.environ.get(_CACHE)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[_CACHE] = folder
        try:
            yield
        finally:
            del os.environ[_CACHE]
            if users is not None:
                os.environ[_CACHE] = users


def loss_trajectories(
    kind: type[Method], config: MethodConfig, fold: SpeedFold, request: SpeedRequest
) -> dict[str, Any]:
    """Losses of the first steps in float32, without random changes, from the same weights.

    The plain loop's steps are taken in the harness's memory layout here, so that what is compared
    is which spots come when, and what is done to them.

    Returns
    -------
    dict
        ``harness`` and ``reference``, a loss a step each, and the ``largest_difference`` relative
        to the reference.

    Raises
    ------
    NoReferenceError, NoTrainingError
        The method cannot be trained in the plain loop, or not at all.
    """
    watch = _Losses(request.trajectory)
    context = request.context("float32")
    context.callbacks.append(watch)
    kind(config).fit(fold.training, context)
    if not watch.losses:
        raise NoTrainingError(f"{kind.name} trains no network, or not by the training helper")
    # In another layout sums are rounded otherwise, and within a few steps it shows in the losses.
    loop = _reference_loop(kind(config), fold, request, as_released=False, augment="none")
    losses = [float(loss) for _, loss in islice(loop, len(watch.losses))]
    return {
        "harness": watch.losses,
        "reference": losses,
        "largest_difference": max(
            abs(a - b) / abs(b) for a, b in zip(watch.losses, losses, strict=True)
        ),
    }


class _Losses(Callback):
    """Loss of the first steps of a fit that makes no random changes; it then ends."""

    def __init__(self, steps: int) -> None:
        self.steps, self.losses = steps, list[float]()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unchanged = ExitStack()
        self._unchanged.enter_context(unaugmented(pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        self.losses.append(float(loss))
        trainer.should_stop = len(self.losses) >= self.steps

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unchanged.close()


def _reference_loop(
    method: Method,
    fold: SpeedFold,
    request: SpeedRequest,
    *,
    as_released: bool = True,
    augment: str | None = None,
) -> _Loop:
    """Steps of the plain loop, one a turn: number of images, and the loss.

    It keeps the harness's memory layout and kind of optimiser unless it runs as released.
    """
    module, loader = training_parts(method, fold.training, request.context("float32"))
    batches = reference_batches(loader, fold.training.sections, method.config, augment)
    module.to(request.device).train()
    optimizer = optimizer_of(module)
    if as_released:
        unplace(module)
        for group in optimizer.param_groups:
            group["fused"] = None  # torch's own choice

    def steps() -> _Loop:
        for number, batch in enumerate(batches):
            moved = to_device(batch, request.device)
            seed_batch(request.seed, *divmod(number, len(loader)))
            with unlogged(module), unaugmented(module):
                loss = step(module, optimizer, moved)
            yield images_in(batch), loss

    return steps()


class _Rounds(Callback):
    """Times steps of a fit, between them those of other variants, and ends the fit.

    Parameters
    ----------
    request
        How much of it.
    reference
        Makes the plain loop, where that can feed the method.
    """

    def __init__(self, request: SpeedRequest, reference: Callable[[], _Loop | None]) -> None:
        self.request = request
        self.own = _Variant("end_to_end", lambda: 0)
        self.others: list[_Variant] = []
        self.reference = reference
        self.memory: dict[str, float | None] = {}
        self._seen = self._images = 0
        self._largest: Batch = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._seen += 1
        self._images += images_in(batch)
        if not self._largest or images_in(batch) > images_in(self._largest):
            self._largest = batch
        timed = self._seen - self.request.warm_up
        if timed < 0 or timed % self.request.steps:
            return
        if timed == 0:
            self._end_warm_up(trainer, pl_module)
        else:
            self._end_round(trainer)
        self._images, self._watch = 0, Stopwatch(self.request.device)

    def _end_warm_up(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.memory = _peak_memory(self.request.device)
        batch = random_batch(self._largest)
        optimizer = trainer.optimizers[0]

        def ceiling(steps: int) -> int:
            with unlogged(module), unaugmented(module):
                for _ in range(steps):
                    step(module, optimizer, batch)
            return steps * images_in(batch)

        steps = self.request.steps
        ceiling(1)
        self.others = [_Variant("ceiling", lambda: ceiling(steps))]
        loop = self.reference()  # only now, so that its network is not in the harness's peak
        if loop is not None:
            next(loop)
            images = (count for count, _ in loop)
            self.others.append(_Variant("reference", lambda: sum(islice(images, steps))))

    def _end_round(self, trainer: pl.Trainer) -> None:
        self.own.rates.append(self._images / self._watch.seconds())
        for variant in self.others:
            variant.measure(self.request.device)
        late = time.perf_counter() - self._began > self.request.seconds
        trainer.should_stop = late or len(self.own.rates) >= self.request.repeats


def _training(
    method: Method, plain: Method, fold: SpeedFold, request: SpeedRequest, notes: list[str]
) -> dict[str, Any] | None:
    """Fit the method for a while; None where it trains no network."""

    def reference() -> _Loop | None:
        if not request.reference:
            return None
        try:
            return _reference_loop(plain, fold, request)
        except NoReferenceError as reason:
            notes.append(f"no plain loop: {reason}")
            return None

    rounds = _Rounds(request, reference)
    context = request.context()
    context.compile = request.compile
    context.callbacks.append(rounds)
    reset_peak_memory(request.device)
    method.fit(fold.training, context)
    if not rounds.own.rates:
        notes.append("no training: the method trains no network, or not by the training helper")
        return None
    return _summary([rounds.own, *rounds.others], rounds.memory)


def _prediction(method: Method, fold: SpeedFold, request: SpeedRequest) -> dict[str, Any]:
    """Predict the slide again and again; called where the cache is the measurement's own."""
    context = request.context()
    calls = NetworkCalls()
    with calls.recorded():
        method.predict([fold.slide], context)

    def forget() -> None:
        # Else a frozen encoder would run once and be found in the cache ever after.
        shutil.rmtree(cache_folder() / "features", ignore_errors=True)

    def whole() -> int:
        method.predict([fold.slide], context)
        return len(fold.slide)

    def network() -> int:
        calls.replay()
        return len(fold.slide)

    forget()
    gc.collect()  # networks of the training's variants, which trainers hold in cycles
    reset_peak_memory(request.device)
    whole()
    memory = _peak_memory(request.device)
    variants = [_Variant("end_to_end", whole)]
    if len(calls):
        network()
        variants.append(_Variant("ceiling", network))
    began = time.perf_counter()
    for _ in range(request.repeats):
        for variant in variants:
            forget()
            variant.measure(request.device)
        if time.perf_counter() - began > request.seconds:
            break
    return _summary(variants, memory)


def _summary(variants: list[_Variant], memory: dict[str, float | None]) -> dict[str, Any]:
    found: dict[str, Any] = {v.name: {"images_per_second": spread(v.rates)} for v in variants}
    for other in variants[1:]:
        found[f"ratio_to_{other.name}"] = ratios(variants[0].rates, other.rates)
    return {**found, **memory}


def _peak_memory(device: str) -> dict[str, float | None]:
    return {
        "peak_memory_mb": peak_memory_mb(),
        "peak_device_memory_mb": peak_device_memory_mb(device),
    }
