"""Sections that are read as ``bench data add`` reads them: discovered in a folder, then read.

HEST-1k folders, the output of Space Ranger for Visium HD, and SpatialData stores. Of each the small
section of ``layouts`` is written, and the reader gives it with its image, where it has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from anndata import AnnData

from bench.data.discovery import FoundSection
from bench.datasets import hest, space_ranger, spatialdata
from bench.errors import DataError
from tests.datasets import layouts, spatialdata_stores
from tests.datasets.layouts import SmallSection

BIN = "square_016um"
HEST_FACTS = {
    "id": "X1",
    "dataset_title": "Breast cancer",
    "patient": "Patient 3",
    "st_technology": "Visium",
    "organ": "Breast",
    "pixel_size_um_estimated": 0.73,
    "inter_spot_dist": 100.0,
    "spot_diameter": 55.0,
    "nb_genes": 8,
    "adata_path": None,
}


def write_hest(folder: Path) -> dict[str, Path]:
    """A HEST folder of one sample, with the reduced image inside its ``.h5ad`` file."""
    files = {"counts": folder / "st" / "X1.h5ad", "metadata": folder / "metadata" / "X1.json"}
    for path in files.values():
        path.parent.mkdir(parents=True)
    adata = layouts.small_anndata()
    pixels = np.moveaxis(spatialdata_stores.he_image(SmallSection(), 20), 0, 2)
    adata.uns["spatial"] = {
        "ST": {
            "images": {"downscaled_fullres": np.ascontiguousarray(pixels)},
            "scalefactors": {"tissue_downscaled_fullres_scalef": 0.05},
        }
    }
    adata.write_h5ad(files["counts"])
    files["metadata"].write_text(json.dumps(HEST_FACTS))
    return {**files, "folder": folder}


def write_visium_hd(folder: Path) -> dict[str, Path]:
    """A folder of Space Ranger for Visium HD, with bins of 16 um."""
    place = folder / "X1" / "outs" / "binned_outputs" / BIN
    (place / "spatial").mkdir(parents=True)
    files = {
        "counts": place / "filtered_feature_bc_matrix.h5",
        "positions": layouts.write_positions(place / "spatial", 3),
        "scalefactors": layouts.write_scalefactors(place / "spatial"),
        "labels": layouts.write_barcode_labels(folder),
    }
    factors = json.loads(files["scalefactors"].read_text())
    factors |= {"microns_per_pixel": 0.2737, "bin_size_um": 16.0}
    files["scalefactors"].write_text(json.dumps(factors))
    layouts.write_10x_h5(files["counts"])
    return {**files, "folder": folder}


def write_store(folder: Path, what: str) -> dict[str, Path]:
    """A SpatialData store, and in the role `what` the folder of it that is damaged."""
    store = spatialdata_stores.write_visium(folder / "X1.zarr", full=False)
    inner = {"pieces": store / "tables", "shapes": store / "shapes", "image": store / "images"}
    return {"counts": store, "folder": folder, what: inner.get(what, store)}


def targets(case: str, place: Path) -> list[Path]:
    """Files of a store that a case damages; the file itself where it is one."""
    if place.is_file():
        return [place]
    files = sorted(path for path in place.rglob("*") if path.is_file())
    metadata = case.endswith("/metadata")
    return [path for path in files if (path.suffix == ".json") == metadata]


def write_damaged(place: Path, content: bytes) -> None:
    """Write a file; what is metadata of a store still, into its consolidated metadata as well."""
    place.write_bytes(content)
    root = next((one for one in place.parents if one.suffix == ".zarr"), None)
    if root is None or place.name != "zarr.json" or place.parent == root:
        return
    try:
        document = json.loads(content)
    except ValueError:
        return
    summary = json.loads((root / "zarr.json").read_text())
    summary["consolidated_metadata"]["metadata"][place.parent.relative_to(root).as_posix()] = (
        document
    )
    (root / "zarr.json").write_text(json.dumps(summary))


def _the_section(sections: list[FoundSection], folder: Path) -> FoundSection:
    if not sections:
        raise DataError(f"{folder}: no section")
    (section,) = sections
    if section.missing:
        raise DataError(f"{folder}: {section.missing}")
    assert 0 < section.image_scale <= 1
    sizes = (
        section.spot_pitch_micrometres,
        section.spot_diameter_micrometres,
        section.micrometres_per_pixel or 1.0,
    )
    assert all(np.isfinite(size) and size > 0 for size in sizes)
    return section


def _check_image(image: tuple[np.ndarray, float] | None) -> None:
    assert image is not None
    assert image[0].dtype == np.uint8
    assert image[0].ndim == 3
    assert image[0].shape[2] == 3


def read_hest(files: Mapping[str, Path]) -> AnnData:
    section = _the_section(hest.discover(files["folder"]), files["folder"])
    if "image" in section.files:
        _check_image(hest.embedded_image(section.files["image"]))
    return hest.read({"counts": section.files["counts"]}, **section.settings)


def read_visium_hd(files: Mapping[str, Path]) -> AnnData:
    section = _the_section(space_ranger.discover(files["folder"]), files["folder"])
    found = {**section.files, "labels": files["labels"]}
    return space_ranger.read(found, **section.settings)


def read_store(files: Mapping[str, Path]) -> AnnData:
    section = _the_section(spatialdata.discover(files["folder"]), files["folder"])
    if "image" in section.files:
        level = section.settings["level"]
        _check_image(spatialdata.embedded_image(section.files["image"], level=level))
    return spatialdata.read({"counts": section.files["counts"]}, **section.settings)


READERS = {"hest": read_hest, "visium_hd": read_visium_hd, "spatialdata": read_store}
