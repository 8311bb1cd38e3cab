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
from bench.data.views import Slide
from bench.errors import BenchError
from bench.speed.steps import Batch
from bench.training import SpotDataset

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


class ReferenceSpots(Dataset[dict[str, Tensor]]):
    """Spots whose patches are cropped one at a time.

    Parameters
    ----------
    sections
        Where they lie, in the order of the arrays' rows.
    arrays
        What else belongs to a spot, by name.
    patch_size, input_size
        Settings of the method: edge of the crop, and edge after resampling.
    augment
        Random change; see :func:`image_change`.

    Raises
    ------
    NoReferenceError
        A section without an image, or whose image is a reduced copy.
    DataError
        An image that cannot be read.
    """

    def __init__(
        self,
        sections: Sequence[Slide],
        arrays: Mapping[str, Tensor],
        patch_size: int | str | None,
        input_size: int | None,
        augment: str | bool,
    ) -> None:
        self._arrays = {name: values.cpu() for name, values in arrays.items()}
        self._change = image_change(augment)
        self._images: list[Image.Image] = []
        self._spots: list[tuple[int, int, int, int]] = []
        for number, section in enumerate(sections):
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
            self._spots += [(number, x, y, edge) for x, y in corners.tolist()]
        self._input_size = input_size
        if input_size is None and isinstance(patch_size, str):
            self._input_size = sections[0].patch_pixels

    def __len__(self) -> int:
        return len(self._spots)

    def __getitem__(self, spot: int) -> dict[str, Tensor]:
        """One spot: ``patches`` as (3, height, width) uint8, and the named values."""
        section, x, y, edge = self._spots[spot]
        patch = self._images[section].crop((x, y, x + edge, y + edge))
        if self._input_size not in {None, edge}:
            side = int(self._input_size or edge)
            patch = patch.resize((side, side), Image.Resampling.BOX)
        pixels = torch.from_numpy(np.array(self._change(patch)))
        values = {name: value[spot] for name, value in self._arrays.items()}
        return {**values, "patches": pixels.permute(2, 0, 1).contiguous()}


def reference_batches(
    loader: DataLoader[Any], sections: Sequence[Slide], settings: Any, augment: str | bool | None
) -> Iterator[Batch]:
    """Batches of the same spots in the same order as a method's own loader, without end.

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
        The method does not train on batches of spots, or not on images.
    """
    dataset = loader.dataset
    if not isinstance(dataset, SpotDataset) or len(dataset) != sum(map(len, sections)):
        raise NoReferenceError("the plain loop feeds methods that train on batches of spots alone")
    change = getattr(settings, "augment", None) if augment is None else augment
    if change is None:
        raise NoReferenceError("the plain loop feeds methods with a setting 'augment' alone")
    spots = ReferenceSpots(
        sections, dataset.arrays, settings.patch_size, settings.input_size, change
    )
    sampler: Any = loader.sampler

    def batches() -> Iterator[Batch]:
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            yield from DataLoader(spots, batch_sampler=list(sampler), num_workers=0)
            epoch += 1

    return batches()
