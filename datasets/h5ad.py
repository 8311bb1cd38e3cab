"""Reader of AnnData files (``.h5ad``), as scanpy, squidpy and others write them.

A file, ``counts``, holds one section or several that a column of ``obs`` tells apart: raw counts in
``layers["counts"]``, ``layers["raw_counts"]``, ``X`` or ``raw.X`` (the first of these that holds
whole numbers), and full-resolution pixel (x, y) in ``obsm["spatial"]`` (or ``"X_spatial"``). Of
``obs`` are read, where it has them: ``in_tissue`` (spots outside of it are left out),
``array_row`` and ``array_col``, ``label``. Without array coordinates, spots must stand on a square
or hexagonal grid, whose columns and rows are then counted. Features whose ``var["feature_types"]``
is not gene expression, and control probes, are left out. ``uns["left_out"]`` counts what is left
out by reason. A gene name that occurs again becomes ``SYMBOL-1``, ``SYMBOL-2``, as scanpy's
``var_names_make_unique`` names it.

Only what is named here is read, element by element and by anndata, after a check that nothing in
the file is unpickled, followed to another file or larger than the file can hold.

Format: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from bench.readers import (
    LEFT_OUT,
    DataError,
    FoundSection,
    Hdf5File,
    array_of_grid,
    expressed_genes,
    files_under,
    images_in,
    not_read,
    open_hdf5,
    sparse_counts,
    unique_names,
    whole_counts,
)

ROLES = ("counts",)
"""Files without which a section cannot be read."""

DIVIDING = "library_id"
"""Column of ``obs`` that tells the sections of a file apart unless another is named."""

_PLACES = (
    ("layers/counts", "var"),
    ("layers/raw_counts", "var"),
    ("X", "var"),
    ("raw/X", "raw/var"),
)
_COORDINATES = ("obsm/spatial", "obsm/X_spatial")
_IMAGES = ("fullres", "downscaled_fullres", "hires")
_MAX_POSITION = 10**9


def read(
    files: Mapping[str, Path],
    *,
    library: str | None = None,
    by: str = DIVIDING,
    genome: str | None = None,
) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts``.
    library
        Section of a file that holds several: its value in column `by` of ``obs``.
    by
        Column that tells sections apart.
    genome
        Genome whose genes are kept where the reference holds several.

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
        spots = _index(file, "obs")
        _check_unique(spots, path)
        own = _rows_of(file, by, library, len(spots))
        pixels = _pixels(file, len(spots))
        counts, genes, left_out = _raw_counts(file, len(spots), genome)
        columns = {
            name: _column(file, "obs", name, len(spots))
            for name in ("in_tissue", "array_row", "array_col", "label")
        }
    in_tissue = _in_tissue(columns["in_tissue"], len(spots), path)
    inside = np.flatnonzero(own & in_tissue)
    if not len(inside):
        raise DataError(f"{path}: no spot of the section lies in the tissue")
    left_out["spots out of tissue"] = int((own & ~in_tissue).sum())
    row, column = columns["array_row"], columns["array_col"]
    if row is not None and column is not None:
        rows, cols = (_array_coordinates(values, path)[inside] for values in (row, column))
    else:
        rows, cols = array_of_grid(pixels[inside], str(path))
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
        uns={LEFT_OUT: {reason: number for reason, number in left_out.items() if number}},
    )


def embedded_image(
    path: Path, *, library: str | None = None, by: str = DIVIDING
) -> tuple[np.ndarray, float] | None:
    """Reduced image that scanpy, squidpy and HEST keep inside the file, the largest there is.

    Returns
    -------
    tuple of ndarray and float, or None
        (height, width, 3) uint8 RGB and its pixels a full-resolution pixel; None where the file
        holds no such image.

    Raises
    ------
    DataError
        The file is damaged, or an image that is no RGB image.
    """
    with open_hdf5(path) as file:
        name = _image_library(file, by, library)
        if name is None:
            return None
        place = f"uns/spatial/{name}"
        kept = [one for one in _IMAGES if file.kind(f"{place}/images/{one}") == "data set"]
        if not kept:
            return None
        image = kept[0]
        factor = f"{place}/scalefactors/tissue_{image}_scalef"
        if image == "fullres" and file.kind(factor) is None:
            scale = 1.0
        else:
            scale = float(file.numbers(factor, "iuf", 0))
        pixels = file.numbers(f"{place}/images/{image}", dimensions=3)
    if pixels.shape[2] not in (3, 4) or not pixels.size:
        raise DataError(f"{path}: the image inside has shape {pixels.shape}, RGB is needed")
    if not (np.isfinite(scale) and 0 < scale <= 1):
        raise DataError(
            f"{path}: tissue_{image}_scalef must be above 0 and at most 1, it is {scale}"
        )
    pixels = pixels[:, :, :3]
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"{path}: the image inside has values outside of 0 to 1")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"{path}: the image inside is {pixels.dtype}; uint8 or 0 to 1 is needed")
    return np.ascontiguousarray(pixels), scale


def _libraries(file: Hdf5File) -> list[str]:
    """Names under which the file keeps images."""
    if file.kind("uns/spatial") != "group":
        return []
    return [n for n in file.names("uns/spatial") if file.kind(f"uns/spatial/{n}") == "group"]


def _values_of(file: Hdf5File, by: str) -> np.ndarray | None:
    """Section of each spot as a column says, None where there is no such column."""
    if "/" in by or file.kind(f"obs/{by}") is None:
        return None
    values = _column(file, "obs", by, len(_index(file, "obs")))
    return None if values is None else _texts(values)


def _rows_of(file: Hdf5File, by: str, library: str | None, spots: int) -> np.ndarray:
    """(spots,) bool: spots of the section that is read."""
    values = _values_of(file, by)
    if library is not None:
        if values is None or library not in values:
            raise DataError(f"{file.path}: obs column '{by[:40]}' has no section '{library[:40]}'")
        return np.asarray(values == library)
    several = sorted(set(values)) if values is not None else []
    if len(several) > 1 or (values is None and len(_libraries(file)) > 1):
        named = several or _libraries(file)
        raise DataError(
            f"{file.path}: holds {len(named)} sections ('{named[0][:40]}', '{named[1][:40]}',"
            f" ...); name the column of obs that tells them apart with --by, or write each to a"
            " file of its own"
        )
    return np.ones(spots, dtype=bool)


def _image_library(file: Hdf5File, by: str, library: str | None) -> str | None:
    """Name under which the image of a section lies, None where it cannot be told."""
    libraries = _libraries(file)
    values = _values_of(file, by)
    own = library or (values[0] if values is not None and len(set(values)) == 1 else None)
    if own in libraries:
        return own
    return libraries[0] if len(libraries) == 1 else None


def _index(file: Hdf5File, frame: str) -> list[str]:
    if file.kind(frame) != "group":
        raise DataError(
            f"{file.path}: has no group '{frame}'; if an old anndata wrote it, read it with"
            " anndata.read_h5ad and write it again"
        )
    name = file.attribute(frame, "_index")
    place = f"{frame}/{name if isinstance(name, str) else '_index'}"
    gaps = str(file.attribute(place, "encoding-type")).startswith("nullable-")
    if file.kind(place) != ("group" if gaps else "data set"):
        raise DataError(f"{file.path}: has no data set '{place}', the index of '{frame}'")
    names = file.values(place)
    if not all(isinstance(one, str) for one in names):
        raise DataError(f"{file.path}: '{place}' is not a list of text, or a name is missing")
    return [str(one) for one in names]


def _check_unique(spots: Sequence[str], path: Path) -> None:
    if not spots:
        raise DataError(f"{path}: empty, at least one spot is needed")
    name, times = Counter(spots).most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: spot '{name[:40]}' occurs more than once")


def _column(file: Hdf5File, frame: str, column: str, rows: int) -> np.ndarray | None:
    """A column as objects, None where a value is missing; None where there is no such column."""
    name = f"{frame}/{column}"
    if file.kind(name) is None:
        if column in np.atleast_1d(file.attribute(frame, "column-order")):
            raise DataError(f"{file.path}: damaged, '{frame}' lists '{column}' but lacks it")
        return None
    values = file.values(name)
    # Before anndata 0.8 a column held codes, and its categories lay beside the columns.
    old = f"{frame}/__categories/{column}"
    if file.kind(old) is not None:
        categories = file.values(old)
        codes = values.to_numpy()
        if codes.dtype.kind not in "iu" or not (
            len(codes) == 0 or -1 <= int(codes.min()) <= int(codes.max()) < len(categories)
        ):
            raise DataError(f"{file.path}: '{name}' names a category that there is not")
        # Code -1, a missing value, takes the last.
        words = np.array([*categories.tolist(), None], dtype=object)
        values = pd.Series(words[codes.astype(np.int64)], dtype=object)
    if len(values) != rows:
        raise DataError(f"{file.path}: '{name}' has {len(values)} values for {rows} rows")
    objects = values.astype(object).to_numpy()
    objects[values.isna().to_numpy()] = None
    return np.asarray(objects)


def _as_numbers(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Numbers of a column, which some writers keep as text or categories."""
    truths = {"true": 1, "false": 0}
    values = np.array(
        [truths.get(v.strip().lower(), v) if isinstance(v, str) else v for v in values], object
    )
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
    """(spots,) bool: spots that lie in the tissue."""
    if values is None:
        return np.ones(spots, dtype=bool)
    numbers = _as_numbers(values, "in_tissue", path)
    if not np.isin(numbers, [0, 1]).all():
        raise DataError(f"{path}: obs column 'in_tissue' must be 0 or 1")
    if not numbers.any():
        raise DataError(f"{path}: obs column 'in_tissue' says that no spot lies in the tissue")
    return numbers == 1


def _array_coordinates(values: np.ndarray, path: Path) -> np.ndarray:
    numbers = _as_numbers(values, "array_row or array_col", path)
    if (numbers != np.rint(numbers)).any() or (np.abs(numbers) > _MAX_POSITION).any():
        raise DataError(f"{path}: an array coordinate is no whole number or beyond {_MAX_POSITION}")
    return numbers.astype(np.int64)


def _pixels(file: Hdf5File, spots: int) -> np.ndarray:
    place = next((one for one in _COORDINATES if file.kind(one) is not None), None)
    if place is None:
        raise DataError(
            f"{file.path}: has no obsm['spatial']; full-resolution pixel (x, y) of the spots are"
            " needed there"
        )
    if file.kind(place) == "group":  # a data frame
        names = np.atleast_1d(file.attribute(place, "column-order"))[:2]
        pixels = np.column_stack(
            [
                _as_numbers(file.values(f"{place}/{name}").to_numpy(), place, file.path)
                for name in names
            ]
        )
    else:
        pixels = file.numbers(place, dimensions=2).astype(np.float64)
    if pixels.shape[0] != spots or pixels.shape[1] < 2:
        raise DataError(
            f"{file.path}: obsm['spatial'] is {pixels.shape[0]} x {pixels.shape[1]}, {spots} x 2"
            " is needed"
        )
    if not np.isfinite(pixels).all():
        raise DataError(f"{file.path}: a coordinate in obsm['spatial'] is not finite")
    return pixels[:, :2]


def _raw_counts(
    file: Hdf5File, spots: int, genome: str | None
) -> tuple[sp.csr_matrix, list[str], dict[str, int]]:
    """Raw counts, the names of their genes, and the features left out by reason."""
    reasons = []
    for place, frame in _PLACES:
        if file.kind(place) is None:
            continue
        genes = _index(file, frame)
        try:
            counts = _matrix(file, place, (spots, len(genes)))
        except DataError as error:
            if place.startswith("layers/"):
                raise
            reasons.append(str(error).removeprefix(f"{file.path}, "))
            continue
        if "" in genes:
            raise DataError(f"{file.path}: gene {genes.index('') + 1} of '{frame}' has no name")
        types = _column(file, frame, "feature_types", len(genes))
        kept, symbols, left_out = expressed_genes(
            genes, None if types is None else list(_texts(types)), str(file.path), genome=genome
        )
        return counts[:, kept] if left_out else counts, symbols, left_out
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


def discover(
    folder: Path, *, by: str | None = None, genome: str | None = None
) -> list[FoundSection]:
    """Sections in a folder: those of every ``.h5ad`` file with coordinates.

    The image is the file of the same name beside it, or else the reduced one inside the file.

    Parameters
    ----------
    folder
        Folder to look through.
    by
        Column of ``obs`` that tells the sections of a file apart; ``library_id`` where None.
    genome
        Genome whose genes are kept where the reference holds several.
    """
    sections = []
    for path in files_under(folder):
        if path.suffix.lower() != ".h5ad" or is_of_hest(path):
            continue
        with open_hdf5(path) as file:
            if not any(file.kind(place) for place in _COORDINATES):
                names = ", ".join(file.names("obsm")[:5]) if file.kind("obsm") else ""
                sections.append(
                    not_read(
                        path.stem,
                        f"{path} has no obsm['spatial'] with pixel (x, y) of the spots"
                        + (f", only {names}" if names else ""),
                    )
                )
                continue
            values = _values_of(file, by or DIVIDING)
            several = sorted(set(values)) if values is not None else []
        if by is not None and not several:
            raise DataError(f"{path}: obs has no column '{by[:40]}'")
        chosen: list[str | None] = list(several) if len(several) > 1 else [None]
        sections += [_section(path, library, by, genome) for library in chosen]
    return sections


def is_of_hest(path: Path) -> bool:
    """Whether a file lies in the folder ``st`` of a HEST folder, which has a reader of its own."""
    root = path.parent.parent
    return path.parent.name == "st" and any((root / n).is_dir() for n in ("wsis", "metadata"))


def _section(path: Path, library: str | None, by: str | None, genome: str | None) -> FoundSection:
    settings: dict[str, str | int] = {}
    if library is not None:
        settings |= {"library": library}
    if by is not None:
        settings |= {"by": by}
    inside = embedded_image(path, library=library, by=by or DIVIDING)
    if genome is not None:
        settings |= {"genome": genome}
    names = {path.stem, library} if library else {path.stem}
    same = [image for image in images_in(path.parent) if image.stem in names]
    files, scale, assumed = {"counts": path}, 1.0, []
    if same:
        files["image"] = same[0]
        assumed.append(f"{same[0].name} is the image that obsm['spatial'] is placed in")
    elif inside is not None:
        scale = inside[1]
        files["image"] = path
        assumed.append(
            f"the image inside the file is used, {1 / scale:.1f} times smaller than full resolution"
        )
    else:
        assumed.append("no image was found; only methods that need none can run")
    return FoundSection(
        library or path.stem, files, 100.0, 55.0, scale, tuple(assumed), settings=settings
    )
