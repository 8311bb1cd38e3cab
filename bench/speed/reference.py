"""A plain training loop, as the released code of the field is described to have it.

Every patch is cropped by PIL out of the opened image when it is asked for, changed at random by
torchvision on the CPU one image at a time, collated by a DataLoader without workers, and fed in
float32 and NCHW. The network, the loss and the optimiser are the method's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.data.images.image import open_image
from bench.data.images.patches import patch_edge
from bench.data.inputs import Slide
from bench.errors import BenchError
from bench.speed.steps import Batch
from bench.training.batches import SectionDataset, SpotDataset

_QUARTER_TURNS = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
)


class NoReferenceError(BenchError):
    """The plain loop cannot feed this method."""


def image_change(augment: str | bool) -> Callable[[Image.Image], Image.Image]:
    """Random change of one PIL image, by the name that a method's setting ``augment`` has.

    Raises
    ------
    NoReferenceError
        There is no such change among the released ones.
    """
    from torchvision import transforms

    if isinstance(augment, bool):  # all symmetries of the square, or none
        kind = "quarter_turns" if augment else "none"
    else:
        kind = augment
    if kind == "none":
        return lambda image: image
    flips = [transforms.RandomHorizontalFlip()]
    if kind == "jitter_flip_rotate":
        jitter = transforms.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5)
        changed: Callable[[Image.Image], Image.Image] = transforms.Compose(
            [jitter, *flips, transforms.RandomRotation(180)]
        )
        return changed
    if kind != "quarter_turns":
        raise NoReferenceError(f"the plain loop has no random change '{kind}'")
    both = transforms.Compose([*flips, transforms.RandomVerticalFlip()])

    def turned(image: Image.Image) -> Image.Image:
        turn = random.choice(_QUARTER_TURNS)  # noqa: S311 - no secret
        flipped: Image.Image = both(image)
        return flipped if turn is None else flipped.transpose(turn)

    return turned


class ReferencePatches:
    """Patches of sections, cropped one at a time.

    Parameters
    ----------
    sections
        Where they lie.
    patch_size, input_size
        Settings of the method: edge of the crop, and edge after resampling.

    Raises
    ------
    NoReferenceError
        A section without an image, or whose image is a reduced copy.
    DataError
        An image that cannot be read.
    """

    def __init__(
        self, sections: Sequence[Slide], patch_size: int | str | None, input_size: int | None
    ) -> None:
        self._images: list[Image.Image] = []
        self.corners: list[list[tuple[int, int]]] = []
        self._edges: list[int] = []
        for section in sections:
            source = section.patch_source
            if source is None or source.image_scale != 1:
                raise NoReferenceError(
                    f"section {section.name}: the plain loop crops whole images alone"
                )
            asked = section.patch_pixels if patch_size is None else patch_size
            edge = patch_edge(asked, section.micrometres_per_pixel, f"section {section.name}")
            with open_image(source.image, source.max_image_pixels) as image:
                self._images.append(image.convert("RGB"))
            corners = np.floor(source.centres).astype(np.int64) - edge // 2
            self.corners.append([(x, y) for x, y in corners.tolist()])
            self._edges.append(edge)
        self._input_size = input_size
        if input_size is None and isinstance(patch_size, str):
            self._input_size = sections[0].patch_pixels

    def crop(self, section: int, spot: int) -> Image.Image:
        """Patch of one spot of a section, both by number."""
        (x, y), edge = self.corners[section][spot], self._edges[section]
        patch = self._images[section].crop((x, y, x + edge, y + edge))
        side = self._input_size or edge
        return patch if side == edge else patch.resize((side, side), Image.Resampling.BOX)


class ReferenceSpots(Dataset[dict[str, Tensor]]):
    """Spots whose patches are cropped and changed at random one at a time.

    Parameters
    ----------
    patches
        Where they come from.
    arrays
        What else belongs to the spots, by name, one array a section.
    augment
        Random change; see :func:`image_change`.
    """

    def __init__(
        self,
        patches: ReferencePatches,
        arrays: Mapping[str, Sequence[np.ndarray]],
        augment: str | bool,
    ) -> None:
        self._patches, self._arrays = patches, arrays
        self._change = image_change(augment)
        self._spots = [(s, i) for s, part in enumerate(patches.corners) for i in range(len(part))]

    def __len__(self) -> int:
        return len(self._spots)

    def __getitem__(self, spot: int) -> dict[str, Tensor]:
        """One spot: ``patches`` as (3, height, width) uint8, and the named values."""
        section, number = self._spots[spot]
        pixels = _pixels(self._change(self._patches.crop(section, number)))
        values = {n: torch.tensor(parts[section][number]) for n, parts in self._arrays.items()}
        return {**values, "patches": pixels}


class ReferenceSections(Dataset[dict[str, Tensor]]):
    """Whole sections whose patches are cropped one at a time, each time anew.

    Parameters
    ----------
    patches
        Where they come from.
    arrays
        What else belongs to the spots, by name, one array a section.
    """

    def __init__(self, patches: ReferencePatches, arrays: Mapping[str, Sequence[Tensor]]) -> None:
        self._patches, self._arrays = patches, arrays

    def __len__(self) -> int:
        return len(self._patches.corners)

    def __getitem__(self, section: int) -> dict[str, Tensor]:
        """One section: ``patches`` as (n, 3, height, width) uint8, and the named values."""
        spots = range(len(self._patches.corners[section]))
        images = torch.stack([_pixels(self._patches.crop(section, spot)) for spot in spots])
        return {**{name: parts[section] for name, parts in self._arrays.items()}, "patches": images}


def _pixels(patch: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(patch)).permute(2, 0, 1).contiguous()


def reference_batches(
    loader: DataLoader[Any], sections: Sequence[Slide], settings: Any, augment: str | bool | None
) -> Iterator[Batch]:
    """Batches of the same spots or sections in the same order as a method's own, without end.

    Parameters
    ----------
    loader
        The method's.
    sections
        What it was made of.
    settings
        The method's; its patch size, input size and random change are read.
    augment
        Random change in place of the setting's.

    Raises
    ------
    NoReferenceError
        The method trains on other batches, or not on images.
    """
    plain: ReferenceSpots | ReferenceSections
    dataset = loader.dataset
    if isinstance(dataset, SpotDataset) and len(dataset) == sum(map(len, sections)):
        change = getattr(settings, "augment", None) if augment is None else augment
        if change is None:
            raise NoReferenceError("the plain loop feeds spots with a setting 'augment' alone")
        patches = ReferencePatches(sections, settings.patch_size, settings.input_size)
        plain = ReferenceSpots(patches, dataset.arrays, change)
    elif isinstance(dataset, SectionDataset) and len(dataset) == len(sections):
        patches = ReferencePatches(sections, settings.patch_size, settings.input_size)
        plain = ReferenceSections(patches, dataset.arrays)
    else:
        raise NoReferenceError("the plain loop feeds batches of spots, or sections, alone")
    sampler: Any = loader.sampler

    def batches() -> Iterator[Batch]:
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            order = list(sampler)
            if isinstance(plain, ReferenceSpots):
                yield from DataLoader(plain, batch_sampler=order, num_workers=0)
            else:
                alone = [section for (section,) in order]
                yield from DataLoader(plain, sampler=alone, batch_size=None, num_workers=0)
            epoch += 1

    return batches()
