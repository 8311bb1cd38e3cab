"""A new image as methods see it: at the scale of the images that they were fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.data.scales import matching_scale
from bench.errors import DataError
from bench.prediction.new_image import NewImage
from bench.prediction.spots import ImageSpots

if TYPE_CHECKING:
    from bench.data.inputs import Slide


@dataclass(frozen=True)
class TrainedScale:
    """What a new image is brought to.

    Attributes
    ----------
    label
        Name of the model, for messages.
    patch_pixels
        Edge of a patch that the dataset's card recommends, in full-resolution pixels.
    micrometres
        Whether the model takes patches in micrometres.
    known
        Micrometres a full-resolution pixel of the training sections, as far as known.
    """

    label: str
    patch_pixels: int
    micrometres: bool
    known: Sequence[float]


def takes_micrometres(configs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether settings of a method give its patches in micrometres."""
    return any(str(config.get("patch_size")).endswith("um") for config in configs)


def slide_of_image(
    image: NewImage, spots: ImageSpots, trained: TrainedScale
) -> tuple[Slide, list[str]]:
    """The image as methods see it, at the scale of the training, and notes on its scale.

    Parameters
    ----------
    image
        The image.
    spots
        Its spots, in full-resolution pixels.
    trained
        Scale of the training.

    Raises
    ------
    DataError
        The scale is not known and patches are in micrometres, or it is beyond four times that of
        the training sections.
    """
    from bench.data.inputs import Slide

    notes, scale, factor = [], image.micrometres_per_pixel, 1.0
    if image.from_metadata:
        notes.append(f"the pixel size, {scale:.4g} um, is that of the image's metadata")
    if scale is None and trained.micrometres:
        raise DataError(
            f"{image.path}: {image.unknown_scale}, and {trained.label} takes patches in"
            " micrometres; give --um-per-px"
        )
    if scale is None:
        reason = image.unknown_scale.removeprefix("its ")
        notes.append(f"the {reason}: it is taken to be that of the training images")
    elif not trained.known:
        notes.append("the scale of the training images is not known here, and is not compared")
    elif (same := _common_scale(trained.known, scale, image.image_scale)) is not None:
        factor = scale / same
        notes.append(
            f"scale mismatch: the image has {scale:.4g} um a pixel; patches are resampled to"
            f" {same:.4g} um, as the training images have"
        )
        scale = same
    centres = spots.spatial if factor == 1.0 else spots.spatial * factor
    slide = Slide(
        name=image.path.stem,
        array_xy=spots.array_xy,
        spatial=centres,
        patch_pixels=trained.patch_pixels,
        patch_source=image.source(centres, factor),
        micrometres_per_pixel=scale,
    )
    return slide, notes


def _common_scale(known: Sequence[float], scale: float, image_scale: float) -> float | None:
    """Scale that patches are brought to; None where the image has one of the training's.

    A reduced image of a slide that is beyond the limit may itself be within it.
    """
    own = scale / image_scale
    try:
        return matching_scale(list(known), scale)
    except DataError:
        if image_scale == 1.0:
            raise
    nearest = matching_scale(list(known), own)
    return own if nearest is None else nearest
