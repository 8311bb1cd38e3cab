"""The one helper that trains a LightningModule: device, checkpoints, resume, early stopping."""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data import DataLoader

from bench.blocks.precision import compile_training, reset, to_device
from bench.data.inputs import TrainingData, TrainingSection
from bench.errors import ConfigError, TrainingError
from bench.files import one_line
from bench.method import Context
from bench.training.batches import on_device

CHECKPOINT_SECONDS = 60.0
"""Shortest time between two checkpoints of a running fit."""

COMPILED_STEPS = 2000
"""Steps of a fit that repay what it takes to compile an encoder: minutes against a few percent."""

AT_CHANCE = 0.98
"""A loss above this share of its chance level counts as having learned nothing."""

ABOVE_CHANCE = 1.05
"""A loss above this share of its chance level is worse than a guess."""


def seed_batch(seed: int, epoch: int, batch: int) -> None:
    """Seed torch for one batch of a fit, whose dropout and augmentation follow from it alone."""
    value = int(np.random.SeedSequence([seed, epoch, batch]).generate_state(1)[0])
    # Not torch.manual_seed: where no GPU is used it formats the call stack each time, 4 ms a step.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(value)


class _Bookkeeping(Callback):
    """Seeds every batch, records curves, reports progress, watches for idle parameters."""

    def __init__(self, context: Context, epochs: int, ready: Callable[[], None] | None) -> None:
        self.context, self.epochs, self.ready = context, epochs, ready
        self.idle: dict[str, torch.nn.Parameter] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"curves": self.context.curves}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.context.curves[:] = state_dict["curves"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Dropout and augmentation follow from (seed, epoch, batch): resuming repeats them exactly.
        # Not once an epoch: Lightning leaves that hook out in the first epoch after a restart.
        seed_batch(self.context.seed, trainer.current_epoch, batch_idx)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.idle is None:
            named = pl_module.named_parameters()
            self.idle = {name: p for name, p in named if p.requires_grad}
        for name in [n for n, p in self.idle.items() if p.grad is not None and bool(p.grad.any())]:
            del self.idle[name]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A fit that went on from its last checkpoint may have made no step here.
        if self.idle is not None:
            self.context.idle_parameters = list(self.idle)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        row = {name: float(value) for name, value in trainer.callback_metrics.items()}
        loss = row.get("train_loss", math.nan)
        if not math.isfinite(loss):
            raise TrainingError(f"training diverged: loss {loss} in epoch {trainer.current_epoch}")
        self.context.curves.append({"epoch": float(trainer.current_epoch), **row})
        note = f"loss {loss:.3f}"
        if "chance_level" in row:
            note += f" (chance {row['chance_level']:.3f})"
        done = trainer.current_epoch + 1
        self.context.progress(done, self.epochs, note)
        inspector = self.context.inspector
        if inspector is not None and done < self.epochs and inspector.wants(done, self.epochs):
            modes = [(part, part.training) for part in pl_module.modules()]
            if self.ready is not None:
                self.ready()
            inspector(done, self.epochs)
            for part, training in modes:
                part.training = training


class _Resumable(Checkpoint):
    """Writes the checkpoint from which an interrupted fit continues.

    A ``Checkpoint`` so that Lightning calls it last: the state of early stopping and of the best
    weights must be that of the same epoch.
    """

    def __init__(self, path: Path, epochs: int) -> None:
        self.path, self.epochs = path, epochs
        self.saved = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        due = time.monotonic() - self.saved >= CHECKPOINT_SECONDS
        if due and trainer.current_epoch + 1 < self.epochs and not trainer.should_stop:
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


def learned_sections(data: TrainingData, patience: int | None) -> tuple[TrainingSection, ...]:
    """Sections a fit learns from: with early stopping the validation sections are kept out.

    Parameters
    ----------
    data
        Sections of the fold.
    patience
        Epochs without improvement after which training stops; None for no early stopping.

    Returns
    -------
    tuple of TrainingSection
        Training sections; with validation sections where `patience` is None.
    """
    return data.sections if patience is None else data.train


def train_on(
    module: pl.LightningModule,
    data: TrainingData,
    loader: Callable[[Sequence[TrainingSection]], DataLoader[Any]],
    *,
    epochs: int,
    patience: int | None,
    context: Context,
    ready: Callable[[], None] | None = None,
) -> None:
    """Train `module` on a fold: :func:`train` on batches that `loader` makes of sections.

    Parameters
    ----------
    module
        Training module; it is trained in place.
    data
        Sections of the fold.
    loader
        Makes batches of sections.
    epochs, patience
        As of :func:`train`.
    context
        Device, seed and progress of the fit.
    ready
        Called before the method predicts between two epochs, as tuning asks it to.

    Raises
    ------
    ConfigError, TrainingError
        As :func:`train`.
    """
    early = patience is not None and data.validation
    train(
        module,
        loader(learned_sections(data, patience)),
        epochs=epochs,
        context=context,
        validation=loader(data.validation) if early else None,
        patience=patience,
        ready=ready,
    )


def train(
    module: pl.LightningModule,
    loader: DataLoader[Any],
    *,
    epochs: int,
    context: Context,
    validation: DataLoader[Any] | None = None,
    patience: int | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Train `module` in place.

    The module logs ``train_loss`` and, if chance has a known loss, ``chance_level``; with
    `patience` it also logs ``val_loss``. Curves go to ``context.curves``. A fit that was killed
    continues from its last checkpoint and gives the result of an uninterrupted fit.

    Parameters
    ----------
    module
        Network, loss and optimiser.
    loader
        Training batches; see :func:`spot_loader`.
    epochs
        Largest number of epochs.
    context
        Seed, device, scratch folder, progress.
    validation, patience
        Batches of the validation sections; stop after `patience` epochs without a lower
        ``val_loss`` and keep the best weights.
    ready
        What is left to do before the method can predict with the weights as they are, such as
        embedding a retrieval bank; called before an inspector looks.

    Raises
    ------
    ConfigError
        `patience` without validation sections.
    TrainingError
        The loss is not finite, or compiling was asked for and fails.
    """
    if patience is not None and validation is None:
        raise ConfigError("early stopping needs validation sections; this fold has none")
    to_device(module, context)
    if context.compile:
        _compile(module, epochs * len(loader), context)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # Advice on worker processes and loggers does not apply: batches come from memory.
        warnings.filterwarnings("ignore", module="lightning")
        scratch = context.scratch or Path(temporary)
        checkpoint = context.scratch / "training.ckpt" if context.scratch else None
        callbacks: list[Callback] = [_Bookkeeping(context, epochs, ready)]
        best = None
        if patience is not None:
            best = ModelCheckpoint(
                scratch,
                "best",
                monitor="val_loss",
                save_top_k=1,
                save_weights_only=True,
                enable_version_counter=False,
            )
            callbacks += [EarlyStopping("val_loss", patience=patience), best]
        if checkpoint:
            callbacks.append(_Resumable(checkpoint, epochs))
        callbacks += context.callbacks
        trainer = pl.Trainer(
            accelerator={"cuda": "gpu"}.get(context.device, context.device),
            devices=1,
            max_epochs=epochs,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=scratch,
        )
        resume = _usable(checkpoint, context)
        watched = None
        if patience is not None and validation is not None:
            watched = on_device(validation, context.device)
        try:
            trainer.fit(
                module,
                on_device(loader, context.device),
                watched,
                ckpt_path=resume,
                weights_only=True,
            )
        except TorchDynamoException as error:
            raise TrainingError(f"the encoder cannot be compiled: {one_line(error)}") from error
        except SystemExit:
            # Lightning turns Ctrl-C into an exit of its own; ours names the way to resume.
            raise KeyboardInterrupt from None
        if best is not None and best.best_model_path:
            state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            module.load_state_dict(state["state_dict"])
    # Predicting asks for its precision by itself: a method that is loaded must not differ.
    reset(module)
    _warn_at_chance(context)


def _compile(module: pl.LightningModule, steps: int, context: Context) -> None:
    if steps >= COMPILED_STEPS:
        compile_training(module)
    else:
        context.notes.append(
            f"not compiled: a fit of {steps} steps would be over first (from {COMPILED_STEPS} on)"
        )


def _usable(checkpoint: Path | None, context: Context) -> Path | None:
    """The checkpoint if it can be read; a damaged one is removed with a note."""
    if checkpoint is None or not checkpoint.is_file():
        return None
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, training can start again
        context.notes.append(f"checkpoint was damaged ({type(error).__name__}); started again")
        checkpoint.unlink()
        return None
    return checkpoint


def _warn_at_chance(context: Context) -> None:
    if not context.curves:
        return
    last = context.curves[-1]
    loss, chance = last.get("train_loss"), last.get("chance_level")
    if loss is None or chance is None or loss < AT_CHANCE * chance:
        return
    levels = f"loss {loss:.3f}, chance level {chance:.3f}"
    if loss > ABOVE_CHANCE * chance:
        context.notes.append(
            f"training ended above chance: {levels}; the network is surer of wrong pairs of image"
            " and expression than a guess would be, which more epochs or a lower learning rate"
            " may mend"
        )
    else:
        context.notes.append(
            f"training ended at chance: {levels}; the network hardly tells one pair of image and"
            " expression from another"
        )
