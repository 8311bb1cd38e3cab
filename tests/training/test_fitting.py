"""The helper that trains a LightningModule."""

from __future__ import annotations

import math
import shutil

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data import DataLoader

from bench.blocks.encoders import image_encoder
from bench.errors import ConfigError, TrainingError
from bench.method import Context
from bench.training import batches, fitting
from bench.training.batches import SpotDataset, spot_loader
from bench.training.fitting import train

EPOCHS = 5


class Tiny(pl.LightningModule):
    """Regression of a value from a patch, with dropout and Adam, so that all state matters."""

    def __init__(self, seed=0, learning_rate=1e-2, chance=None):
        super().__init__()
        torch.manual_seed(seed)
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1)
        )
        self.learning_rate, self.chance = learning_rate, chance

    def loss(self, batch):
        predicted = self.network(batch["patches"].float() / 255)[:, 0]
        return nn.functional.mse_loss(predicted, batch["value"])

    def training_step(self, batch):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["value"]))
        if self.chance is not None:
            self.log("chance_level", self.chance, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch):
        self.log("val_loss", self.loss(batch), on_epoch=True, batch_size=len(batch["value"]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Scripted(Tiny):
    """Reports validation losses from a list, whatever it learns."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def validation_step(self, batch):
        self.log("val_loss", self.losses[self.current_epoch], on_epoch=True, batch_size=1)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dataset():
    """42 spots in two sections."""
    generator = np.random.default_rng(0)
    patches = [generator.integers(0, 255, (n, 4, 4, 3), dtype=np.uint8) for n in (20, 22)]
    values = [generator.normal(size=len(part)).astype(np.float32) for part in patches]
    return SpotDataset(patches, {"value": values})


@pytest.fixture
def loader(dataset):
    """Makes loaders of shuffled batches of eight."""
    return lambda seed=3: spot_loader(dataset, 8, seed)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


class Stop(Exception):
    """Raised in the middle of a fit."""


def stop_after(epochs):
    def progress(done, total, note):
        if done == epochs:
            raise Stop

    return progress


@pytest.fixture
def straight(loader, tmp_path):
    """Weights and curves of an uninterrupted fit."""
    module = Tiny()
    context = Context(seed=3, scratch=tmp_path / "straight")
    train(module, loader(), epochs=EPOCHS, context=context)
    return weights(module), context.curves


# ------------------------------------------------------------------------------- training


def test_training_changes_every_weight_and_records_every_epoch(straight):
    after, curves = straight
    before = weights(Tiny())
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert [row["epoch"] for row in curves] == list(range(EPOCHS))
    assert all(math.isfinite(row["train_loss"]) for row in curves)


def test_fit_follows_from_the_seed(loader, straight, tmp_path):
    again = Tiny()
    torch.manual_seed(99)
    train(again, loader(), epochs=EPOCHS, context=Context(seed=3, scratch=tmp_path / "again"))
    assert_same_weights(weights(again), straight[0])
    other = Tiny()
    train(other, loader(4), epochs=EPOCHS, context=Context(seed=4))
    assert not torch.equal(other.network[1].weight, straight[0]["network.1.weight"])


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_resumed_fit_ends_as_an_uninterrupted_one(loader, straight, tmp_path, monkeypatch, epochs):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    scratch = tmp_path / "scratch"
    # The epoch in which the fit stops has been trained, but no checkpoint has been written of it.
    with pytest.raises(Stop):
        train(
            Tiny(),
            loader(),
            epochs=EPOCHS,
            context=Context(seed=3, scratch=scratch, progress=stop_after(epochs + 1)),
        )
    assert (scratch / "training.ckpt").is_file()
    torch.manual_seed(1234)  # the state of a new process is another one
    module, seen = Tiny(seed=7), []
    context = Context(seed=3, scratch=scratch, progress=lambda done, *_: seen.append(done))
    train(module, loader(), epochs=EPOCHS, context=context)
    assert seen == list(range(epochs + 1, EPOCHS + 1))
    assert_same_weights(weights(module), straight[0])
    assert context.curves == straight[1]
    assert context.notes == []


def test_fit_may_be_interrupted_twice(loader, straight, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    scratch = tmp_path / "scratch"
    for epoch in (2, 4):
        context = Context(seed=3, scratch=scratch, progress=stop_after(epoch))
        with pytest.raises(Stop):
            train(Tiny(), loader(), epochs=EPOCHS, context=context)
    module, context = Tiny(), Context(seed=3, scratch=scratch)
    train(module, loader(), epochs=EPOCHS, context=context)
    assert_same_weights(weights(module), straight[0])
    assert context.curves == straight[1]


def test_no_checkpoint_before_its_time(loader, tmp_path):
    train(Tiny(), loader(), epochs=2, context=Context(scratch=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_fit_without_a_scratch_folder_writes_nothing(loader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    train(Tiny(), loader(), epochs=2, context=Context())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_damaged_checkpoint_starts_again_with_a_note(
    loader, straight, tmp_path, monkeypatch, damage
):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    scratch = tmp_path / "scratch"
    context = Context(seed=3, scratch=scratch, progress=stop_after(3))
    with pytest.raises(Stop):
        train(Tiny(), loader(), epochs=EPOCHS, context=context)
    checkpoint = scratch / "training.ckpt"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"\x80\x04}."}[damage]
    )
    module, context = Tiny(), Context(seed=3, scratch=scratch)
    train(module, loader(), epochs=EPOCHS, context=context)
    (note,) = context.notes
    assert "checkpoint was damaged" in note
    assert "started again" in note
    assert_same_weights(weights(module), straight[0])
    assert context.curves == straight[1]


def test_checkpoint_that_would_run_code_is_not_read(loader, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    torch.save({"state_dict": Payload()}, scratch / "training.ckpt")
    (tmp_path / "ran").unlink(missing_ok=True)
    context = Context(scratch=scratch)
    train(Tiny(), loader(), epochs=1, context=context)
    assert not (tmp_path / "ran").exists()
    assert "checkpoint was damaged" in context.notes[0]


# ------------------------------------------------------------------------ what went wrong


@pytest.mark.parametrize(
    ("share", "noted"),
    [(0.5, "training ended above chance: loss"), (1.0, "training ended at chance"), (10.0, None)],
)
def test_loss_at_chance_is_noted(loader, share, noted):
    measured = Context(seed=3)
    train(Tiny(), loader(), epochs=1, context=measured)
    context = Context(seed=3)
    chance = share * measured.curves[-1]["train_loss"]
    train(Tiny(chance=chance), loader(), epochs=1, context=context)
    assert [noted in note for note in context.notes] == [True] * (noted is not None)


def test_chance_is_told_while_training(loader):
    notes = []
    context = Context(progress=lambda done, total, note: notes.append((done, total, note)))
    train(Tiny(chance=2.0), loader(), epochs=2, context=context)
    assert [(done, total) for done, total, _ in notes] == [(1, 2), (2, 2)]
    assert all("(chance 2.000)" in note for *_, note in notes)


def test_diverged_loss_ends_the_fit(loader):
    class Diverging(Tiny):
        def loss(self, batch):
            return super().loss(batch) * (math.nan if self.current_epoch == 1 else 1.0)

    context = Context()
    with pytest.raises(TrainingError, match="diverged: loss nan in epoch 1"):
        train(Diverging(), loader(), epochs=EPOCHS, context=context)
    assert [row["epoch"] for row in context.curves] == [0.0]


def test_diverged_fit_does_not_go_on_from_its_checkpoint_for_ever(loader, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)

    class Diverging(Tiny):
        broken = True

        def loss(self, batch):
            return super().loss(batch) * (
                math.inf if self.broken and self.current_epoch == 2 else 1.0
            )

    scratch = tmp_path / "scratch"
    with pytest.raises(TrainingError, match="diverged"):
        train(Diverging(), loader(), epochs=EPOCHS, context=Context(seed=3, scratch=scratch))
    mended, context = Diverging(), Context(seed=3, scratch=scratch)
    mended.broken = False
    train(mended, loader(), epochs=EPOCHS, context=context)
    assert [row["epoch"] for row in context.curves] == list(range(EPOCHS))
    assert all(value.isfinite().all() for value in mended.state_dict().values())


def test_error_in_a_module_reaches_the_caller(loader):
    class Broken(Tiny):
        def training_step(self, batch):
            raise KeyError("colour")

    with pytest.raises(KeyError, match="colour"):
        train(Broken(), loader(), epochs=1, context=Context())


def test_keyboard_interrupt_reaches_the_caller(loader):
    def press(done, total, note):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), loader(), epochs=2, context=Context(progress=press))


# ----------------------------------------------------------------------- between the epochs


class Looking:
    """Notes when it was asked and what it saw; wants to look after some epochs."""

    def __init__(self, module, epochs):
        self.module, self.epochs, self.told = module, epochs, []

    def wants(self, done, total):
        self.told.append(f"asked {done} of {total}")
        return done in self.epochs

    def ready(self):
        self.told.append("ready")

    def __call__(self, done, total):
        self.told.append(f"looked {done} of {total}")
        # As a method does that predicts: no dropout, and random numbers are drawn.
        self.module.network[1:].eval()
        torch.rand(5)


def test_an_inspector_looks_when_it_wants_to_and_after_the_method_got_ready(loader):
    module = Tiny()
    inspector = Looking(module, {2, EPOCHS})
    context = Context(seed=3, inspector=inspector)
    train(module, loader(), epochs=EPOCHS, context=context, ready=inspector.ready)
    asked = [f"asked {done} of {EPOCHS}" for done in range(1, EPOCHS)]
    assert inspector.told == [*asked[:2], "ready", f"looked 2 of {EPOCHS}", *asked[2:]]


def test_looking_changes_neither_weights_nor_curves(loader, straight):
    module = Tiny()
    inspector = Looking(module, set(range(1, EPOCHS)))
    context = Context(seed=3, inspector=inspector)
    train(module, loader(), epochs=EPOCHS, context=context, ready=inspector.ready)
    assert inspector.told.count("ready") == EPOCHS - 1
    assert_same_weights(weights(module), straight[0])
    assert context.curves == straight[1]


def test_what_an_inspector_raises_reaches_the_caller_unchanged(loader):
    class Raising(Looking):
        def __call__(self, done, total):
            raise Stop("worse than the others")

    context = Context(inspector=Raising(Tiny(), {2}))
    with pytest.raises(Stop, match=r"^worse than the others$"):
        train(Tiny(), loader(), epochs=EPOCHS, context=context)
    assert [row["epoch"] for row in context.curves] == [0.0, 1.0]


# ------------------------------------------------------------------------- early stopping


def test_patience_without_validation_is_refused(loader):
    with pytest.raises(ConfigError, match="needs validation sections"):
        train(Tiny(), loader(), epochs=1, context=Context(), patience=2)


def test_early_stopping_keeps_the_best_weights(loader, tmp_path):
    losses = [3.0, 1.0, 2.0, 2.5, 0.1]
    context = Context(seed=3, scratch=tmp_path / "early")
    module = Scripted(losses)
    train(module, loader(), epochs=5, context=context, validation=loader(), patience=2)
    assert [row["epoch"] for row in context.curves] == [0, 1, 2, 3]
    two_epochs = Tiny()
    train(two_epochs, loader(), epochs=2, context=Context(seed=3))
    assert_same_weights(weights(module), weights(two_epochs))


def test_curve_holds_the_validation_loss_of_its_own_epoch(loader):
    losses = [3.0, 1.0, 2.0, 2.5]
    context = Context(seed=3)
    train(Scripted(losses), loader(), epochs=4, context=context, validation=loader(), patience=9)
    assert [row["epoch"] for row in context.curves] == [0, 1, 2, 3]
    assert [row.get("val_loss") for row in context.curves] == losses


def test_best_weights_without_a_scratch_folder(loader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = Scripted([1.0, 2.0, 3.0])
    train(module, loader(), epochs=3, context=Context(seed=3), validation=loader(), patience=5)
    one_epoch = Tiny()
    train(one_epoch, loader(), epochs=1, context=Context(seed=3))
    assert_same_weights(weights(module), weights(one_epoch))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stopped", [2, 3, 4])
def test_resumed_early_stopping_ends_as_an_uninterrupted_one(
    loader, tmp_path, monkeypatch, stopped
):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    losses = [3.0, 1.0, 2.0, 2.5, 0.1]
    options = {"epochs": 5, "validation": loader(), "patience": 2}
    straight, told = Scripted(losses), Context(seed=3, scratch=tmp_path / "straight")
    train(straight, loader(), context=told, **options)

    scratch = tmp_path / "scratch"
    context = Context(seed=3, scratch=scratch, progress=stop_after(stopped))
    with pytest.raises(Stop):
        train(Scripted(losses), loader(), context=context, **options)
    module, context = Scripted(losses), Context(seed=3, scratch=scratch)
    train(module, loader(), context=context, **options)
    assert context.curves == told.curves
    assert_same_weights(weights(module), weights(straight))


def test_validation_does_not_change_the_weights(loader):
    plain, checked = Tiny(), Scripted([1.0, 0.9])
    train(plain, loader(), epochs=2, context=Context(seed=3))
    train(checked, loader(), epochs=2, context=Context(seed=3), validation=loader(), patience=5)
    assert_same_weights(weights(plain), weights(checked))


# -------------------------------------------------------------------------------- batches


def test_batch_of_spots_comes_from_the_right_sections(dataset):
    generator = np.random.default_rng(0)
    patches = [generator.integers(0, 255, (n, 4, 4, 3), dtype=np.uint8) for n in (20, 22)]
    together = np.concatenate(patches)
    chosen = [0, 19, 20, 41, 5]
    batch = dataset[chosen]
    assert batch["patches"].shape == (5, 3, 4, 4)
    assert batch["patches"].dtype == torch.uint8
    wanted = torch.from_numpy(together[chosen]).permute(0, 3, 1, 2)
    assert torch.equal(batch["patches"], wanted)
    whole = dataset[list(range(len(dataset)))]["value"]
    assert torch.equal(batch["value"], whole[chosen])


def test_loader_gives_whole_batches(loader):
    made = loader()
    assert isinstance(made, DataLoader)
    sizes = [len(batch["value"]) for batch in made]
    assert sizes == [8, 8, 8, 8, 8, 2]


def test_every_epoch_of_a_fit_has_an_order_of_its_own():
    seen: dict[int, list[int]] = {}

    class Looking(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch):
            seen.setdefault(self.current_epoch, []).extend(batch["spot"].tolist())
            loss = self.layer(batch["spot"].float()[:, None]).square().mean()
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-9)

    patches = np.zeros((20, 2, 2, 3), dtype=np.uint8)
    loader = spot_loader(SpotDataset([patches], {"spot": [np.arange(20)]}), 5, 0)
    train(Looking(), loader, epochs=3, context=Context())
    assert all(sorted(order) == list(range(20)) for order in seen.values())
    assert len({tuple(order) for order in seen.values()}) == 3


# ------------------------------------------------------------------------ where batches lie


def moved(loader, device):
    loader.dataset.to(device)
    return loader


@pytest.mark.parametrize("feeding", [batches._Fed, moved])
def test_a_fit_is_the_same_however_its_batches_come(loader, straight, monkeypatch, feeding):
    monkeypatch.setattr(fitting, "on_device", feeding)
    module = Tiny()
    train(module, loader(), epochs=EPOCHS, context=Context(seed=3))
    assert_same_weights(weights(module), straight[0])


class WithEncoder(Tiny):
    """Regression through an image encoder; notes the precision that it trains in."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(image_encoder("test_resnet", "none"), nn.LazyLinear(1))
        self.precisions = set()

    def training_step(self, batch):
        self.precisions.add(self.network[0].bf16)
        return super().training_step(batch)


@pytest.mark.parametrize(("precision", "reduced"), [("float32", False), ("bf16", True)])
def test_precision_is_that_of_the_context_while_training_alone(precision, reduced):
    patches = [np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)]
    made = SpotDataset(patches, {"value": [np.zeros(8, dtype=np.float32)]})
    module = WithEncoder()
    module.loss(made[[0, 1]])
    train(module, spot_loader(made, 4, 0), epochs=1, context=Context(precision=precision))
    assert module.precisions == {reduced}
    assert not module.network[0].bf16
    assert all(value.is_contiguous() for value in module.network.parameters())


def test_short_fits_are_not_compiled_and_say_so(loader, straight):
    module, context = Tiny(), Context(seed=3, compile=True)
    train(module, loader(), epochs=EPOCHS, context=context)
    assert context.notes == ["not compiled: a fit of 30 steps would be over first (from 2000 on)"]
    assert_same_weights(weights(module), straight[0])


@pytest.fixture
def encoder_fit(monkeypatch):
    """Fits an encoder that is compiled by what is given, and returns its context and module."""
    monkeypatch.setattr(fitting, "COMPILED_STEPS", 1)

    def fit(compiler):
        monkeypatch.setattr(torch, "compile", compiler)
        patches = [np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)]
        made = SpotDataset(patches, {"value": [np.zeros(8, dtype=np.float32)]})
        module = WithEncoder()
        module.loss(made[[0, 1]])
        context = Context(compile=True)
        train(module, spot_loader(made, 4, 0), epochs=2, context=context)
        return module, context

    return fit


def test_long_fits_are_compiled_once_and_in_training_alone(encoder_fit):
    calls = []

    def compiler(function):
        calls.append("compiled")

        def call(images):
            calls.append("called")
            return function(images)

        return call

    module, context = encoder_fit(compiler)
    assert calls == ["compiled", *["called"] * 4]
    assert context.notes == []
    module.network[0](torch.zeros(2, 3, 32, 32))
    assert len(calls) == 5


def test_an_encoder_that_cannot_be_compiled_ends_the_fit_in_a_line(encoder_fit):
    def compiler(function):
        def call(images):
            raise TorchDynamoException("no compiler\nof C++")

        return call

    with pytest.raises(
        TrainingError, match=r"^the encoder cannot be compiled: no compiler of C\+\+$"
    ):
        encoder_fit(compiler)


@pytest.mark.slow
def test_a_compiled_fit_learns_what_another_learns(monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(fitting, "COMPILED_STEPS", 1)
    patches = [np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)]
    losses = []
    for compiled in (False, True):
        made = SpotDataset(patches, {"value": [np.ones(8, dtype=np.float32)]})
        module = WithEncoder()
        module.loss(made[[0, 1]])
        context = Context(compile=compiled)
        train(module, spot_loader(made, 4, 0), epochs=1, context=context)
        assert not any("compile" in name for name in module.state_dict())
        losses.append([row["train_loss"] for row in context.curves])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
