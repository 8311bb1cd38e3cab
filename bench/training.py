"""The one helper that trains a LightningModule: device, checkpoints, resume, early stopping."""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.data.views import TrainingData, TrainingSection
from bench.errors import ConfigError, TrainingError
from bench.method import Context

CHECKPOINT_SECONDS = 60.0
"""Shortest time between two checkpoints of a running fit."""

AT_CHANCE = 0.98
"""A loss above this share of its chance level counts as having learned nothing."""


class SpotDataset(Dataset[dict[str, Tensor]]):
    """Spots of several sections; one item is a whole batch of them.

    Parameters
    ----------
    patches
        One (spots, height, width, 3) uint8 array a section; memory-mapped is fine.
    arrays
        Further values by name, each one array a section, first axis spots.
    """

    def __init__(
        self, patches: Sequence[np.ndarray], arrays: Mapping[str, Sequence[np.ndarray]]
    ) -> None:
        self._patches = list(patches)
        self._starts = np.cumsum([0, *(len(part) for part in patches)])
        self._arrays = {
            name: torch.from_numpy(np.concatenate(list(parts))) for name, parts in arrays.items()
        }

    @property
    def arrays(self) -> Mapping[str, Tensor]:
        """The named values of all spots, section after section."""
        return self._arrays

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, spots: Sequence[int]) -> dict[str, Tensor]:
        """Batch of `spots`: ``patches`` as (n, 3, height, width) uint8, and the named arrays."""
        chosen = np.asarray(spots)
        section = np.searchsorted(self._starts, chosen, side="right") - 1
        images = np.stack(
            [self._patches[s][i - self._starts[s]] for s, i in zip(section, chosen, strict=True)]
        )
        batch = {name: values[chosen] for name, values in self._arrays.items()}
        batch["patches"] = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return batch


class SectionDataset(Dataset[dict[str, Tensor]]):
    """Whole sections; one item is all spots of one.

    Parameters
    ----------
    patches
        One (spots, height, width, 3) uint8 array a section; memory-mapped is fine.
    arrays
        Further values by name, each one array a section.
    """

    def __init__(
        self, patches: Sequence[np.ndarray], arrays: Mapping[str, Sequence[np.ndarray]]
    ) -> None:
        self._patches = list(patches)
        self._arrays = {
            name: [torch.from_numpy(np.array(part)) for part in parts]
            for name, parts in arrays.items()
        }

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, sections: Sequence[int]) -> dict[str, Tensor]:
        """The one section asked for: ``patches`` as (n, 3, height, width) uint8, and the arrays."""
        (section,) = sections
        batch = {name: parts[section] for name, parts in self._arrays.items()}
        images = torch.from_numpy(np.array(self._patches[section]))
        batch["patches"] = images.permute(0, 3, 1, 2).contiguous()
        return batch


class ShuffledBatches(Sampler[list[int]]):
    """Batches in an order that follows from seed and epoch alone, so that a resumed fit agrees.

    The last, smaller batch is kept unless it holds fewer than `smallest` items.
    """

    def __init__(self, items: int, batch_size: int, seed: int, smallest: int = 2) -> None:
        self.items, self.batch_size, self.seed, self.epoch = items, batch_size, seed, 0
        self.smallest = smallest

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(1 for _ in self._bounds())

    def _bounds(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.items, self.batch_size):
            stop = min(start + self.batch_size, self.items)
            if stop - start >= self.smallest:
                yield start, stop

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.items).tolist()
        for start, stop in self._bounds():
            yield order[start:stop]


def spot_loader(dataset: SpotDataset, batch_size: int, seed: int) -> DataLoader[dict[str, Tensor]]:
    """Loader of shuffled batches for :func:`train`."""
    sampler = ShuffledBatches(len(dataset), batch_size, seed)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def section_loader(dataset: SectionDataset, seed: int) -> DataLoader[dict[str, Tensor]]:
    """Loader of one section a batch, in random order, for :func:`train`."""
    sampler = ShuffledBatches(len(dataset), 1, seed, smallest=1)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def seed_batch(seed: int, epoch: int, batch: int) -> None:
    """Seed torch for one batch of a fit, whose dropout and augmentation follow from it alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, batch]).generate_state(1)[0]))


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
        self.context.idle_parameters[:] = self.idle or ()

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
    """Writes the checkpoint a killed fit goes on from.

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
    """Sections a fit learns from: with early stopping the validation sections are kept out."""
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
    precision: str | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Train `module` in place.

    The module logs ``train_loss`` and, if chance has a known loss, ``chance_level``; with
    `patience` it also logs ``val_loss``. Curves go to ``context.curves``. A fit that was killed
    goes on from its last checkpoint and ends where an uninterrupted one would.

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
    precision
        As Lightning names it; the context's where None.
    ready
        What is left to do before the method can predict with the weights as they are, such as
        embedding a retrieval bank; called before an inspector looks.

    Raises
    ------
    ConfigError
        `patience` without validation sections.
    TrainingError
        The loss is not finite.
    """
    if patience is not None and validation is None:
        raise ConfigError("early stopping needs validation sections; this fold has none")
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
            precision=precision or context.precision,  # type: ignore[arg-type]
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
        try:
            trainer.fit(
                module,
                loader,
                validation if patience is not None else None,
                ckpt_path=resume,
                weights_only=True,
            )
        except SystemExit:
            # Lightning turns Ctrl-C into an exit of its own; ours names the way to resume.
            raise KeyboardInterrupt from None
        if best is not None and best.best_model_path:
            state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            module.load_state_dict(state["state_dict"])
    _warn_at_chance(context)


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
    if loss is not None and chance is not None and loss >= AT_CHANCE * chance:
        context.notes.append(
            f"training ended at chance: loss {loss:.3f}, chance level {chance:.3f}; the network"
            " hardly tells one pair of image and expression from another"
        )
