"""Fitted methods of stored runs, and new images as methods see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from bench.errors import BenchError, ConfigError, DataError
from bench.files import file_hash, one_line
from bench.prediction.places import other_kind, system_reason

if TYPE_CHECKING:
    from bench.data.images.patches import PatchSource
    from bench.data.inputs import Slide
    from bench.method import Context, Method

LARGE_IMAGE = 1_000_000_000
"""Pixels of the largest image that is opened where no card says otherwise."""


def load_fitted(kind: type[Method], config: Mapping[str, Any], folder: Path) -> Method:
    """The method that a folder holds, fitted.

    Parameters
    ----------
    kind
        Class of the method.
    config
        Settings that it was fitted under.
    folder
        What :meth:`bench.method.Method.save` wrote.

    Raises
    ------
    ConfigError
        The settings are not those of the installed method.
    DataError
        The files cannot be read.
    """
    try:
        settings = kind.Config.model_validate(config)
    except ValidationError as error:
        raise ConfigError(
            f"{folder}: its settings are not those of the installed {kind.name};"
            " install the version of spotbench that made it"
        ) from error
    try:
        return kind.load(folder, settings)
    except BenchError:
        raise
    except Exception as error:
        # The file of a method may fail in any way where it is damaged or of another version.
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"{folder}: the model cannot be read ({reason})") from error


def image_source(
    image: Path, centres: np.ndarray, max_image_pixels: int | None, image_scale: float = 1.0
) -> PatchSource:
    """Patches of an image that belongs to no dataset.

    Parameters
    ----------
    image
        Image file.
    centres
        (spots, 2) full-resolution pixel (x, y).
    max_image_pixels
        Pixels of the largest image that is opened; None: :data:`LARGE_IMAGE`.
    image_scale
        Pixels of the image a full-resolution pixel.

    Raises
    ------
    DataError
        There is no such file, or it cannot be read.
    """
    from bench.data.images.patches import PatchSource

    check_image(image)
    try:
        hashed = f"sha256:{file_hash(image)}"
    except OSError as error:
        raise DataError(f"{image}: image cannot be read ({system_reason(error)})") from error
    return PatchSource(
        image=image,
        image_hash=hashed,
        max_image_pixels=max_image_pixels or LARGE_IMAGE,
        centres=centres,
        image_scale=image_scale,
    )


def check_image(image: Path) -> None:
    """Refuse an image that is missing or no file.

    Raises
    ------
    DataError
        There is no such file, or it is a folder, a pipe or a device.
    """
    if kind := other_kind(image):
        raise DataError(f"{image}: is {kind}, and an image is a file")
    if not image.is_file():
        raise DataError(f"{image}: image is missing")


def predict_slide(
    method: Method, slide: Slide, panel: Sequence[str], context: Context
) -> np.ndarray:
    """(spots, panel) float32 prediction of one slide, checked.

    Raises
    ------
    BenchError
        The method refuses the slide, fails on it, or predicts something that is no prediction.
    """
    import random

    from bench.errors import TrainingError
    from bench.worker.task import checked_predictions

    # Whatever a method draws from follows from the seed.
    random.seed(context.seed)
    np.random.seed(context.seed % 2**32)  # noqa: NPY002
    try:
        predictions = method.predict([slide], context)
        return checked_predictions(method.name, [slide], panel, predictions)[0]
    except BenchError:
        raise
    except TrainingError as error:
        raise BenchError(str(error)) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise BenchError(f"{method.name} failed on {slide.name}: {reason}") from error
