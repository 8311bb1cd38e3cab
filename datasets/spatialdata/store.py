"""Tables, shapes and images of a SpatialData store, and the transformations between them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.readers import (
    MAX_BYTES,
    DataError,
    ZarrNode,
    check_store,
    check_unpacked_size,
    on_white,
    one_line,
)

if TYPE_CHECKING:
    from anndata import AnnData

GLOBAL = "global"
"""Coordinate system of elements for which none is named."""

MICROMETRES = frozenset(
    {"um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"}
    | {"micrometres"}
)
"""Units of an axis, and names of coordinate systems, that mean micrometres."""

_COLOURS = ("r", "g", "b")
_FLAT = ("x", "y")

# It logs names of channels that it cannot read, which are not needed.
logging.getLogger("ome_zarr").addHandler(logging.NullHandler())


class PackageMissingError(DataError):
    """The package that reads SpatialData stores is not installed."""


@dataclass(frozen=True)
class Spots:
    """Rows of a table that are the spots of one section.

    Attributes
    ----------
    table, region
        Names of the table, and of the shapes that its rows annotate; empty without such.
    rows
        Row numbers in the table.
    xy
        (rows, 2) coordinates of the spots' centres, in no coordinate system yet.
    diameter
        Median diameter of the spots in the same unit; None where they are no circles.
    systems
        3 x 3 affine matrix from `xy` to each coordinate system, for columns (x, y, 1).
    """

    table: str
    region: str
    rows: np.ndarray
    xy: np.ndarray
    diameter: float | None
    systems: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Picture:
    """An RGB image of a store.

    Attributes
    ----------
    name
        Of the element.
    scales
        Arrays (channel, y, x), read when they are asked for, from the largest.
    systems
        3 x 3 affine matrix from pixels of the largest to each coordinate system.
    """

    name: str
    scales: tuple[Any, ...]
    systems: Mapping[str, np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the largest scale."""
        return int(self.scales[0].shape[2]), int(self.scales[0].shape[1])

    @property
    def level(self) -> int | None:
        """Largest scale that fits into memory, None if none does."""
        fits = [number for number, scale in enumerate(self.scales) if scale.nbytes <= MAX_BYTES]
        return fits[0] if fits else None

    def scale(self, level: int) -> float:
        """Pixels of a scale a pixel of the largest."""
        return float(self.scales[level].shape[2] / self.scales[0].shape[2])


@dataclass(frozen=True)
class Store:
    """A store that has been checked and opened.

    Attributes
    ----------
    path
        Its folder.
    tables, shapes
        By name.
    pictures
        RGB images by name.
    nodes
        Metadata of all groups and arrays.
    """

    path: Path
    tables: Mapping[str, AnnData]
    shapes: Mapping[str, Any]
    pictures: Mapping[str, Picture]
    nodes: Mapping[str, ZarrNode]


def open_store(path: Path, elements: tuple[str, ...] = ("tables", "shapes", "images")) -> Store:
    """Check a store, then open it with spatialdata; images are left on disk.

    Raises
    ------
    DataError
        No SpatialData store; see :func:`bench.data.reading.zarr_store.check_store` for what is
        refused; spatialdata cannot read it, or is not installed.
    """
    nodes = check_store(path)
    if "spatialdata_attrs" not in nodes[""].attributes and not (
        {"tables", "table", "images", "shapes"} & set(nodes)
    ):
        raise DataError(f"{path}: a Zarr store, but no SpatialData store")
    _check_parquet(path, nodes)
    with quiet(path):
        spatialdata = _package(path)
        data = spatialdata.read_zarr(path, selection=elements)
        pictures = [_picture(name, image) for name, image in data.images.items()]
        tables, shapes = dict(data.tables), dict(data.shapes)
    return Store(path, tables, shapes, {one.name: one for one in pictures if one}, nodes)


def _package(path: Path) -> Any:
    try:
        import spatialdata
    except ImportError as error:
        raise PackageMissingError(
            f"{path}: a SpatialData store is read with the package spatialdata:"
            " pip install 'spotbench[spatialdata]'"
        ) from error
    return spatialdata


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Turn errors of the libraries on damaged stores into one line, and hide their warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # of any library under spatialdata
            reason = f"{type(error).__name__}: {one_line(error, 120)}"
            raise DataError(f"{path}: damaged, or no SpatialData store ({reason})") from error


def _check_parquet(path: Path, nodes: Mapping[str, ZarrNode]) -> None:
    """Refuse shapes that unpack to more than the limit, before they are read."""
    for name in nodes:
        file = path / name / "shapes.parquet"
        if name.startswith("shapes/") and file.is_file():
            check_unpacked_size(file, f"{path}: {name[:80]}/shapes.parquet", MAX_BYTES // 64)


def _affines(element: Any) -> dict[str, np.ndarray]:
    from spatialdata.transformations import get_transformation

    systems = get_transformation(element, get_all=True)
    matrices = {
        str(name): np.asarray(one.to_affine_matrix(_FLAT, _FLAT), dtype=np.float64)
        for name, one in systems.items()
    }
    return {name: one for name, one in matrices.items() if _is_invertible(one)}


def _is_invertible(matrix: np.ndarray) -> bool:
    return bool(np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-12)


def _picture(name: str, element: Any) -> Picture | None:
    """An image as RGB; None where it is none, such as one of fluorescence."""
    arrays = [element]
    if hasattr(element, "children"):  # of several scales
        arrays = [next(iter(child.data_vars.values())) for child in element.children.values()]
    arrays = [array.transpose("c", "y", "x") for array in arrays]
    arrays.sort(key=lambda array: -array.shape[2])
    if any(array.dtype != np.uint8 or array.shape[0] not in (3, 4) for array in arrays):
        return None
    if not arrays or 0 in arrays[0].shape:
        return None
    return Picture(str(name), tuple(arrays), _affines(element))


def pixels_of(picture: Picture, level: int, path: Path) -> np.ndarray:
    """(height, width, 3) uint8 RGB of a scale, read as a whole.

    Raises
    ------
    DataError
        No such scale, too large, or damaged.
    """
    if not 0 <= level < len(picture.scales):
        raise DataError(f"{path}: image '{picture.name[:40]}' has no scale {level}")
    scale = picture.scales[level]
    if scale.nbytes > MAX_BYTES:
        raise DataError(f"{path}: image '{picture.name[:40]}' is larger than {MAX_BYTES:,} bytes")
    with quiet(path):
        names = [str(name).lower()[:1] for name in scale.coords["c"].to_numpy()]
        order = list(range(len(names)))
        if set(_COLOURS) <= set(names):
            order = [names.index(colour) for colour in _COLOURS]
            order += [number for number in range(len(names)) if number not in order]
        pixels = np.moveaxis(np.asarray(scale.data[order]), 0, 2)
        if pixels.shape[2] == 4:
            pixels = on_white(pixels[..., :3], pixels[..., 3:])
        return np.ascontiguousarray(pixels)


def sections_of(store: Store) -> tuple[list[Spots], list[str]]:
    """Spots of each section of a store, and the reasons why other tables are none.

    A table that annotates several shapes gives a section for each. Shapes that several tables
    annotate are those of the table called ``table``, or of the first by name.
    """
    sections: dict[str, Spots] = {}
    reasons: list[str] = []
    for name in sorted(store.tables, key=lambda name: (name != "table", name)):
        table = store.tables[name]
        with quiet(store.path):
            regions = _regions(table)
        if lost := table.n_obs - sum(map(len, regions.values())) if regions else 0:
            reasons.append(f"{lost} rows of table '{name[:40]}' name no region")
        if not regions and "spatial" not in table.obsm:
            reasons.append(f"table '{name[:40]}' annotates no shapes and has no obsm['spatial']")
        for region, rows in (regions or {"": np.arange(table.n_obs)}).items():
            where = f"{store.path}: table '{name[:40]}'"
            if region in store.shapes:
                with quiet(store.path):
                    spots = _on_shapes(store, name, region, rows, where)
            elif "spatial" in table.obsm:
                with quiet(store.path):
                    spots = _in_table(table, name, region, rows, where)
            else:
                if region:
                    reasons.append(f"the spots of table '{name[:40]}' are no shapes of the store")
                continue
            if region and region in sections:
                reasons.append(f"table '{name[:40]}' annotates '{region[:40]}' once more")
            else:
                sections[region or f"{name}/"] = spots
    return list(sections.values()), reasons


def _regions(table: AnnData) -> dict[str, np.ndarray]:
    """Rows of a table by the name of the element that they annotate."""
    facts = table.uns.get("spatialdata_attrs")
    if not isinstance(facts, Mapping) or facts.get("region_key") not in table.obs:
        return {}
    values = table.obs[facts["region_key"]].astype(object).to_numpy()
    names = [str(name) for name in pd.unique(values) if not pd.isna(name)]
    return {name: np.flatnonzero(values == name) for name in sorted(names)}


def _on_shapes(store: Store, name: str, region: str, rows: np.ndarray, where: str) -> Spots:
    table, shapes = store.tables[name], store.shapes[region]
    keys = table.obs[table.uns["spatialdata_attrs"]["instance_key"]].to_numpy()[rows]
    if not shapes.index.is_unique:
        raise DataError(f"{where}: two shapes of '{region[:40]}' have the same name")
    places = shapes.index.get_indexer(keys)
    if (places < 0).any():
        lost = keys[int(np.argmin(places))]
        raise DataError(f"{where}: shape '{str(lost)[:40]}' is not in '{region[:40]}'")
    if len(np.unique(places)) < len(places):
        raise DataError(f"{where}: two spots are of the same shape of '{region[:40]}'")
    centres = shapes.geometry.centroid
    xy = np.column_stack([centres.x, centres.y]).astype(np.float64)[places]
    radius = shapes["radius"].to_numpy(dtype=np.float64)[places] if "radius" in shapes else None
    diameter = None if radius is None or not len(radius) else float(2 * np.median(radius))
    return Spots(name, region, rows, _finite(xy, where), diameter, _affines(shapes))


def _in_table(table: AnnData, name: str, region: str, rows: np.ndarray, where: str) -> Spots:
    xy = np.asarray(table.obsm["spatial"], dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise DataError(f"{where}: obsm['spatial'] has shape {xy.shape}, spots x 2 is needed")
    return Spots(name, region, rows, _finite(xy[rows, :2], where), None, {GLOBAL: np.eye(3)})


def _finite(xy: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(xy).all():
        raise DataError(f"{where}: a coordinate of a spot is not finite")
    return xy


def to_image(spots: Spots, picture: Picture, system: str) -> np.ndarray:
    """3 x 3 matrix from the spots' coordinates to pixels of the largest scale of an image."""
    return np.linalg.solve(picture.systems[system], spots.systems[system])


def size_of(matrix: np.ndarray) -> float:
    """Length that a unit of length becomes: the root of the area that a unit of area becomes."""
    (across, tilt), (shear, down) = matrix[:2, :2]
    if across == down and tilt == shear == 0:
        return float(abs(across))  # exact, so that pixels of a reduced image stay as they are
    return float(np.sqrt(abs(across * down - tilt * shear)))


def moved(xy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(spots, 2) coordinates after an affine transformation."""
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def micrometres_of(store: Store, spots: Spots) -> float | None:
    """Micrometres a unit of the spots' coordinates, None where no coordinate system tells."""
    node = store.nodes.get(f"shapes/{spots.region}")
    for name in [*_metric_systems(node), *spots.systems]:
        if name in spots.systems and (name.lower() in MICROMETRES or name in _metric_systems(node)):
            return size_of(spots.systems[name])
    return None


def _metric_systems(node: ZarrNode | None) -> list[str]:
    """Coordinate systems of which both axes are in micrometres, as the element's metadata say."""
    held = node.attributes.get("coordinateTransformations") if node else None
    names = []
    for one in held if isinstance(held, list) else []:
        output = one.get("output") if isinstance(one, dict) else None
        axes = output.get("axes") if isinstance(output, dict) else None
        axes = [axis for axis in axes if isinstance(axis, dict)] if isinstance(axes, list) else []
        units = {str(axis.get("unit")).lower() for axis in axes if axis.get("name") in _FLAT}
        if units and units <= MICROMETRES and isinstance(output, dict):
            names.append(str(output.get("name")))
    return names
