"""The embedded external demo dataset: patients of another laboratory, for tests of transfer.

Simulated as the demo dataset is, with the same cell types and the same expression of them, so
that what a model learned there holds here. Different are the patients, the colours of the stain,
the scale of the images, and the genes: a twentieth of those of the demo is missing, and one is new.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from bench.datasets.demo import GENES, SimulatedSection, StainColours, simulate_patients, write

__all__ = ["MEASURED", "generate", "simulate"]

PATIENTS = ("E1", "E2", "E3")
LETTERS = ("a",)
PROGRAMS_SEED = 0
"""Seed of the demo: the cell types express the same genes."""

SEED = 1
SIDE = 1875
"""Pixels of an image, both ways: 1.6 um each where the demo has 1500 of 2 um."""

NEW_GENE = "EXT01"
MISSING_EVERY = 20
MEASURED: tuple[str, ...] = (
    *(gene for number, gene in enumerate(GENES) if number % MISSING_EVERY),
    NEW_GENE,
)

# Bluer haematoxylin and redder, stronger eosin than the demo's.
STAIN = StainColours(
    haematoxylin=np.array([0.70, 0.60, 0.25]),
    eosin=np.array([0.10, 0.85, 0.65]),
    amounts=(0.85, 1.25),
)


def simulate(seed: int = SEED) -> list[SimulatedSection]:
    """All sections, in the order of the patients; counts have the columns of `MEASURED`."""
    sections = simulate_patients(seed, PATIENTS, LETTERS, programs_seed=PROGRAMS_SEED, stain=STAIN)
    return [_as_measured(section, seed) for section in sections]


def generate(folder: Path, seed: int = SEED) -> None:
    """Simulate all sections and write them into `folder`; see `bench.datasets.demo.write`."""
    for section in simulate(seed):
        write(section, folder, MEASURED)


def _as_measured(section: SimulatedSection, seed: int) -> SimulatedSection:
    """The section at the scale of this laboratory, with the genes that it measures."""
    image = Image.fromarray(section.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    factor = SIDE / section.image.shape[0]
    kept = [number for number, gene in enumerate(GENES) if gene in MEASURED]
    rng = np.random.default_rng([seed, *section.name.encode()])
    new = rng.poisson(3.0, len(section.counts))  # unrelated to the tissue
    return replace(
        section,
        image=np.asarray(image),
        pixel_xy=(section.pixel_xy * factor).round(2),
        counts=np.column_stack([section.counts[:, kept], new]),
    )
