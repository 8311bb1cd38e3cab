"""A plain training loop, as the released code of the field is described to have it.

PIL crops every patch from the opened image on request, torchvision augments it on the CPU one at a
time, and a DataLoader without workers collates the batch in NCHW. The network, the loss and the
optimiser are the method's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench.data.images.patches import patch_edge
from bench.data.views import Slide
from bench.errors import BenchError
from bench.training.batches import SectionDataset, SpotDataset

_TURNS = (0, 90, 180, 270)


class NoPlainLoopError(BenchError):
    """The plain loop cannot feed this method."""


def image_change(augment: str | bool) -> Callable[[Image.Image], Image.Image]:
    """Augmentation of one PIL image, by the value of a method's setting ``augment``.

    Raises
    ------
    NoPlainLoopError
        The released loops have no such augmentation.
    """
    kind = ("quarter_turns" if augment else "none") if isinstance(augment, bool) else augment
    steps: list[Any] = []
    if kind == "jitter_flip_rotate":
        jitter = transforms.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5)
        steps = [jitter, transforms.RandomHorizontalFlip(), transforms.RandomRotation(180)]
    elif kind == "quarter_turns":
        flips = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
        steps = [*flips, transforms.Lambda(_turned)]
    elif kind != "none":
        raise NoPlainLoopError(f"the plain loop has no augmentation '{kind}'")
    changed: Callable[[Image.Image], Image.Image] = transforms.Compose(steps)
    return changed


def _turned(image: Image.Image) -> Image.Image:
    return image.rotate(random.choice(_TURNS))  # noqa: S311 - no secret


class Crops(Dataset[dict[str, Tensor]]):
    """Spots, or whole sections, whose patches are cropped one at a time.

    Parameters
    ----------
    own
        The method's dataset; its arrays are reused.
    sections
        The sections it was made of.
    settings
        The method's; ``patch_size``, ``input_size`` and, for spots, ``augment`` are read.

    Raises
    ------
    NoPlainLoopError
        The method trains on other items, or without a setting ``augment``.
    """

    def __init__(
        self, own: SpotDataset | SectionDataset, sections: Sequence[Slide], settings: Any
    ) -> None:
        self.whole = isinstance(own, SectionDataset)
        if len(own) != (len(sections) if self.whole else sum(map(len, sections))):
            raise NoPlainLoopError("the plain loop feeds all training spots, or sections, alone")
        if not self.whole and not hasattr(settings, "augment"):
            raise NoPlainLoopError("the plain loop feeds spots with a setting 'augment' alone")
        self._arrays = own.arrays
        self._change = image_change("none" if self.whole else settings.augment)
        self._images, self._corners = [], []
        self._edge = patch_edge(
            sections[0].patch_pixels if settings.patch_size is None else settings.patch_size,
            sections[0].micrometres_per_pixel,
            f"section {sections[0].name}",
        )
        self._side = settings.input_size or self._edge
        for section in sections:
            source = section.patch_source
            if source is None:
                raise NoPlainLoopError(f"section {section.name} has no image")
            with Image.open(source.image) as image:
                self._images.append(image.convert("RGB"))
            self._corners.append(np.floor(source.centres).astype(int) - self._edge // 2)
        sizes = [range(len(corners)) for corners in self._corners]
        self._spots = [(s, spot) for s, size in enumerate(sizes) for spot in size]

    def __len__(self) -> int:
        return len(self._images) if self.whole else len(self._spots)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        """``patches`` as (3, height, width) uint8, for sections (n, 3, ...), and the arrays."""
        if self.whole:
            spots = range(len(self._corners[item]))
            patches = torch.stack([self._crop(item, spot) for spot in spots])
            arrays = {n: torch.as_tensor(parts[item]) for n, parts in self._arrays.items()}
            return {**arrays, "patches": patches}
        section, spot = self._spots[item]
        arrays = {n: torch.as_tensor(a[section][spot]) for n, a in self._arrays.items()}
        return {**arrays, "patches": self._crop(section, spot)}

    def _crop(self, section: int, spot: int) -> Tensor:
        x, y = self._corners[section][spot].tolist()
        patch = self._images[section].crop((x, y, x + self._edge, y + self._edge))
        if self._side != self._edge:
            patch = patch.resize((self._side, self._side), Image.Resampling.BOX)
        pixels = torch.from_numpy(np.array(self._change(patch)))
        return pixels.permute(2, 0, 1).contiguous()


def plain_batches(
    loader: DataLoader[Any], sections: Sequence[Slide], settings: Any
) -> Iterator[dict[str, Tensor]]:
    """Batches of the same spots or sections in the same order as a method's own, without end."""
    if not isinstance(loader.dataset, SpotDataset | SectionDataset):
        raise NoPlainLoopError("the plain loop feeds batches of spots, or sections, alone")
    crops = Crops(loader.dataset, sections, settings)
    sampler: Any = loader.sampler

    def batches() -> Iterator[dict[str, Tensor]]:
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            order = list(sampler)
            if crops.whole:
                yield from DataLoader(crops, sampler=[s for (s,) in order], batch_size=None)
            else:
                yield from DataLoader(crops, batch_sampler=order)
            epoch += 1

    return batches()
