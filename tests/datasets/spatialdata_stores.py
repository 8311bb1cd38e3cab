"""The small section of ``layouts`` as SpatialData stores, as spatialdata-io writes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from tests.datasets.layouts import SmallSection, small_anndata

RADIUS = 44.7
HIRES = 0.1


def he_image(section: SmallSection, reduced: int = 1, seed: int = 0) -> np.ndarray:
    """(3, height, width) uint8 image that holds all spots, no pixel like its neighbour."""
    width, height = section.pixels.max(axis=0).astype(int) + 100
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (3, height // reduced, width // reduced), dtype=np.uint8)


def table(samples: Sequence[str], *, form: str = "csr", annotates: bool = True, array: bool = True):
    """The table of one or several samples; spots of a sample are numbered against its order."""
    from spatialdata.models import TableModel

    parts = []
    for sample in samples:
        part = small_anndata(form=form)
        part.obs["region"] = sample
        part.obs["spot_id"] = np.arange(part.n_obs)[::-1] + 7
        if not array:
            part.obs = part.obs.drop(columns=["array_row", "array_col"])
        parts.append(part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = anndata.concat(parts) if len(parts) > 1 else parts[0]
    whole.obs["region"] = pd.Categorical(whole.obs["region"])
    if not annotates:
        del whole.obs["region"], whole.obs["spot_id"]
        return TableModel.parse(whole)
    return TableModel.parse(
        whole, region=list(samples), region_key="region", instance_key="spot_id"
    )


def circles(section: SmallSection, transformations: Mapping[str, object], scale: float = 1.0):
    """Circles of a sample, in the order of their numbers, in pixels times `scale`."""
    from spatialdata.models import ShapesModel

    pixels = section.pixels[::-1] * scale
    names = np.arange(len(pixels)) + 7
    return ShapesModel.parse(
        pixels,
        geometry=0,
        radius=RADIUS * scale,
        index=names,
        transformations=dict(transformations),
    )


def picture(pixels: np.ndarray, transformations: Mapping[str, object], scales=None):
    """An image element, of one scale or several."""
    from spatialdata.models import Image2DModel

    return Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=dict(transformations),
        scale_factors=scales,
    )


def write(path: Path, **elements) -> Path:
    """Write a store; the log of Zarr on versions is not of interest."""
    from spatialdata import SpatialData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SpatialData(**elements).write(path)
    return path


def write_visium(path: Path, samples: Sequence[str] = ("S1",), *, full: bool = True, **options):
    """A store as ``spatialdata_io.visium`` writes it: circles, a full and a hires image a sample.

    A sample has a coordinate system for each of its images, and none in common with another.
    """
    from spatialdata.transformations import Identity, Scale

    section = SmallSection()
    images, shapes = {}, {}
    for number, sample in enumerate(samples):
        hires = f"{sample}_downscaled_hires"
        reduced = Scale([HIRES, HIRES], axes=("y", "x"))
        shapes[sample] = circles(section, {sample: Identity(), hires: reduced})
        if full:
            pixels = he_image(section, seed=number)
            images[f"{sample}_full_image"] = picture(pixels, {sample: Identity()}, [2, 2])
        pixels = he_image(section, 10, seed=number)
        images[f"{sample}_hires_image"] = picture(pixels, {hires: Identity()})
    return write(path, images=images, shapes=shapes, tables={"table": table(samples, **options)})
