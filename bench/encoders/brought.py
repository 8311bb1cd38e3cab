"""Features that were computed elsewhere, matched to the spots of a section."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from bench.cache import Cache
from bench.data.reading.hdf5 import Hdf5File, open_hdf5
from bench.errors import DataError
from bench.files import canonical_hash, file_hash, one_line

SUFFIXES = (".h5", ".h5ad", ".pt", ".npy")
"""Endings of files of features, in the order in which they are looked for."""

UNMATCHED = 0.01
"""Largest share of spots without features; they take those of the nearest spot."""

TOLERANCE = 0.25
"""Largest distance of a spot from the centre of its patch, as a share of the distance of
neighbouring spots."""

_VERSION = 1
_NAMES = ("features", "embeddings", "feats")
_BARCODES = ("barcode", "barcodes")
_SIZES = ("patch_size_level0", "patch_size_src")


class SpotPlaces(NamedTuple):
    """SpotPlaces of a section.

    Attributes
    ----------
    section
        Its name.
    names
        Names of the spots.
    spatial
        (spots, 2) pixel (x, y) in the full-resolution image.
    """

    section: str
    names: tuple[str, ...]
    spatial: np.ndarray


class Features(NamedTuple):
    """Content of a file.

    Attributes
    ----------
    values
        (rows, features) float32.
    names
        Name of the spot of each row; None if the file has none.
    centres
        (rows, 2) pixel centres of the patches; None if the file has none.
    """

    values: np.ndarray
    names: tuple[str, ...] | None = None
    centres: np.ndarray | None = None


def store_matched(path: Path, spots: SpotPlaces) -> Path:
    """File of the features of a section's spots, in their order.

    Parameters
    ----------
    path
        File, or folder with a file ``SECTION.h5``, ``.h5ad``, ``.pt`` or ``.npy`` a section.
    spots
        SpotPlaces of the section.

    Returns
    -------
    Path
        ``.npy`` file of a (spots, features) float32 array in the cache.

    Raises
    ------
    DataError
        The file is missing, damaged, holds values that are not finite, or is of other spots: more
        than :data:`UNMATCHED` of them have no features.
    """
    file = _file_of(path, spots.section)
    try:
        content = file_hash(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    key = canonical_hash([_VERSION, content, spots.section, spots.names, spots.spatial.tolist()])
    if _MATCHED.get(key) is None:
        values, _ = match(read_features(file), spots, str(file))
        with _MATCHED.new_entry(key) as temporary, temporary.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)
    return _MATCHED.path(key)


def match(features: Features, spots: SpotPlaces, where: str) -> tuple[np.ndarray, int]:
    """Features of spots: by name, else by the place of the patch, else row by row.

    Parameters
    ----------
    features
        Content of a file.
    spots
        The spots.
    where
        What errors name.

    Returns
    -------
    tuple of (spots, features) float32 array and int
        Features, and the number of spots that took those of the nearest spot for want of their
        own.

    Raises
    ------
    DataError
        They are of other spots.
    """
    if not len(features.values) or not np.isfinite(features.values).all():
        raise DataError(f"{where}: features are missing, or not finite")
    count = len(spots.names)
    if features.names is not None:
        rows = _by_name(features.names, spots.names, where)
    elif features.centres is not None:
        rows = _by_place(features.centres, spots.spatial)
    elif len(features.values) == count:
        rows = np.arange(count)
    else:
        raise DataError(
            f"{where}: {len(features.values)} rows without barcodes or coordinates, but section"
            f" {spots.section} has {count} spots"
        )
    missing = rows < 0
    if missing.mean() > UNMATCHED:
        raise DataError(
            f"{where}: {missing.sum()} of {count} spots of section {spots.section} have no"
            f" features (at most {UNMATCHED:.0%} may); are they of this slide?"
        )
    if missing.any():
        tree = cKDTree(spots.spatial[~missing])
        rows[missing] = rows[~missing][tree.query(spots.spatial[missing])[1]]
    return np.ascontiguousarray(features.values[rows], dtype=np.float32), int(missing.sum())


def read_features(path: Path) -> Features:
    """Read a file of features; nothing in it is executed.

    ``.h5`` has the datasets ``features`` (rows, features) or (1, rows, features), and ``barcode``
    or ``coords`` as TRIDENT and HEST write them: top-left corners in full-resolution pixels, the
    size of a patch among the attributes; centres where it is not. ``.h5ad`` has the features in
    ``obsm["features"]`` or the only other matrix there than coordinates. ``.pt`` holds a tensor,
    or tensors by the same names. ``.npy`` and a plain tensor have one row a spot.

    Raises
    ------
    DataError
        It is missing, damaged or of another form.
    """
    readers = {".h5": _of_h5, ".h5ad": _of_h5ad, ".pt": _of_pt, ".npy": _of_npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: features are read from {', '.join(SUFFIXES)} files")
    try:
        return reader(path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({one_line(error, 120)})") from error


def _file_of(path: Path, section: str) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: no such file or folder of features")
        return path
    there = [path / f"{section}{suffix}" for suffix in SUFFIXES]
    found = [file for file in there if file.is_file()]
    if len(found) != 1:
        what = "no file" if not found else f"{len(found)} files"
        raise DataError(f"{path}: {what} of features of section {section} ({section}.h5, ...)")
    return found[0]


def _by_name(names: tuple[str, ...], wanted: tuple[str, ...], where: str) -> np.ndarray:
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) != len(names):
        raise DataError(f"{where}: the barcodes are not unique")
    return np.array([row_of.get(name, -1) for name in wanted], dtype=np.int64)


def _by_place(centres: np.ndarray, spatial: np.ndarray) -> np.ndarray:
    distances, _ = cKDTree(spatial).query(spatial, k=2)
    pitch = float(np.median(distances[:, 1])) if len(spatial) > 1 else 1.0
    rows = cKDTree(centres).query(spatial, distance_upper_bound=TOLERANCE * max(pitch, 1.0))[1]
    return np.where(rows < len(centres), rows, -1)


def _matrix(values: Any, where: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.shape[1]:
        raise DataError(
            f"{where}: features are of shape {array.shape} and type {array.dtype}, not a matrix of"
            " numbers"
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _centres(coords: Any, size: float | None, rows: int, where: str) -> np.ndarray:
    array = np.asarray(coords, dtype=np.float64)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.shape != (rows, 2) or not np.isfinite(array).all():
        raise DataError(f"{where}: coords are of shape {array.shape}, not ({rows}, 2)")
    return array if size is None else array + size / 2


def _texts(values: Any, rows: int, where: str) -> tuple[str, ...]:
    flat = np.asarray(values).ravel().tolist()
    if len(flat) != rows:
        raise DataError(f"{where}: {len(flat)} barcodes for {rows} rows")
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in flat)


def _of_h5(path: Path) -> Features:
    with open_hdf5(path) as file:
        there = set(file.names())
        name = next((n for n in _NAMES if n in there and file.kind(n) == "data set"), None)
        if name is None:
            raise DataError(f"{path}: no dataset {' or '.join(_NAMES)}")
        values = _matrix(_numbers(file, name), str(path))
        barcodes = next((n for n in _BARCODES if n in there), None)
        if barcodes is not None:
            return Features(values, _texts(_names(file, barcodes), len(values), str(path)))
        if "coords" not in there:
            return Features(values)
        sizes = (file.attribute("coords", name) for name in _SIZES)
        size = next((float(value) for value in sizes if value is not None), None)
        coords = _numbers(file, "coords")
        return Features(values, centres=_centres(coords, size, len(values), str(path)))


def _of_h5ad(path: Path) -> Features:
    with open_hdf5(path) as file:
        names = file.names("obsm") if file.kind("obsm") == "group" else []
        names = [n for n in names if n not in {"spatial", "X_spatial"}]
        if "features" in names:
            names = ["features"]
        if len(names) != 1 or file.kind(f"obsm/{names[0]}") != "data set":
            listed = ", ".join(sorted(names)[:5]) or "none"
            raise DataError(
                f"{path}: features belong in obsm['features']; matrices there: {listed}"
            )
        values = _matrix(_numbers(file, f"obsm/{names[0]}"), str(path))
        index = file.attribute("obs", "_index") or "_index"
        return Features(values, _texts(_names(file, f"obs/{index}"), len(values), str(path)))


def _numbers(file: Hdf5File, name: str) -> np.ndarray:
    return file.numbers(name, dimensions=len(file.shape(name)))


def _names(file: Hdf5File, name: str) -> Any:
    return file.strings(name) if file.is_text(name) else _numbers(file, name)


def _of_pt(path: Path) -> Features:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, torch.Tensor):
        return Features(_matrix(content.float().numpy(), str(path)))
    name = next((n for n in _NAMES if n in content), None)
    if name is None:
        raise DataError(f"{path}: no tensor {' or '.join(_NAMES)}")
    values = _matrix(content[name].float().numpy(), str(path))
    barcodes = next((content[n] for n in _BARCODES if n in content), None)
    if barcodes is not None:
        return Features(values, _texts(barcodes, len(values), str(path)))
    if "coords" in content:
        return Features(values, centres=_centres(content["coords"], None, len(values), str(path)))
    return Features(values)


def _of_npy(path: Path) -> Features:
    return Features(_matrix(np.load(path, allow_pickle=False), str(path)))


def _map(path: Path) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="r")


_MATCHED = Cache("brought", ".npy", _map)
"""Features by file, section and spots."""
