"""Inputs of a method: training sections with expression, slides without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from bench.data.images.patches import PatchSource, patch_edge
from bench.errors import DataError


@dataclass(frozen=True)
class Slide:
    """A section to predict: image and coordinates, without expression.

    Attributes
    ----------
    name
        Section name.
    array_xy
        (spots, 2) int64 array coordinates (column, row).
    spatial
        (spots, 2) float64 full-resolution pixel (x, y).
    patch_pixels
        Edge of a patch that the dataset's card recommends, in full-resolution pixels.
    patch_source
        Image that patches are cut from; None for methods that need no image.
    image_order
        (spots,) int64: the spot whose image stands at each spot under the permuted-image control;
        None otherwise.
    micrometres_per_pixel
        Scale of the full-resolution image; None where it is not known.
    brought
        Gives the (spots, features) features that the setting ``features`` of a method names, in
        the order of the spots; the harness sets it.
    """

    name: str
    array_xy: np.ndarray
    spatial: np.ndarray
    patch_pixels: int
    patch_source: PatchSource | None = field(repr=False)
    image_order: np.ndarray | None = field(default=None, repr=False)
    micrometres_per_pixel: float | None = None
    brought: Callable[[], np.ndarray] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.array_xy)

    def patches(self, size: int | str | None = None, pixels: int | None = None) -> np.ndarray:
        """Image patches around the spots.

        Parameters
        ----------
        size
            Edge in pixels of the full-resolution image, or in micrometres as in ``"150um"``;
            `patch_pixels` where None.
        pixels
            Edge after resampling. Where None, `size` if that is in pixels; `patch_pixels` if it
            is in micrometres, so that sections of different scale give patches of one shape.

        Returns
        -------
        (spots, pixels, pixels, 3) uint8 array, RGB

        Raises
        ------
        DataError
            There is no image, or one that cannot be read; or micrometres are asked for and the
            scale is not known.
        """
        if self.patch_source is None:
            raise DataError(f"section {self.name}: no image, but the method asks for patches")
        patches = self.patch_source.cut(*self.patch_edges(size, pixels))
        return patches if self.image_order is None else patches[self.image_order]

    def patch_edges(
        self, size: int | str | None = None, pixels: int | None = None
    ) -> tuple[int, int | None]:
        """Edges in pixels of the patches that :meth:`patches` gives.

        Returns
        -------
        tuple of int and (int or None)
            Edge in the full-resolution image, and after resampling; None where they are equal.

        Raises
        ------
        DataError
            Micrometres are asked for and the scale is not known.
        """
        if isinstance(size, str) and pixels is None:
            pixels = self.patch_pixels
        asked = self.patch_pixels if size is None else size
        return patch_edge(asked, self.micrometres_per_pixel, f"section {self.name}"), pixels

    def with_images_shuffled(self, seed: int) -> Slide:
        """Permuted-image control: the same slide, its patches shuffled among spots from `seed`."""
        order = np.random.default_rng(seed).permutation(len(self))
        return replace(self, image_order=order)


@dataclass(frozen=True)
class TrainingSection(Slide):
    """A section to learn from.

    Attributes
    ----------
    patient
        Patient the section belongs to.
    expression
        (spots, panel) float32: input of expression encoders, on the protocol's input scale.
    target
        (spots, panel) float32: values to predict, on the protocol's target scale.
    counts
        (spots, panel) float32 raw counts, for count likelihoods.
    """

    patient: str = ""
    expression: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    target: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    counts: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False)


@dataclass(frozen=True)
class TrainingData:
    """Inputs of ``fit``.

    Attributes
    ----------
    panel
        Genes in the order of every expression matrix's columns.
    train, validation
        Sections to learn from, and sections kept for tuning and early stopping. Under some
        protocols there are no validation sections.

    Raises
    ------
    DataError
        No gene or no training spot: nothing can be learned.
    """

    panel: tuple[str, ...]
    train: tuple[TrainingSection, ...]
    validation: tuple[TrainingSection, ...] = ()

    def __post_init__(self) -> None:
        if not self.panel or not any(len(section) for section in self.train):
            raise DataError("no training spot or no panel gene in this fold")

    @property
    def sections(self) -> tuple[TrainingSection, ...]:
        """All sections whose expression may be used: training, then validation."""
        return self.train + self.validation
