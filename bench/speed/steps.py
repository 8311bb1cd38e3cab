"""Steps of a method's training outside of the harness: on a ready batch, and one by one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bench.data.inputs import TrainingData
from bench.errors import BenchError
from bench.method import Context, Method

Batch = Mapping[str, Any]


class NoTrainingError(BenchError):
    """A method fits without the training helper."""


class _Taken(Exception):  # noqa: N818 - no error: it ends a fit that has shown what was asked for
    """The fit has come to its first batch."""


class _Take(Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.module: pl.LightningModule = pl_module
        self.loader: Any = trainer.train_dataloader
        raise _Taken


def training_parts(
    method: Method, data: TrainingData, context: Context
) -> tuple[pl.LightningModule, DataLoader[Any]]:
    """Network with loss and optimiser, and training batches, as a method hands them over.

    The fit is ended before its first batch, so that the weights are those it starts from.

    Raises
    ------
    NoTrainingError
        The method trains no network through :func:`bench.training.fitting.train`.
    """
    take = _Take()
    context.callbacks.append(take)
    try:
        method.fit(data, context)
    except _Taken:
        return take.module, take.loader
    finally:
        context.callbacks.remove(take)
    raise NoTrainingError(f"{method.name} trains no network, or not through the training helper")


def optimizer_of(module: pl.LightningModule) -> torch.optim.Optimizer:
    """A new optimiser of the kind that a module is trained with."""
    made: Any = module.configure_optimizers()
    while isinstance(made, list | tuple):
        made = made[0]
    if isinstance(made, dict):
        made = made["optimizer"]
    if not isinstance(made, torch.optim.Optimizer):
        raise BenchError(f"{type(module).__name__} has no optimiser to step with")
    return made


@contextmanager
def unlogged(module: pl.LightningModule) -> Iterator[None]:
    """Let a module's training step be called outside of a trainer: what it logs is dropped."""
    own: dict[str, Any] = module.__dict__
    before: dict[str, Any] = {name: own[name] for name in ("log", "log_dict") if name in own}
    own["log"] = own["log_dict"] = _say_nothing
    try:
        yield
    finally:
        del own["log"], own["log_dict"]
        own.update(before)


@contextmanager
def unaugmented(module: pl.LightningModule) -> Iterator[None]:
    """Let a module make no random changes to its images, which are its attribute ``augment``."""
    change = getattr(module, "augment", None)
    plain = nn.Identity() if isinstance(change, nn.Module) else _unchanged
    if change is not None:
        _set_augment(module, plain)
    try:
        yield
    finally:
        if change is not None:
            _set_augment(module, change)


def step(module: pl.LightningModule, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
    """Forward, backward and one step of the optimiser; the loss, on the device."""
    optimizer.zero_grad()
    arguments = (batch, 0)[: len(inspect.signature(module.training_step).parameters)]
    found: Any = module.training_step(*arguments)
    loss: Tensor = found["loss"] if isinstance(found, Mapping) else found
    loss.backward()
    optimizer.step()
    return loss.detach()


def random_batch(batch: Batch) -> Batch:
    """The batch with random pixels of the same layout, on the same device."""
    return {
        name: torch.randint_like(value, 256) if name == "patches" else value
        for name, value in batch.items()
    }


def images_in(batch: Batch) -> int:
    """Number of images, or of spots where a method is fed features."""
    named = batch.get("patches")
    value = named if named is not None else next(iter(batch.values()))
    return len(value)


def to_device(batch: Batch, device: str) -> Batch:
    """The batch with its tensors on a device."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _set_augment(module: pl.LightningModule, change: Any) -> None:
    # mypy knows attributes of a module as tensors and modules alone; a plain function is neither.
    setattr(module, "augment", change)  # noqa: B010


def _say_nothing(*_: Any, **__: Any) -> None:
    """Takes what a step logs."""


def _unchanged(patches: Tensor) -> Tensor:
    return patches
