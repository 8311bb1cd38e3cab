"""What a reader finds in a folder that nobody has described yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_ENDINGS = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".jpg", ".jpeg", ".png")
"""Endings of image files that are looked for."""


@dataclass(frozen=True)
class FoundSection:
    """A section whose files lie as a layout has them.

    Attributes
    ----------
    name
        Name for it, made of its folder's or its files' names.
    files
        Path by role.
    spot_pitch_micrometres, spot_diameter_micrometres
        Of the array that the layout stands for.
    image_scale
        Pixels of the image a full-resolution pixel.
    assumed
        What was taken for granted, a line each.
    """

    name: str
    files: Mapping[str, Path]
    spot_pitch_micrometres: float
    spot_diameter_micrometres: float
    image_scale: float = 1.0
    assumed: tuple[str, ...] = field(default=())


def images_in(folder: Path) -> list[Path]:
    """Image files that lie directly in a folder, largest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS]
    files = [path for path in found if path.is_file() and not path.name.startswith(".")]
    return sorted(files, key=lambda path: (-path.stat().st_size, path.name))
