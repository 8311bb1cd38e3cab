"""Predictions as SpatialData stores."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.errors import BenchError
from bench.staging import atomic_folder

if TYPE_CHECKING:
    from anndata import AnnData

IMAGE, SPOTS, TABLE = "hires_image", "spots", "table"
"""Names of the elements of a store."""

PIXELS, MICROMETRES = "global", "micrometres"
"""Coordinate systems: full-resolution pixels, and micrometres where their size is known."""


def check_package(path: Path) -> None:
    """Refuse to write a store without the package that writes it.

    Raises
    ------
    BenchError
        It is not installed.
    """
    if find_spec("spatialdata") is None:
        raise BenchError(
            f"{path}: a SpatialData store is written with the package spatialdata:"
            " pip install 'spotbench[spatialdata]'"
        )


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store, which may be replaced."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def write_store(adata: AnnData, path: Path) -> None:
    """Write a prediction as a SpatialData store, complete or not at all.

    ``images["hires_image"]`` is the reduced image, ``shapes["spots"]`` the spots as circles and
    ``tables["table"]`` the prediction, whose rows annotate the circles by ``obs["region"]`` and
    ``obs["spot_id"]``. Coordinate system ``global`` is that of full-resolution pixels;
    ``micrometres`` is there where the scale of the image is known.

    Parameters
    ----------
    adata
        Result of :func:`bench.prediction.predicting.predict_image`.
    path
        Folder that is written.

    Raises
    ------
    BenchError
        spatialdata is not installed.
    OSError
        The folder cannot be written.
    """
    check_package(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spatialdata import SpatialData
        from spatialdata.models import Image2DModel, ShapesModel, TableModel
        from spatialdata.transformations import Identity, Scale

        (picture,) = adata.uns["spatial"].values()
        factors = picture["scalefactors"]
        um = adata.uns["spotbench"].get("micrometres_per_pixel")
        pixel = 1 / float(factors["tissue_hires_scalef"])
        axes = ("x", "y")
        placed = {PIXELS: Scale([pixel, pixel], axes=axes)}
        drawn = {PIXELS: Identity()}
        if um is not None:
            placed[MICROMETRES] = Scale([pixel * um, pixel * um], axes=axes)
            drawn[MICROMETRES] = Scale([um, um], axes=axes)
        image = Image2DModel.parse(
            np.moveaxis(np.asarray(picture["images"]["hires"]), 2, 0),
            dims=("c", "y", "x"),
            c_coords=["r", "g", "b"],
            transformations=placed,
        )
        circles = ShapesModel.parse(
            np.asarray(adata.obsm["spatial"], dtype=np.float64),
            geometry=0,
            radius=float(factors["spot_diameter_fullres"]) / 2,
            index=np.arange(adata.n_obs),
            transformations=drawn,
        )
        table = adata.copy()
        table.obs["region"] = pd.Categorical([SPOTS] * adata.n_obs)
        table.obs["spot_id"] = np.arange(adata.n_obs)
        table = TableModel.parse(table, region=SPOTS, region_key="region", instance_key="spot_id")
        store = SpatialData(images={IMAGE: image}, shapes={SPOTS: circles}, tables={TABLE: table})
        with atomic_folder(path) as temporary:
            store.write(temporary)
