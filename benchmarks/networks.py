"""Training and prediction by the harness, against the network alone and the plain loop."""

from __future__ import annotations

import gc
import inspect
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bench.blocks.precision import reset
from bench.cache import cache_folder
from bench.data.inputs import TrainingData
from bench.method import Context, Method, Precision
from bench.training.fitting import seed_batch
from bench.worker.memory import peak_device_memory_mb, peak_memory_mb, reset_peak_memory
from benchmarks.fold import SpeedFold
from benchmarks.plain_loop import NoPlainLoopError, plain_batches
from benchmarks.timing import seconds_of, summary, synchronize

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Measurement:
    """How to measure; the plain loop is never compiled and stays in float32."""

    device: str
    warm_up: int
    """Training steps before the first round."""
    steps: int
    """Training steps a round."""
    repeats: int
    seconds: float
    """No round begins after so long."""
    precision: Precision
    compile: bool

    def context(self, precision: Precision) -> Context:
        """Context of a fit or a prediction."""
        return Context(seed=0, device=self.device, precision=precision)


class _Ended(Exception):  # noqa: N818 - ends a fit that has shown what was asked for
    """The fit has reached its first batch."""


class _Parts(Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.module = pl_module
        self.loader: Any = trainer.train_dataloader
        raise _Ended


def training_parts(
    method: Method, data: TrainingData, context: Context
) -> tuple[pl.LightningModule, DataLoader[Any]]:
    """Untrained module and training batches of a method that trains a network."""
    parts = _Parts()
    context.callbacks.append(parts)
    try:
        method.fit(data, context)
    except _Ended:
        context.callbacks.remove(parts)
        return parts.module, parts.loader
    raise AssertionError(f"{method.name} trains no network")


@contextmanager
def bare(module: pl.LightningModule) -> Iterator[None]:
    """Let a training step be called outside of a trainer: no logging, no augmentation."""

    def nothing(*_: Any, **__: Any) -> None:
        """Takes what a step logs."""

    with ExitStack() as patched:
        for name in ("log", "log_dict"):
            patched.enter_context(patch.object(module, name, nothing))
        if (change := getattr(module, "augment", None)) is not None:
            # torch takes modules for modules alone.
            same = nn.Identity() if isinstance(change, nn.Module) else lambda patches: patches
            patched.enter_context(patch.object(module, "augment", same))
        yield


def step(module: pl.LightningModule, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Forward, backward and one step of the optimiser."""
    optimizer.zero_grad()
    arguments = (batch, 0)[: len(inspect.signature(module.training_step).parameters)]
    found: Any = module.training_step(*arguments)
    (found["loss"] if isinstance(found, Mapping) else found).backward()
    optimizer.step()


def plain_steps(method: Method, fold: SpeedFold, measurement: Measurement) -> Iterator[int]:
    """Steps of the plain loop, one a turn; yields their numbers of images."""
    module, loader = training_parts(method, fold.training, measurement.context("float32"))
    batches = plain_batches(loader, fold.training.sections, method.config)
    module.to(measurement.device).train()
    reset(module)
    made: Any = module.configure_optimizers()
    while not isinstance(made, torch.optim.Optimizer):
        made = made["optimizer"] if isinstance(made, dict) else made[0]
    for group in made.param_groups:
        group["fused"] = None  # torch's own choice

    def steps() -> Iterator[int]:
        for number, batch in enumerate(batches):
            seed_batch(0, *divmod(number, len(loader)))
            with bare(module):
                step(module, made, {k: v.to(measurement.device) for k, v in batch.items()})
            yield _images_in(batch)

    return steps()


@dataclass
class _Rounds(Callback):
    """Times steps of a fit and, between them, those of the other variants; then ends the fit."""

    measurement: Measurement
    plain: Callable[[], Iterator[int] | None]
    rates: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float | None] = field(default_factory=dict)
    _seen: int = 0
    _images: int = 0
    _began: float = 0.0
    _start: float = 0.0
    _largest: Batch = field(default_factory=dict)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._seen += 1
        self._images += _images_in(batch)
        if not self._largest or _images_in(batch) > _images_in(self._largest):
            self._largest = batch
        timed = self._seen - self.measurement.warm_up
        if timed < 0 or timed % self.measurement.steps:
            return
        synchronize(self.measurement.device)
        now = time.perf_counter()
        if timed == 0:
            self._began = now
            self._prepare(trainer, pl_module)
        else:
            self.rates["harness"].append(self._images / (now - self._start))
            for name, work in self._others.items():
                _measure(self.rates[name], work, self.measurement.device)
            late = time.perf_counter() - self._began > self.measurement.seconds
            trainer.should_stop = late or len(self.rates["harness"]) >= self.measurement.repeats
        self._images, self._start = 0, time.perf_counter()

    def _prepare(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.memory = _peak_memory(self.measurement.device)
        steps, optimizer = self.measurement.steps, trainer.optimizers[0]
        batch = {
            name: torch.randint_like(value, 256) if name == "patches" else value
            for name, value in self._largest.items()
        }

        def ceiling() -> int:
            with bare(module):
                for _ in range(steps):
                    step(module, optimizer, batch)
            return steps * _images_in(batch)

        ceiling()
        self._others = {"ceiling": ceiling}
        loop = self.plain()  # only now, so that its network is not in the harness's peak memory
        if loop is not None:
            next(loop)
            self._others["plain"] = lambda: sum(islice(loop, steps))
        self.rates = {name: [] for name in ("harness", *self._others)}


def measure_training(
    method: Method, plain: Method, fold: SpeedFold, measurement: Measurement, notes: list[str]
) -> dict[str, Any] | None:
    """Images per second of ``harness``, ``ceiling`` and ``plain``, with ratios and peak memory.

    None where the method trains no network; `notes` gets what could not be measured.
    """

    def plain_loop() -> Iterator[int] | None:
        try:
            return plain_steps(plain, fold, measurement)
        except NoPlainLoopError as reason:
            notes.append(f"no plain loop: {reason}")
            return None

    rounds = _Rounds(measurement, plain_loop)
    context = measurement.context(measurement.precision)
    context.compile = measurement.compile
    context.callbacks.append(rounds)
    reset_peak_memory(measurement.device)
    method.fit(fold.training, context)
    if not rounds.rates:
        notes.append("no training: the method trains no network, or not by the training helper")
        return None
    return {**summary(rounds.rates), **rounds.memory}


@contextmanager
def recorded_calls() -> Iterator[list[Callable[[], Any]]]:
    """Outermost calls of modules made meanwhile, to be made again on random inputs."""
    calls: list[Callable[[], Any]] = []
    plain, depth = nn.Module.__call__, 0

    def like(value: Any) -> Any:
        dense = isinstance(value, Tensor) and value.layout == torch.strided
        return torch.rand_like(value) if dense and value.is_floating_point() else value

    def noted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        if depth == 0:
            inputs = [like(value) for value in args]
            named = {name: like(value) for name, value in kwargs.items()}
            calls.append(lambda: module(*inputs, **named))
        depth += 1
        try:
            return plain(module, *args, **kwargs)
        finally:
            depth -= 1

    # Not a global forward hook of torch: those are not told of keyword arguments.
    with patch.object(nn.Module, "__call__", noted):
        yield calls


def measure_prediction(method: Method, fold: SpeedFold, measurement: Measurement) -> dict[str, Any]:
    """Images per second of ``predict`` and of its network calls alone, the ceiling."""
    device = measurement.device
    context = measurement.context(measurement.precision)
    with recorded_calls() as calls:
        method.predict([fold.slide], context)

    def forget() -> None:
        # Else a frozen encoder would run once and its features come from the cache afterwards.
        shutil.rmtree(cache_folder() / "features", ignore_errors=True)

    def harness() -> int:
        method.predict([fold.slide], context)
        return len(fold.slide)

    @torch.inference_mode()
    def ceiling() -> int:
        for call in calls:
            call()
        return len(fold.slide)

    forget()
    gc.collect()  # networks of the training's variants, which trainers hold in cycles
    reset_peak_memory(device)
    harness()
    memory = _peak_memory(device)
    works = {"harness": harness, **({"ceiling": ceiling} if calls else {})}
    rates: dict[str, list[float]] = {name: [] for name in works}
    began = time.perf_counter()
    while len(rates["harness"]) < measurement.repeats:
        for name, work in works.items():
            forget()
            _measure(rates[name], work, device)
        if time.perf_counter() - began > measurement.seconds:
            break
    return {**summary(rates), **memory}


def _measure(rates: list[float], work: Callable[[], int], device: str) -> None:
    images: list[int] = []
    duration = seconds_of(lambda: images.append(work()), device)
    rates.append(images[0] / duration)


def _images_in(batch: Batch) -> int:
    """Number of images, or of spots where a method is fed features."""
    return len(batch["patches"] if "patches" in batch else next(iter(batch.values())))


def _peak_memory(device: str) -> dict[str, float | None]:
    return {
        "peak_memory_mb": peak_memory_mb(),
        "peak_device_memory_mb": peak_device_memory_mb(device),
    }
