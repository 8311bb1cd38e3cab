"""Reader of AnnData files (``.h5ad``), as scanpy, squidpy and others write them.

The one file, ``counts``, holds one section: raw counts in ``layers["counts"]``, in ``X`` or in
``raw.X`` (the first of these that holds whole numbers), and full-resolution pixel (x, y) in
``obsm["spatial"]``. Of ``obs`` are read, where it has them: ``in_tissue`` (spots outside of it are
left out), ``array_row`` and ``array_col``, ``label``. Without array coordinates, spots must stand
on a square grid, whose columns and rows are then counted. A gene name that occurs again becomes
``SYMBOL-1``, ``SYMBOL-2``, as scanpy's ``var_names_make_unique`` names it.

Only what is named here is read, element by element, so that nothing in the file is unpickled,
followed to another file or larger than the file can hold.

Format: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import scipy.sparse as sp
import scipy.spatial
from anndata import AnnData

from bench.readers import (
    DataError,
    FoundSection,
    Hdf5File,
    atomic_write,
    images_in,
    open_hdf5,
    sparse_counts,
    unique_names,
    whole_counts,
)

ROLES = ("counts",)
"""Files without which a section cannot be read."""

_PLACES = (("layers/counts", "var"), ("X", "var"), ("raw/X", "raw/var"))
_MAX_POSITION = 10**9


def read(files: Mapping[str, Path]) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts``.

    Returns
    -------
    AnnData
        Raw counts (spots x genes, CSR int32) in the order of the file.

    Raises
    ------
    DataError
        The file is missing, damaged, holds several sections, or lacks raw counts or coordinates.
    """
    path = files["counts"]
    with open_hdf5(path) as file:
        _library(file)
        spots = _index(file, "obs")
        _check_unique(spots, path)
        pixels = _pixels(file, len(spots))
        counts, genes = _raw_counts(file, len(spots))
        columns = {
            name: _column(file, f"obs/{name}", len(spots))
            for name in ("in_tissue", "array_row", "array_col", "label")
        }
    inside = _in_tissue(columns["in_tissue"], len(spots), path)
    row, column = columns["array_row"], columns["array_col"]
    if row is not None and column is not None:
        rows, cols = (_array_coordinates(values, path)[inside] for values in (row, column))
    else:
        rows, cols = _on_a_grid(pixels[inside], path)
    if pd.MultiIndex.from_arrays([rows, cols]).has_duplicates:
        raise DataError(f"{path}: two spots have the same array_row and array_col")
    labels = columns["label"]
    obs = pd.DataFrame(
        {
            "array_row": rows,
            "array_col": cols,
            "in_tissue": np.ones(len(inside), dtype=np.int64),
            "label": "" if labels is None else _texts(labels)[inside],
        },
        index=pd.Index([spots[spot] for spot in inside], dtype=object),
    )
    return AnnData(
        X=counts[inside],
        obs=obs,
        var=pd.DataFrame(index=pd.Index(unique_names(genes))),
        obsm={"spatial": pixels[inside]},
    )


def embedded_image(path: Path) -> tuple[np.ndarray, float] | None:
    """Reduced image that scanpy and squidpy keep inside the file.

    Returns
    -------
    tuple of ndarray and float, or None
        (height, width, 3) uint8 RGB and its pixels a full-resolution pixel; None where the file
        holds no such image.

    Raises
    ------
    DataError
        The file is damaged, holds several sections, or an image that is no RGB image.
    """
    with open_hdf5(path) as file:
        library = _library(file)
        image = f"uns/spatial/{library}/images/hires"
        if library is None or file.kind(image) is None:
            return None
        pixels = file.numbers(image, dimensions=3)
        scale = float(
            file.numbers(f"uns/spatial/{library}/scalefactors/tissue_hires_scalef", "iuf", 0)
        )
    if pixels.shape[2] not in (3, 4) or not pixels.size:
        raise DataError(f"{path}: the image inside has shape {pixels.shape}, RGB is needed")
    if not (np.isfinite(scale) and 0 < scale <= 1):
        raise DataError(f"{path}: tissue_hires_scalef must be above 0 and at most 1, it is {scale}")
    pixels = pixels[:, :, :3]
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"{path}: the image inside has values outside of 0 to 1")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"{path}: the image inside is {pixels.dtype}; uint8 or 0 to 1 is needed")
    return np.ascontiguousarray(pixels), scale


def _library(file: Hdf5File) -> str | None:
    """Name of the one section that the file's images belong to, None where it names none."""
    if file.kind("uns/spatial") != "group":
        return None
    libraries = [n for n in file.names("uns/spatial") if file.kind(f"uns/spatial/{n}") == "group"]
    if len(libraries) > 1:
        raise DataError(
            f"{file.path}: holds {len(libraries)} sections ('{libraries[0][:40]}',"
            f" '{libraries[1][:40]}', ...); write each to a file of its own"
        )
    return libraries[0] if libraries else None


def _index(file: Hdf5File, frame: str) -> list[str]:
    if file.kind(frame) != "group":
        raise DataError(
            f"{file.path}: has no group '{frame}'; if an old anndata wrote it, read it with"
            " anndata.read_h5ad and write it again"
        )
    name = file.attribute(frame, "_index")
    return file.strings(f"{frame}/{name if isinstance(name, str) else '_index'}")


def _check_unique(spots: Sequence[str], path: Path) -> None:
    if not spots:
        raise DataError(f"{path}: empty, at least one spot is needed")
    name, times = Counter(spots).most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: spot '{name[:40]}' occurs more than once")


def _column(file: Hdf5File, name: str, spots: int) -> np.ndarray | None:
    """A column of ``obs`` as numbers or as objects (text, None where missing)."""
    kind = file.kind(name)
    if kind is None:
        frame, _, column = name.rpartition("/")
        if column in np.atleast_1d(file.attribute(frame, "column-order")):
            raise DataError(f"{file.path}: damaged, '{frame}' lists '{column}' but lacks it")
        return None
    values: np.ndarray
    if kind == "data set":
        values = _list(file, name)
    elif file.attribute(name, "encoding-type") == "categorical":
        categories = _list(file, f"{name}/categories")
        codes = file.numbers(f"{name}/codes", "iu").astype(np.int64)
        if len(codes) and not -1 <= codes.min() <= codes.max() < len(categories):
            raise DataError(f"{file.path}: '{name}' names a category that there is not")
        # Code -1, a missing value, takes the last.
        values = np.array([*categories.tolist(), None], dtype=object)[codes]
    elif str(file.attribute(name, "encoding-type")).startswith("nullable-"):
        values = _list(file, f"{name}/values").astype(object)
        mask = file.numbers(f"{name}/mask", "b")
        if len(mask) != len(values):
            raise DataError(f"{file.path}: '{name}' has {len(values)} values, {len(mask)} marks")
        values[mask] = None
    else:
        raise DataError(f"{file.path}: '{name}' is no column of numbers, text or categories")
    if len(values) != spots:
        raise DataError(f"{file.path}: '{name}' has {len(values)} values for {spots} spots")
    return values


def _list(file: Hdf5File, name: str) -> np.ndarray:
    if file.is_text(name):
        return np.array(file.strings(name), dtype=object)
    return file.numbers(name, "iufb")


def _as_numbers(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Numbers of a column, which some writers keep as text or categories."""
    try:
        numbers = pd.to_numeric(pd.Series(values)).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        raise DataError(f"{path}: obs column '{name}' is not numeric") from None
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: obs column '{name}' has a value that is missing or not finite")
    return np.asarray(numbers)


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array(["" if pd.isna(value) else str(value) for value in values], dtype=object)


def _in_tissue(values: np.ndarray | None, spots: int, path: Path) -> np.ndarray:
    """Numbers of the spots that lie in the tissue."""
    if values is None:
        return np.arange(spots)
    numbers = _as_numbers(values, "in_tissue", path)
    if not np.isin(numbers, [0, 1]).all():
        raise DataError(f"{path}: obs column 'in_tissue' must be 0 or 1")
    if not numbers.any():
        raise DataError(f"{path}: obs column 'in_tissue' says that no spot lies in the tissue")
    return np.flatnonzero(numbers)


def _array_coordinates(values: np.ndarray, path: Path) -> np.ndarray:
    numbers = _as_numbers(values, "array_row or array_col", path)
    if (numbers != np.rint(numbers)).any() or (np.abs(numbers) > _MAX_POSITION).any():
        raise DataError(f"{path}: an array coordinate is no whole number or beyond {_MAX_POSITION}")
    return numbers.astype(np.int64)


def _pixels(file: Hdf5File, spots: int) -> np.ndarray:
    if file.kind("obsm/spatial") != "data set":
        raise DataError(
            f"{file.path}: has no obsm['spatial']; full-resolution pixel (x, y) of the spots are"
            " needed there"
        )
    pixels = file.numbers("obsm/spatial", dimensions=2).astype(np.float64)
    if pixels.shape[0] != spots or pixels.shape[1] < 2:
        raise DataError(
            f"{file.path}: obsm['spatial'] is {pixels.shape[0]} x {pixels.shape[1]}, {spots} x 2"
            " is needed"
        )
    if not np.isfinite(pixels).all():
        raise DataError(f"{file.path}: a coordinate in obsm['spatial'] is not finite")
    return pixels[:, :2]


def _on_a_grid(pixels: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array row and column of spots that lie on a square grid, counted from its corner."""
    mend = "add the columns array_row and array_col to obs"
    if len(pixels) < 2:
        raise DataError(f"{path}: has no array coordinates; {mend}")
    distances, _ = scipy.spatial.cKDTree(pixels).query(pixels, k=2)
    pitch = float(np.median(distances[:, 1]))
    if not pitch > 0:
        raise DataError(f"{path}: spots share their pixel coordinates; {mend}")
    steps = (pixels - pixels.min(axis=0)) / pitch
    if steps.max() > _MAX_POSITION:
        raise DataError(f"{path}: spots lie too far apart for a grid; {mend}")
    columns, rows = np.rint(steps).astype(np.int64).T
    if pd.MultiIndex.from_arrays([rows, columns]).has_duplicates:
        raise DataError(
            f"{path}: has no array coordinates, and its spots are on no square grid; {mend}"
        )
    return rows, columns


def _raw_counts(file: Hdf5File, spots: int) -> tuple[sp.csr_matrix, list[str]]:
    """Raw counts and the names of their genes, from the first place that holds such."""
    reasons = []
    for place, frame in _PLACES:
        if file.kind(place) is None:
            continue
        genes = _index(file, frame)
        try:
            counts = _matrix(file, place, (spots, len(genes)))
        except DataError as error:
            if place == "layers/counts":
                raise
            reasons.append(str(error).removeprefix(f"{file.path}, "))
            continue
        if "" in genes:
            raise DataError(f"{file.path}: gene {genes.index('') + 1} of '{frame}' has no name")
        return counts, genes
    raise DataError(
        f"{file.path}: raw counts are needed in layers['counts'], X or raw.X"
        f" ({'; '.join(reasons)[:200] or 'none of these is there'})"
    )


def _matrix(file: Hdf5File, place: str, shape: tuple[int, int]) -> sp.csr_matrix:
    where = f"{file.path}, {place}"
    if file.kind(place) == "data set":
        if file.shape(place) != shape:
            raise DataError(f"{where}: is {file.shape(place)}, {shape[0]} x {shape[1]} is needed")
        blocks = [sp.csr_matrix(whole_counts(block, where)) for block in file.blocks(place)]
        return sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix(shape, dtype=np.int32)
    encoding = file.attribute(place, "encoding-type") or file.attribute(place, "h5sparse_format")
    declared = file.attribute(place, "shape")
    if declared is None:
        declared = file.attribute(place, "h5sparse_shape")
    form = str(encoding).removesuffix("_matrix")
    if form not in ("csr", "csc") or not isinstance(declared, np.ndarray):
        raise DataError(f"{where}: is neither a dense nor a sparse matrix")
    if declared.tolist() != list(shape):
        raise DataError(f"{where}: is {declared.tolist()}, {shape[0]} x {shape[1]} is needed")
    counts = sparse_counts(
        file.numbers(f"{place}/data"),
        file.numbers(f"{place}/indices", "iu"),
        file.numbers(f"{place}/indptr", "iu"),
        shape if form == "csr" else shape[::-1],
        where,
    )
    return counts if form == "csr" else counts.T.tocsr()


def discover(folder: Path) -> list[FoundSection]:
    """Sections in a folder: every ``.h5ad`` file with coordinates.

    The image is the file of the same name beside it, or else the reduced one inside the file,
    which is written beside it as ``NAME-hires.png``.
    """
    sections = []
    for path in sorted(folder.rglob("*.h5ad")):
        with open_hdf5(path) as file:
            if file.kind("obsm/spatial") is None:
                continue
        same = [image for image in images_in(path.parent) if image.stem == path.stem]
        reduced = path.with_name(f"{path.stem}-hires.png")
        files, scale, assumed = {"counts": path}, 1.0, []
        inside = None if same else embedded_image(path)
        if same:
            files["image"] = same[0]
            assumed.append(f"{same[0].name} is the image that obsm['spatial'] is placed in")
        elif inside is not None:
            pixels, scale = inside
            with atomic_write(reduced) as temporary:
                PIL.Image.fromarray(pixels).save(temporary, format="PNG")
            files["image"] = reduced
            assumed.append(
                f"the image inside the file is used, {1 / scale:.1f} times smaller than full"
                f" resolution; it was written to {reduced.name}"
            )
        else:
            assumed.append("no image was found; only methods that need none can run")
        sections.append(FoundSection(path.stem, files, 100.0, 55.0, scale, tuple(assumed)))
    return sections
