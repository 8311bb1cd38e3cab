"""Methods that keep every promise, and methods that break one each, on purpose.

``breaks`` names the check that must fail, and the only one.
"""

from __future__ import annotations

import gc
import os
import pickle
import random
import tempfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from bench.api import ConfigError, Method, MethodConfig, TrainingError

BROKEN: list[type[Method]] = []


class BrightnessConfig(MethodConfig):
    ridge: float = Field(default=1e-3, gt=0, le=10)
    neighbours: int = Field(default=4, ge=1, le=64)
    scale: str = "linear"
    floor: float = Field(default=0.0, ge=0, le=1)
    patience: int | None = Field(default=None, ge=1)


class Brightness(Method):
    """Each gene is a line of the patch's brightness; keeps every promise."""

    name = "brightness"
    Config = BrightnessConfig
    predict_space = {"floor": (0.0, 0.5, 1.0)}
    breaks: ClassVar[str] = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "breaks" in vars(cls):
            BROKEN.append(cls)

    @classmethod
    def search_space(cls, trial):
        return {
            "ridge": trial.suggest_float("ridge", 1e-6, 10.0, log=True),
            "neighbours": trial.suggest_int("neighbours", 1, 64, step=9),
            "scale": trial.suggest_categorical("scale", ["linear", "square"]),
        }

    def fit(self, data, context):
        if self.config.patience is not None and not data.validation:
            raise ConfigError("early stopping needs validation sections; this fold has none")
        design = np.concatenate([self.design(section) for section in data.sections])
        targets = np.concatenate([section.target for section in data.sections])
        square = design.T @ design + self.config.ridge * np.eye(design.shape[1])
        self.lines = np.linalg.solve(square, design.T @ targets)

    def predict(self, slides, context):
        return [self.predict_one(slide) for slide in slides]

    def predict_one(self, slide):
        design = self.design(slide)
        lines = np.stack([row @ self.lines for row in design])
        return np.maximum(lines, self.config.floor).astype(np.float32)

    def design(self, slide):
        """(spots, 2): one, and the brightness."""
        bright = self.brightness(slide)
        return np.stack([np.ones(len(bright)), bright], axis=1)

    def brightness(self, slide):
        return slide.patches().mean(axis=(1, 2, 3)) / 255

    def save(self, folder):
        np.savez(folder / "lines.npz", lines=self.lines)

    @classmethod
    def load(cls, folder, config):
        method = cls(config)
        with np.load(folder / "lines.npz", allow_pickle=False) as content:
            method.lines = content["lines"]
        return method


class Position(Brightness):
    """The same of the array position; keeps every promise without an image."""

    needs_image = False

    def brightness(self, slide):
        return slide.array_xy[:, 0] / 20


class TrainedBrightness(Brightness):
    """The same, learned by descent; keeps every promise."""

    idle = False

    def fit(self, data, context):
        import lightning.pytorch as pl
        import torch
        from torch import nn

        from bench.training.batches import SpotDataset, spot_loader
        from bench.training.fitting import train_on

        forgotten = self.idle

        class HeadTraining(pl.LightningModule):
            def __init__(self, genes):
                super().__init__()
                self.head = nn.Linear(2, genes)
                self.frozen = nn.Linear(2, 2).requires_grad_(False)
                if forgotten:
                    self.forgotten = nn.Linear(2, 2)

            def loss(self, batch):
                return (self.head(self.frozen(batch["design"])) - batch["target"]).square().mean()

            def training_step(self, batch):
                loss = self.loss(batch)
                self.log("train_loss", loss, on_epoch=True, on_step=False)
                return loss

            def validation_step(self, batch):
                self.log("val_loss", self.loss(batch), on_epoch=True)

            def configure_optimizers(self):
                return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

        def loader(sections):
            designs = [self.design(section).astype(np.float32) for section in sections]
            dataset = SpotDataset(
                [section.patches(8) for section in sections],
                {"design": designs, "target": [section.target for section in sections]},
            )
            return spot_loader(dataset, 16, context.seed)

        torch.manual_seed(context.seed)
        training = HeadTraining(len(data.panel))
        train_on(training, data, loader, epochs=2, patience=self.config.patience, context=context)
        with torch.no_grad():
            unit = training.head(training.frozen(torch.eye(2)))
            none = training.head(training.frozen(torch.zeros(1, 2)))
        # A line through the values at the unit designs, the constant put into the first column.
        self.lines = (unit - none).numpy().astype(np.float64)
        self.lines[0] += none.numpy()[0]


# ------------------------------------------------------------------- what is predicted


class Raises(Brightness):
    breaks = "predicts_each_slide"

    def fit(self, data, context):
        raise RuntimeError("boom\nsecond line")


class Exits(Brightness):
    breaks = "predicts_each_slide"

    def predict(self, slides, context):
        raise SystemExit(3)


class InDoublePrecision(Brightness):
    breaks = "predicts_each_slide"

    def predict_one(self, slide):
        return super().predict_one(slide).astype(np.float64)


class Transposed(Brightness):
    breaks = "predicts_each_slide"

    def predict_one(self, slide):
        return super().predict_one(slide).T


class NotFinite(Brightness):
    breaks = "predicts_each_slide"

    def predict_one(self, slide):
        return super().predict_one(slide) + np.float32(np.nan)


class OneArrayForAll(Brightness):
    breaks = "predicts_each_slide"

    def predict(self, slides, context):
        return [np.concatenate(super().predict(slides, context))]


class OneByOne(Brightness):
    breaks = "predicts_each_slide"

    def predict(self, slides, context):
        yield from super().predict(slides, context)


class Lists(Brightness):
    breaks = "predicts_each_slide"

    def predict_one(self, slide):
        return super().predict_one(slide).tolist()


class Refuses(Brightness):
    breaks = "predicts_each_slide"

    def fit(self, data, context):
        raise ConfigError("not today")


# ----------------------------------------------------------------- what decides the bits


class NeverTheSame(Brightness):
    breaks = "repeats_itself"

    def fit(self, data, context):
        super().fit(data, context)
        self.lines = self.lines + np.random.default_rng().random()


class FitsByNumPysState(Brightness):
    breaks = "ignores_global_state"

    def fit(self, data, context):
        super().fit(data, context)
        self.lines = self.lines + np.random.random()  # noqa: NPY002


class FitsByTorchsState(Brightness):
    breaks = "ignores_global_state"

    def fit(self, data, context):
        import torch

        super().fit(data, context)
        self.lines = self.lines + float(torch.rand(()))


class PredictsByPythonsState(Brightness):
    breaks = "ignores_global_state"

    def predict(self, slides, context):
        drawn = np.float32(random.random())
        return [prediction + drawn for prediction in super().predict(slides, context)]


class StandardisesOverAllSlides(Brightness):
    breaks = "predicts_alone_as_in_company"

    def predict(self, slides, context):
        mean = np.concatenate([self.brightness(slide) for slide in slides]).mean()
        return [p - np.float32(mean) for p in super().predict(slides, context)]


class RemembersTheSlideBefore(Brightness):
    breaks = "predicts_alone_as_in_company"

    def predict(self, slides, context):
        found, before = [], np.float32(0)
        for slide in slides:
            found.append(self.predict_one(slide) + before)
            before = np.float32(len(slide))
        return found


class PatchAlone(Brightness):
    """Says of itself that it reads no section; keeps every promise."""

    reads_section = False


class DeniesThatItReadsTheSection(Brightness):
    reads_section = False
    breaks = "reads_one_patch_a_spot_as_it_says"

    def predict_one(self, slide):
        found = super().predict_one(slide)
        return found - np.float32(self.brightness(slide).mean())


# -------------------------------------------------------------- settings of the prediction


class FitsByASettingOfPrediction(Brightness):
    breaks = "tries_settings_of_prediction_on_one_fit"

    def fit(self, data, context):
        super().fit(data, context)
        self.lines = self.lines * (1 + self.config.floor)


class PredictsEachAlike(Brightness):
    breaks = "tries_settings_of_prediction_on_one_fit"

    def predict_each(self, slides, context, configs):
        for _ in configs:
            yield self.predict(slides, context)


class PredictsEachOnce(Brightness):
    breaks = "tries_settings_of_prediction_on_one_fit"

    def predict_each(self, slides, context, configs):
        yield from list(super().predict_each(slides, context, configs))[:1]


class PredictsEachInDoublePrecision(Brightness):
    breaks = "tries_settings_of_prediction_on_one_fit"

    def predict_each(self, slides, context, configs):
        for found in super().predict_each(slides, context, configs):
            yield [prediction.astype(np.float64) for prediction in found]


class ChangesWhatItHolds(Brightness):
    """Right the first time a setting is tried; the next one starts from what that left."""

    breaks = "tries_settings_of_prediction_on_one_fit"

    def predict_each(self, slides, context, configs):
        lines = [self.design(slide) @ self.lines for slide in slides]
        for config in configs:
            lines = [np.maximum(part, config.floor) for part in lines]
            yield [part.astype(np.float32) for part in lines]


class LeavesItsSettings(Brightness):
    breaks = "tries_settings_of_prediction_on_one_fit"

    def predict_each(self, slides, context, configs):
        yield from super().predict_each(slides, context, configs)
        self.config = configs[0]


# --------------------------------------------------------------------------- what is saved


class ForgetsHalf(Brightness):
    breaks = "comes_back_from_its_folder"

    @classmethod
    def load(cls, folder, config):
        method = super().load(folder, config)
        method.lines = method.lines * [[1], [0]]
        return method


class Rounds(Brightness):
    breaks = "comes_back_from_its_folder"

    def save(self, folder):
        np.savez(folder / "lines.npz", lines=self.lines.astype(np.float16))


class KeepsItInTheClass(Brightness):
    breaks = "comes_back_from_its_folder"

    def fit(self, data, context):
        super().fit(data, context)
        KeepsItInTheClass.kept = self.lines

    @classmethod
    def load(cls, folder, config):
        method = cls(config)
        method.lines = cls.kept
        return method


class IsItself(Brightness):
    breaks = "comes_back_from_its_folder"

    def save(self, folder):
        super().save(folder)
        IsItself.saved = self

    @classmethod
    def load(cls, folder, config):
        return cls.saved


class IsAnother(Brightness):
    breaks = "comes_back_from_its_folder"

    @classmethod
    def load(cls, folder, config):
        return Brightness.load(folder, config)


class RemembersThePath(Brightness):
    breaks = "comes_back_from_its_folder"

    def save(self, folder):
        super().save(folder)
        RemembersThePath.folder = folder

    @classmethod
    def load(cls, folder, config):
        return super().load(cls.folder, config)


class SavesPickleByName(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        (folder / "more.pkl").write_text("not even one")


class SavesPickleUnderAnotherName(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        (folder / "more.bin").write_bytes(pickle.dumps({"a": self.lines}))


class SavesOldPickle(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        (folder / "more.txt").write_bytes(pickle.dumps({"a": [1, 2]}, protocol=0))


class SavesCompressedPickle(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        (folder / "more.z").write_bytes(zlib.compress(pickle.dumps([self.lines])))


class SavesTorchFile(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        import torch

        super().save(folder)
        torch.save({"a": torch.zeros(3)}, folder / "more.bin")


class SavesObjects(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        np.savez(folder / "more.npz", a=np.array([{}, None], dtype=object))


class SavesLink(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        (folder / "more").symlink_to("/dev/null")


class SavesBesideItsFolder(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        (folder.parent / "more.txt").write_text("x")


class SavesWhereItRuns(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        Path("more.txt").write_text("x")


class SavesAtHome(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        (Path.home() / "more.txt").write_text("x")


class MovesItHome(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        (folder / "more.txt").write_text("x")
        os.replace(folder / "more.txt", Path.home() / "moved.txt")


class LeavesTemporaryFiles(Brightness):
    breaks = "saves_plain_files_in_its_folder"

    def save(self, folder):
        super().save(folder)
        with tempfile.NamedTemporaryFile(delete=False) as stream:
            stream.write(b"x")


# ------------------------------------------------------------------- training and inputs


class ForgetsALayer(TrainedBrightness):
    breaks = "every_parameter_learns"
    idle = True


class StopsEarlyOnNothing(Brightness):
    breaks = "early_stopping_needs_validation"

    def fit(self, data, context):
        Brightness(self.config.model_copy(update={"patience": None})).fit(data, context)
        calm = Brightness(self.config.model_copy(update={"patience": None}))
        calm.fit(data, context)
        self.lines = calm.lines


class RefusesWithoutAReason(Brightness):
    breaks = "early_stopping_needs_validation"

    def fit(self, data, context):
        if self.config.patience is not None and not data.validation:
            raise ConfigError("no")
        super().fit(data, context)


class NeverStopsEarly(Brightness):
    breaks = "early_stopping_needs_validation"

    def fit(self, data, context):
        if self.config.patience is not None:
            raise ConfigError("no early stopping here, whatever the validation sections")
        super().fit(data, context)


class PeeksAtTheTruth(Brightness):
    """Finds the test section's counts in the memory of the process."""

    breaks = "never_sees_test_expression"

    def predict_one(self, slide):
        from bench.data.section import Section

        prediction = super().predict_one(slide)
        if slide.name == "C1":
            hidden = [
                thing
                for thing in gc.get_objects()
                if type(thing) is Section and thing.name == slide.name
            ]
            prediction += np.float32(sum(thing.adata.X.sum() for thing in hidden))
        return prediction


class CentresTheTarget(Brightness):
    breaks = "leaves_inputs_alone"

    def fit(self, data, context):
        for section in data.sections:
            section.target[:] -= section.target.mean(axis=0)
        super().fit(data, context)


class CentresTheCoordinates(Brightness):
    breaks = "leaves_inputs_alone"

    def predict_one(self, slide):
        np.subtract(slide.spatial, 1, out=slide.spatial)
        return super().predict_one(slide)


class WritesThroughTorch(Brightness):
    breaks = "leaves_inputs_alone"

    def fit(self, data, context):
        import torch

        for section in data.sections:
            torch.from_numpy(section.counts).add_(1)
        super().fit(data, context)


# ---------------------------------------------------------------------------- hard folds


class NeedsValidation(Brightness):
    breaks = "fits_without_validation_sections"

    def fit(self, data, context):
        super().fit(data, context)
        self.error = max(len(section) for section in data.validation)


class SpreadOfASection(Brightness):
    breaks = "copes_with_a_section_of_one_spot"

    def fit(self, data, context):
        super().fit(data, context)
        spread = [section.target.std(axis=0) for section in data.sections]
        self.lines = self.lines * np.mean([s / s.max() for s in spread], axis=0)


class SpreadOfASlide(Brightness):
    breaks = "copes_with_a_slide_of_one_spot"

    def predict_one(self, slide):
        bright = self.brightness(slide)
        return super().predict_one(slide) * np.float32(bright.std() / bright.std())


class MeanOfNeighbours(Brightness):
    breaks = "copes_with_isolated_spots"

    def brightness(self, slide):
        bright = super().brightness(slide)
        gap = np.abs(slide.array_xy[:, None] - slide.array_xy[None]).sum(axis=2)
        near = (gap > 0) & (gap < 3) if len(bright) > 1 else np.ones((1, 1), dtype=bool)
        return bright / near.sum(axis=1)


class Standardises(Brightness):
    breaks = "copes_with_constant_genes"

    def fit(self, data, context):
        super().fit(data, context)
        std = np.concatenate([section.target for section in data.sections]).std(axis=0)
        self.lines = self.lines / std * std


class RefusesAtLength(Brightness):
    breaks = "copes_with_constant_genes"

    def fit(self, data, context):
        if any((section.target[:, 3] == 0).all() for section in data.sections):
            raise ConfigError("a gene is constant;\nsecond line")
        super().fit(data, context)


class DivergesOnConstants(Brightness):
    breaks = "copes_with_constant_genes"

    def fit(self, data, context):
        if any((section.target[:, 2] == 0.5).all() for section in data.sections):
            raise TrainingError("training diverged")
        super().fit(data, context)


# --------------------------------------------------------------------------------- images


class LooksAway(Position):
    breaks = "looks_at_images_as_it_says"
    needs_image = True


class LooksInSecret(Brightness):
    breaks = "looks_at_images_as_it_says"
    needs_image = False

    def brightness(self, slide):
        if slide.patch_source is None:
            return slide.array_xy[:, 0] / 20
        return super().brightness(slide)


class NeedsThemAnyway(Position):
    breaks = "does_without_images"

    def brightness(self, slide):
        return super().brightness(slide) + 0 * len(slide.patches())


class DependsOnTheDevice(Brightness):
    """Found only where there is CUDA, or where a test says so."""

    breaks = "devices_agree"

    def predict(self, slides, context):
        return [p + np.float32(context.device == "cuda") for p in super().predict(slides, context)]


# ------------------------------------------------------------------------------- settings


class BadForADataset(Brightness):
    breaks = "presets_are_valid"
    dataset_settings = {"her2st": {"ridge": -1}}


class BadPreset(Brightness):
    breaks = "presets_are_valid"
    presets = {"quick": {}, "tiny": {}, "large": {"ridge": 11}}
    predict_space = {}

    @classmethod
    def search_space(cls, trial):
        return {}


class NotQuick(Brightness):
    breaks = "presets_are_valid"
    presets = {"fast": {}}


class TupleConfig(BrightnessConfig):
    layers: Any = (1, 2)


class NotAsJson(Brightness):
    breaks = "presets_are_valid"
    Config = TupleConfig


class SearchesTooFar(Brightness):
    breaks = "search_space_is_valid"

    @classmethod
    def search_space(cls, trial):
        return {"ridge": trial.suggest_float("ridge", 1e-6, 100.0)}


class SearchesWhatIsNot(Brightness):
    breaks = "search_space_is_valid"

    @classmethod
    def search_space(cls, trial):
        return {"rigde": trial.suggest_float("rigde", 0.1, 1.0)}


class SearchesFromZero(Brightness):
    breaks = "search_space_is_valid"

    @classmethod
    def search_space(cls, trial):
        return {"ridge": trial.suggest_float("ridge", 0.0, 1.0, log=True)}


class SearchesUnderAnotherName(Brightness):
    breaks = "search_space_is_valid"

    @classmethod
    def search_space(cls, trial):
        return {"ridge": 10 ** trial.suggest_float("log_ridge", -6.0, 1.0)}


class SearchesOneSettingTwice(Brightness):
    breaks = "search_space_is_valid"

    @classmethod
    def search_space(cls, trial):
        return {"floor": trial.suggest_float("floor", 0.0, 1.0)}


class PredictsWithWhatIsNot(Brightness):
    breaks = "search_space_is_valid"
    predict_space = {"flor": (0.0, 1.0)}


class PredictsWithBadValues(Brightness):
    breaks = "search_space_is_valid"
    predict_space = {"floor": (0.0, 2.0)}

    @classmethod
    def search_space(cls, trial):
        return {}


class PredictsWithNoValues(Brightness):
    breaks = "search_space_is_valid"
    predict_space = {"floor": ()}


class PredictsWithAWord(Brightness):
    breaks = "search_space_is_valid"
    predict_space = {"scale": "x"}


class SearchesOneBadChoice(Brightness):
    breaks = "search_space_is_valid"

    @classmethod
    def search_space(cls, trial):
        return {"neighbours": trial.suggest_categorical("neighbours", [1, 2, 100, 4, 5])}
