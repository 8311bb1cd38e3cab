"""Base class of methods that predict by retrieval. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.method import Context
from bench.training.network_method import NetworkConfig, NetworkMethod

if TYPE_CHECKING:
    from torch import Tensor


class RetrievalConfig(NetworkConfig):
    """Base of the settings of a method that predicts by retrieval.

    A method declares the settings below among its own, as those of :class:`NetworkConfig`.

    Attributes
    ----------
    pixels
        How pixels are fed: ``encoder`` (standardised as in the encoder's own training),
        ``imagenet``, ``bgr255``, ``rgb01``.
    augment
        Random changes of the training patches: ``quarter_turns`` with flips,
        ``jitter_flip_rotate``, ``none``.
    augment_at_test
        The same random changes when predicting.
    """

    if TYPE_CHECKING:
        pixels: Any
        augment: Any
        augment_at_test: bool


class RetrievalMethod(NetworkMethod):
    """A network that embeds patches and spots in one space, and a bank of training spots.

    A slide's prediction is an average of the targets of the training spots whose embeddings are
    nearest to those of its patches. The network has ``embed_images`` and ``embed_spots``; the
    settings in ``predict_space`` are arguments of :func:`bench.blocks.retrieval.retrieve`.

    Attributes
    ----------
    keys, values
        (spots, width) embeddings and (spots, panel) targets of the training spots.
    """

    reads_section: ClassVar[bool] = False
    memory: ClassVar[str | None] = "bank.npz"
    keys: np.ndarray
    values: np.ndarray

    def training_arrays(self, section: TrainingSection) -> dict[str, np.ndarray]:
        """What ``embed_spots`` of the network takes, by name; the expression by default."""
        return {"expression": section.expression}

    def embed_spots(self, sections: Sequence[TrainingSection], device: str) -> Iterator[Tensor]:
        """Embeddings of the spots of sections, in their order; section by section by default."""
        import torch

        for section in sections:
            arrays = self.training_arrays(section)
            yield self.network.embed_spots(
                **{name: torch.from_numpy(part).to(device) for name, part in arrays.items()}
            )

    def complete(self, data: TrainingData, context: Context) -> None:
        """Embed the training spots as keys."""
        import torch

        from bench.blocks.precision import to_device

        to_device(self.network, context).eval()
        with torch.inference_mode():
            keys = torch.cat(list(self.embed_spots(data.sections, context.device)))
        self.keys = keys.cpu().numpy()
        self.values = np.concatenate([section.target for section in data.sections])

    def remembered(self) -> dict[str, np.ndarray]:
        """Keys and values of the bank."""
        return {"keys": self.keys, "values": self.values}

    def remember(self, arrays: dict[str, np.ndarray]) -> None:
        """Keys and values of the bank."""
        self.keys, self.values = arrays["keys"], arrays["values"]

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Embed the patches and average the targets of the nearest keys."""
        return next(self.predict_each(slides, context, [self.config]))

    def predict_each(
        self, slides: Sequence[Slide], context: Context, configs: Sequence[Any]
    ) -> Iterator[list[np.ndarray]]:
        """The same under each setting of the retrieval; patches are embedded once."""
        import torch

        from bench.blocks.precision import to_device
        from bench.blocks.retrieval import retrieve_each

        to_device(self.network, context).eval()
        with torch.inference_mode():
            embedded = [self._embed_images(slide, context) for slide in slides]
        settings = [{name: getattr(c, name) for name in self.predict_space} for c in configs]
        yield from retrieve_each(embedded, self.keys, self.values, settings)

    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """Not used: a bank is searched for all slides at once."""
        raise NotImplementedError

    def _embed_images(self, slide: Slide, context: Context) -> Tensor:
        import torch

        from bench.blocks.augment import augmentation
        from bench.blocks.images import image_batches, to_network_scale

        # Seeded slide by slide: what is drawn for one must not depend on those before it.
        torch.manual_seed(context.seed)
        change = augmentation(self.config.augment if self.config.augment_at_test else "none")
        encoder = getattr(self.network, "image_encoder", None)
        return torch.cat(
            [
                self.network.embed_images(
                    to_network_scale(change(images), self.config.pixels, encoder)
                )
                for images in image_batches(
                    self.patches(slide), context.device, self.images_at_once
                )
            ]
        )
