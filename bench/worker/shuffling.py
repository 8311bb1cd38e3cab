"""Slides of the permuted-image control, which know whether a method has used the permutation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Self

from bench.data.inputs import Slide
from bench.errors import BenchError


class ShuffledSlide(Slide):
    """A slide whose images are permuted among its spots.

    Patches, features of a frozen encoder and :func:`bench.blocks.frozen.in_image_order` read the
    attribute ``image_order``; a method that reads its images in another way does not.
    """

    @classmethod
    def of(cls, slide: Slide, seed: int) -> Self:
        """The slide with its images permuted from `seed`."""
        shuffled = slide.with_images_shuffled(seed)
        return cls(**{field.name: getattr(shuffled, field.name) for field in fields(Slide)})

    def __getattribute__(self, name: str) -> Any:
        if name == "image_order":
            object.__getattribute__(self, "__dict__")["_asked"] = True
        return object.__getattribute__(self, name)

    @property
    def asked(self) -> bool:
        """Whether the order of the images has been read."""
        return bool(vars(self).get("_asked", False))


def shuffled_slides(slides: Sequence[Slide], seed: int) -> list[ShuffledSlide]:
    """Slides of the permuted-image control; equal seeds give equal permutations."""
    return [ShuffledSlide.of(slide, seed + number) for number, slide in enumerate(slides)]


def check_shuffled(slides: Sequence[ShuffledSlide], name: str) -> None:
    """Refuse a control whose method did not look at the permuted images of a slide.

    Parameters
    ----------
    slides
        What the method has predicted.
    name
        Name of the method.

    Raises
    ------
    BenchError
        Its predictions would be those of the method itself, under the name of a control.
    """
    for slide in slides:
        if not slide.asked:
            raise BenchError(
                f"the images of section {slide.name} were not permuted: {name} reads them neither"
                " by slide.patches nor by a FrozenEncoder; put features of its own in order with"
                " in_image_order of bench.api"
            )
