"""Interface of methods, and the context that the harness passes to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.data.inputs import Slide, TrainingData
from bench.errors import ConfigError, UnknownNameError

Precision = Literal["float32", "bf16"]
"""What the image encoders of networks compute in; all else is float32."""


class MethodConfig(BaseModel):
    """Base of a method's settings; the defaults are the authors' values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def combine(
        cls, presets: Mapping[str, Any], changes: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Values by setting: those of dataset and preset, replaced by those of the user."""
        return {**presets, **(changes or {})}


class Progress(Protocol):
    """Receives how far a fit has come."""

    def __call__(self, done: int, total: int, note: str) -> None:
        """`done` of `total` epochs, and a word on how it goes."""


class Inspector(Protocol):
    """Looks at a fit between two epochs, as a tuning trial does; it may end the fit by raising."""

    def wants(self, done: int, total: int) -> bool:
        """Whether to look after `done` of `total` epochs."""

    def __call__(self, done: int, total: int) -> None:
        """The method can predict as if its training had ended after `done` epochs."""


def _silent(done: int, total: int, note: str) -> None:
    """Progress nobody watches."""


@dataclass
class Context:
    """Surroundings of one fit or prediction.

    Attributes
    ----------
    seed
        All randomness of a method must follow from it.
    device
        ``cpu``, ``cuda`` or ``mps``.
    scratch
        Folder for training checkpoints, or None: it survives a killed process and is removed
        when the fold is done.
    progress
        Called with (done, total, note) after each epoch.
    inspector
        Looks at the fit between epochs; the training helper calls it.
    curves
        What the training helper recorded: one mapping per epoch.
    notes
        Warnings that belong to the result.
    idle_parameters
        Trained parameters that never got a gradient, by name; None unless the training helper
        has trained, which alone can tell.
    precision
        Of image encoders, in training and prediction: ``float32`` or ``bf16``.
    compile
        Whether the training helper compiles image encoders where a fit is long enough.
    callbacks
        Lightning callbacks that watch the training beside those of the training helper.
    """

    seed: int = 0
    device: str = "cpu"
    scratch: Path | None = None
    progress: Progress = _silent
    inspector: Inspector | None = None
    curves: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    idle_parameters: list[str] | None = None
    precision: Precision = "float32"
    compile: bool = False
    callbacks: list[Any] = field(default_factory=list)


class Method(ABC):
    """A method fits on sections and predicts expression for sections it has not seen.

    Subclasses live in a module of their own and set the class attributes below. Importing the
    module must be quick: heavy libraries are imported where they are used.

    Attributes
    ----------
    name
        What users type.
    Config
        Settings as a :class:`MethodConfig`, defaults being the authors' values.
    unit
        What one training sample is: a ``spot`` or a whole ``section``.
    needs_image
        Whether it looks at the image; sections without one are then left out.
    reads_section
        Whether the prediction of a spot may depend on others of its section. Where it does not, a
        whole slide is predicted stripe by stripe.
    control
        Whether the method is a negative control.
    presets
        Changes to the defaults by preset: ``quick`` is for machines without a GPU, ``tiny`` for
        checks that take a second.
    dataset_settings
        Changes to the defaults by dataset, where the authors used different values.
    predict_space
        Settings that :meth:`predict` alone reads, each with the values worth trying: tuning tries
        them all on one fit.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    unit: ClassVar[Literal["spot", "section"]] = "spot"
    needs_image: ClassVar[bool] = True
    reads_section: ClassVar[bool] = True
    control: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}, "tiny": {}}
    dataset_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    predict_space: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def __init__(self, config: MethodConfig | None = None) -> None:
        self.config: Any = config if config is not None else self.Config()

    @classmethod
    def configure(
        cls, dataset: str, preset: str, changes: Mapping[str, Any] | None = None
    ) -> MethodConfig:
        """Settings for a dataset: defaults, then the dataset's, the preset's, the user's.

        Raises
        ------
        UnknownNameError
            A preset or setting that does not exist; the nearest names are offered.
        ConfigError
            A value that is not allowed.
        """
        known = {"authors", *cls.presets}
        if preset not in known:
            raise UnknownNameError(f"preset of {cls.name}", preset, known)
        presets = {**cls.dataset_settings.get(dataset, {}), **cls.presets.get(preset, {})}
        values = cls.Config.combine(presets, changes)
        for key in values:
            if key not in cls.Config.model_fields:
                raise UnknownNameError(f"setting of {cls.name}", key, cls.Config.model_fields)
        try:
            return cls.Config.model_validate(values)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise ConfigError(f"setting of {cls.name}: {where}: {fault['msg']}") from error

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Settings suggested by an Optuna trial; none by default, so nothing to tune."""
        return {}

    @abstractmethod
    def fit(self, data: TrainingData, context: Context) -> None:
        """Learn from training sections."""

    @abstractmethod
    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Predict each slide: one (spots, panel) float32 array a slide, on the target scale."""

    def predict_each(
        self, slides: Sequence[Slide], context: Context, configs: Sequence[MethodConfig]
    ) -> Iterator[list[np.ndarray]]:
        """Predict under several settings that differ in `predict_space` alone.

        Yields what :meth:`predict` would give under each. A method with a costly step that these
        settings do not touch, such as embedding images, does that step once.
        """
        own = self.config
        try:
            for config in configs:
                self.config = config
                yield self.predict(slides, context)
        finally:
            self.config = own

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what :meth:`load` needs into an existing folder; no pickle."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """The fitted method that :meth:`save` wrote."""

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """The method with the tensors of its authors' checkpoint, ready to predict.

        Parameters
        ----------
        source
            Path of a checkpoint file, or its tensors by the authors' names.
        config
            Settings; what the tensors' shapes tell is taken from them.
        data
            Training sections of the fold: a retrieval bank or colour statistics, which a
            checkpoint does not hold, are made from them.
        context
            Seed and device.

        Raises
        ------
        DataError
            The file would run code, or is of another method or panel size.
        ConfigError
            The method has no released checkpoints.
        """
        raise ConfigError(f"{cls.name} has no released checkpoints to read")
