"""Base class of methods that train a network. Importing it imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from bench.data.images.patches import PatchSize
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.encoders.settings import EncoderConfig
from bench.errors import ConfigError
from bench.method import Context, Method, MethodConfig

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor


class NetworkConfig(EncoderConfig):
    """Base of a network's settings.

    A method declares the settings below among its own, with its authors' defaults, and documents
    only what is particular to it.

    Attributes
    ----------
    patch_size
        Edge of a patch in pixels of the full-resolution image, or in micrometres as in
        ``"150um"``; None takes the dataset's.
    input_size
        Edge that patches are resampled to; None keeps `patch_size`. One of the two must be a
        number of pixels where a network takes patches of one size alone.
    learning_rate
        Step size of the optimiser.
    epochs
        Passes over the training spots.
    batch_size
        Spots of a training step; methods of unit ``section`` have no such setting.
    patience
        Stop early on the validation sections after so many epochs and keep the best weights;
        None trains all epochs on training and validation sections together.
    """

    if TYPE_CHECKING:
        # Not declared here at run time: inherited fields would move in front of a method's own.
        patch_size: PatchSize
        input_size: int | None
        learning_rate: float
        epochs: int
        patience: int | None


class NetworkMethod(Method):
    """A method that trains one network on patches.

    A method gives :meth:`build`, :meth:`restore`, :meth:`training_module` and
    :meth:`predict_slide`; further inputs and remembered arrays where it has some. Methods of unit
    ``spot`` train on random batches of spots, methods of unit ``section`` on one section a step.

    Attributes
    ----------
    network
        The network, set by :meth:`fit`, :meth:`load` and :meth:`from_released`. It has ``genes``,
        its panel size, and ``edge`` if it takes patches of one size alone.
    images_at_once
        Patches that are predicted together.
    memory
        File of the arrays that a fitted method has beside its network; None if it has none.
    not_in_tensors
        Settings that change predictions and that a released checkpoint's tensors do not tell.
    """

    images_at_once: ClassVar[int] = 64
    memory: ClassVar[str | None] = None
    not_in_tensors: ClassVar[tuple[str, ...]] = ()
    network: Any

    @abstractmethod
    def build(self, data: TrainingData, context: Context) -> Any:
        """The untrained network for the panel of a fold; torch is seeded before."""

    @abstractmethod
    def restore(self, source: Any) -> Any:
        """The network with the tensors of a file, or with given tensors by the authors' names.

        What the tensors' shapes tell is taken from them and not from the settings.

        Raises
        ------
        DataError
            The file would run code, or its tensors are not those of the network.
        """

    @abstractmethod
    def training_module(self) -> pl.LightningModule:
        """Network, loss and optimiser as the training helper takes them."""

    @abstractmethod
    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """(spots, panel) prediction of one slide.

        Parameters
        ----------
        images
            Patches in the order of the spots, :attr:`images_at_once` at a time: (n, 3, height,
            width) uint8 on the device of the network, which is in evaluation mode.
        inputs
            Values of :meth:`inputs` on the same device.
        """

    def inputs(self, slide: Slide) -> dict[str, np.ndarray]:
        """What the network reads of a slide beside its patches, by name; nothing by default.

        Training batches hold the same. Arrays of a method of unit ``spot`` have one row a spot.
        """
        return {}

    def training_arrays(self, section: TrainingSection) -> dict[str, np.ndarray]:
        """What a training batch holds beside patches and :meth:`inputs`; the target by default."""
        return {"target": section.target}

    def patches(self, slide: Slide) -> np.ndarray:
        """(spots, height, width, 3) uint8 patches of a slide as the settings ask for them."""
        return slide.patches(self.config.patch_size, self.config.input_size)

    def loader(self, sections: Sequence[TrainingSection], seed: int) -> Any:
        """Batches of sections for a training, in an order that follows from `seed`.

        They hold ``patches``, :meth:`inputs` and :meth:`training_arrays`, of a few spots or of one
        whole section as :attr:`unit` says.
        """
        from bench.training.batches import SectionDataset, SpotDataset, section_loader, spot_loader

        patches = [self.patches(section) for section in sections]
        each = [{**self.inputs(part), **self.training_arrays(part)} for part in sections]
        arrays = {name: [values[name] for values in each] for name in each[0]}
        if self.unit == "section":
            return section_loader(SectionDataset(patches, arrays), seed)
        return spot_loader(SpotDataset(patches, arrays), self.config.batch_size, seed)

    def complete(self, data: TrainingData, context: Context) -> None:
        """Make what predicting needs beside the network, from the network as it is.

        Called after the training, between its epochs when an inspector looks, and for a released
        checkpoint.
        """

    def remembered(self) -> dict[str, np.ndarray]:
        """Arrays for the file :attr:`memory`, by name."""
        return {}

    def remember(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`remembered` gave."""

    def chosen(self, *settings: str) -> dict[str, Any]:
        """Values of settings by name, as arguments of a network whose parameters bear them."""
        return {name: getattr(self.config, name) for name in settings}

    def fit(self, data: TrainingData, context: Context) -> None:
        """Build the network and train it."""
        import torch

        from bench.training.fitting import train_on

        torch.manual_seed(context.seed)
        self.network = self.build(data, context)
        complete = partial(self.complete, data, context)
        train_on(
            self.training_module(),
            data,
            partial(self.loader, seed=context.seed),
            epochs=self.config.epochs,
            patience=self.config.patience,
            context=context,
            ready=complete,
        )
        complete()

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Predict slide by slide with :meth:`predict_slide`."""
        import torch

        from bench.blocks.images import image_batches
        from bench.blocks.precision import to_device

        to_device(self.network, context).eval()
        predictions = []
        with torch.inference_mode():
            for slide in slides:
                inputs = {
                    name: torch.from_numpy(values).to(context.device)
                    for name, values in self.inputs(slide).items()
                }
                images = image_batches(self.patches(slide), context.device, self.images_at_once)
                predictions.append(self.predict_slide(images, **inputs).cpu().numpy())
        return predictions

    def save(self, folder: Path) -> None:
        """Write ``network.safetensors``, and the file :attr:`memory` if there is one."""
        from bench.blocks.weights import save_network
        from bench.files import atomic_write

        save_network(self.network, folder)
        if self.memory is not None:
            arrays: dict[str, Any] = self.remembered()
            with atomic_write(folder / self.memory) as temporary:
                np.savez(temporary, **arrays)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig) -> Self:
        """Read what :meth:`save` wrote; all weights come from there alone."""
        from bench.blocks.weights import NETWORK

        method = cls(config)
        if cls.memory is not None:
            with np.load(folder / cls.memory, allow_pickle=False) as arrays:
                method.remember(dict(arrays))
        method.network = method.restore(folder / NETWORK)
        return method

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """The method with a released checkpoint, completed from the training sections."""
        from bench.blocks.weights import check_panel

        method = cls(config)
        method.network = method.restore(source)
        check_panel(source, method.network.genes, data.panel)
        if cls.not_in_tensors:
            taken = [f"{name}={getattr(config, name)}" for name in cls.not_in_tensors]
            context.notes.append(
                f"the checkpoint does not tell {', '.join(taken)}: taken from the settings"
            )
        edge = getattr(method.network, "edge", None)
        if edge is not None and edge != method.input_edge():
            raise ConfigError(
                f"{cls.name}: the checkpoint takes patches of {edge} pixels a side,"
                f" the settings give {method.input_edge()} (input_size)"
            )
        method.complete(data, context)
        return method

    def input_edge(self) -> int:
        """Edge in pixels of what a network of one input size is fed.

        Raises
        ------
        ConfigError
            The settings leave it to the dataset.
        """
        from bench.blocks.images import one_edge

        return one_edge(self.name, self.config.patch_size, self.config.input_size)

    def mean_target(self, data: TrainingData) -> np.ndarray:
        """(panel,) float64 mean target of the spots that a fit learns from."""
        from bench.training.fitting import learned_sections

        learned = learned_sections(data, self.config.patience)
        targets = np.concatenate([section.target for section in learned])
        return targets.mean(axis=0, dtype=np.float64)
