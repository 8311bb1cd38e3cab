"""A plain training loop, as the released code of the field is described to have it.

PIL crops every patch from the opened image on request, torchvision augments it on the CPU one at a
time, and the batch is collated in NCHW, as a DataLoader without workers does. The network, the loss
and the optimiser are the method's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms

from bench.data.images.patches import patch_edge
from bench.data.inputs import Slide
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


def plain_batches(
    loader: DataLoader[Any], sections: Sequence[Slide], settings: Any
) -> Iterator[dict[str, Tensor]]:
    """Batches of the same spots or sections in the same order as a method's own, without end.

    Parameters
    ----------
    loader
        The method's; its sampler and the arrays of its dataset are reused.
    sections
        The sections it was made of.
    settings
        The method's; ``patch_size``, ``input_size`` and, for spots, ``augment`` are read.

    Raises
    ------
    NoPlainLoopError
        The method trains on other items, or its spots without a known augmentation.
    """
    own = loader.dataset
    if not isinstance(own, SpotDataset | SectionDataset):
        raise NoPlainLoopError("the plain loop feeds batches of spots, or sections, alone")
    whole = isinstance(own, SectionDataset)
    if len(own) != (len(sections) if whole else sum(map(len, sections))):
        raise NoPlainLoopError("the plain loop feeds all training spots, or sections, alone")
    change = image_change("none" if whole else getattr(settings, "augment", "of the method"))
    asked = sections[0].patch_pixels if settings.patch_size is None else settings.patch_size
    edge = patch_edge(asked, sections[0].micrometres_per_pixel, f"section {sections[0].name}")
    side = settings.input_size or edge
    sources = [section.patch_source for section in sections if section.patch_source is not None]
    images = [Image.open(source.image).convert("RGB") for source in sources]
    corners = [np.floor(source.centres).astype(int) - edge // 2 for source in sources]
    spots = [[(s, spot) for spot in range(len(inside))] for s, inside in enumerate(corners)]
    items = spots if whole else [[spot] for spot in chain(*spots)]

    def crop(section: int, spot: int) -> Tensor:
        x, y = corners[section][spot].tolist()
        patch = images[section].crop((x, y, x + edge, y + edge))
        if side != edge:
            patch = patch.resize((side, side), Image.Resampling.BOX)
        return torch.from_numpy(np.array(change(patch))).permute(2, 0, 1)

    def batches() -> Iterator[dict[str, Tensor]]:
        sampler: Any = loader.sampler
        for epoch in count():
            sampler.set_epoch(epoch)
            for order in sampler:
                chosen = list(chain(*(items[item] for item in order)))
                batch = {
                    name: default_collate([parts[s][i] for s, i in chosen])
                    for name, parts in own.arrays.items()
                }
                yield {**batch, "patches": torch.stack([crop(s, i) for s, i in chosen])}

    return batches()
