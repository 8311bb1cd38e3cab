"""A fold small enough to fit any method on in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bench.api import TrainingData, TrainingSection
from bench.data.patches import PatchSource
from bench.data.views import Slide

GENES, SPOTS = 6, 20


def small_fold(folder: Path) -> TrainingData:
    """Three sections of two patients; the first gene is the brightness of the patch."""
    rng = np.random.default_rng(0)
    sections = []
    for number, name in enumerate(("A1", "A2", "B1")):
        level = rng.integers(0, 256, SPOTS)
        pixels = np.zeros((40, 40 * SPOTS, 3), dtype=np.uint8)
        for spot, value in enumerate(level):
            pixels[:, 40 * spot : 40 * spot + 40] = value
        pixels[:10] //= 2  # a patch is not its own mirror image
        path = folder / f"{name}.png"
        Image.fromarray(pixels).save(path)
        spatial = np.stack([20.0 + 40 * np.arange(SPOTS), np.full(SPOTS, 20.0)], axis=1)
        target = rng.random((SPOTS, GENES), dtype=np.float32)
        target[:, 0] = level / 64
        sections.append(
            TrainingSection(
                name=name,
                array_xy=np.stack([np.arange(SPOTS), np.full(SPOTS, number)], axis=1),
                spatial=spatial,
                patch_pixels=40,
                patch_source=PatchSource(path, f"test:{path}", 10**6, spatial),
                patient=name[0],
                expression=target.copy(),
                target=target,
                counts=np.rint(10 * target),
            )
        )
    panel = tuple(f"G{i}" for i in range(GENES))
    return TrainingData(panel, tuple(sections[:2]), tuple(sections[2:]))


def as_slide(section: TrainingSection) -> Slide:
    """What a method would be given of a section to predict."""
    return Slide(
        section.name, section.array_xy, section.spatial, section.patch_pixels, section.patch_source
    )
