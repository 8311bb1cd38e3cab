"""Reader of task folders of HEST-Benchmark (Jaume et al., NeurIPS 2024, arXiv 2406.16192).

``adata/ID.h5ad`` holds counts and coordinates, ``patches/ID.h5`` patches of 0.5 um a pixel around
most spots, ``splits/train_<i>.csv`` and ``test_<i>.csv`` the folds, ``var_50genes.json`` the genes.
There is no slide: patches are joined to spots by barcode, spots without a patch are left out and
counted, and spots are in the order of the patches, as the benchmark's own code has them.

Coordinates are given in pixels of the patches, 0.5 um each, whatever the pixel size of the slide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from anndata import AnnData

from bench.datasets import h5ad
from bench.datasets.hest import known_problems
from bench.readers import (
    LEFT_OUT,
    PATCH_ROW,
    DataError,
    FoundSection,
    Hdf5File,
    files_under,
    open_hdf5,
    read_card,
    read_json_symbols,
    stored_edge,
)

ROLES = ("counts", "patches")
"""Files without which a section cannot be read."""

MICROMETRES_PER_PIXEL = 0.5
"""Of the patches."""

_GENES = "var_50genes.json"
_SPLITS = "splits"
_EDGES = ("patch_size_src", "patch_size")
"""Attributes with the edge of a patch in pixels of the slide, in HEST-1k and HEST-Benchmark."""

_ALL_SAMPLES = (
    "the gene list was chosen over all samples of the task, test sections included: genes in at"
    " least 10 % of the spots of each sample, then the 50 most variable ones"
)


def read(files: Mapping[str, Path], *, edge: int | None = None) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts`` and ``patches``.
    edge
        Edge of a patch in pixels of the slide, where the file of the patches does not state it.

    Returns
    -------
    AnnData
        As :func:`bench.datasets.h5ad.read`, for spots with a patch, in the order of the patches.

    Raises
    ------
    DataError
        A file is missing or damaged, patches and barcodes differ in number, a barcode is no spot
        or occurs twice, or the scale of the patches is not known.
    """
    path = files["patches"]
    adata = h5ad.read({"counts": files["counts"]}, tissue_only=False)
    with open_hdf5(path) as file:
        shape = file.shape("img")
        barcodes = _barcodes(file)
        of_slide = _edge_on_slide(file) or edge
    stored = stored_edge(shape, path)
    if shape[0] != len(barcodes):
        raise DataError(f"{path}: 'img' holds {shape[0]} patches for {len(barcodes)} barcodes")
    if of_slide is None:
        raise DataError(
            f"{path}: states no patch_size_src, the edge of a patch in pixels of the slide; name it"
            " in the card's settings (edge)"
        )
    rows = adata.obs_names.get_indexer(barcodes)
    if (rows < 0).any():
        unknown = barcodes[int(np.flatnonzero(rows < 0)[0])]
        raise DataError(f"{path}: barcode '{unknown[:40]}' is no spot of {files['counts']}")
    if len(set(barcodes)) < len(barcodes):
        twice = next(code for code in barcodes if barcodes.count(code) > 1)
        raise DataError(f"{path}: barcode '{twice[:40]}' occurs more than once")
    without = adata.n_obs - len(barcodes)
    adata = adata[rows].copy()
    adata.obs[PATCH_ROW] = np.arange(len(barcodes), dtype=np.int64)
    adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"]) * (stored / of_slide)
    if without:
        adata.uns[LEFT_OUT] = {**adata.uns[LEFT_OUT], "spots without a patch": without}
    return adata


def discover(folder: Path) -> list[FoundSection]:
    """Sections of the task whose folder this is.

    Raises
    ------
    DataError
        A sample without patches, or several tasks in the folder.
    """
    paths = [
        path
        for path in files_under(folder)
        if path.suffix == ".h5ad" and h5ad.is_of_hest_bench(path)
    ]
    roots = sorted({path.parent.parent for path in paths})
    if len(roots) > 1:
        raise DataError(
            f"{folder}: holds {len(roots)} tasks of HEST-Benchmark; add each by its own folder,"
            f" such as {roots[0]}"
        )
    known = _known_patients()
    return [_sample(path, known) for path in paths]


def describe(folder: Path) -> dict[str, object]:
    """Gene list, folds and known problems of the task."""
    root = next(path.parent.parent for path in files_under(folder) if h5ad.is_of_hest_bench(path))
    genes = read_json_symbols(root / _GENES)
    inside = root.relative_to(folder)
    samples = {path.stem for path in (root / "adata").glob("*.h5ad")}
    panel = {
        "genes": len(genes),
        "symbols_sha256": hashlib.sha256("\n".join(genes).encode()).hexdigest(),
        "file": {"path": (inside / _GENES).as_posix()},
        "source": f"{_GENES} of the task",
    }
    return {
        "panels": {"task": panel},
        "published_panel": "task",
        "fold_lists": (inside / _SPLITS).as_posix(),
        "cautions": [_ALL_SAMPLES, *known_problems(samples)],
    }


def _sample(path: Path, known: Mapping[str, str]) -> FoundSection:
    name, root = path.stem, path.parent.parent
    patches = root / "patches" / f"{name}.h5"
    if not patches.is_file():
        raise DataError(f"{patches}: file is missing, while {path} is there")
    return FoundSection(
        name,
        {"counts": path, "patches": patches},
        100.0,
        55.0,
        assumed=(f"patches are {MICROMETRES_PER_PIXEL} um a pixel",),
        micrometres_per_pixel=MICROMETRES_PER_PIXEL,
        patient=known.get(name, ""),
        platform="HEST-Benchmark",
    )


def _known_patients() -> dict[str, str]:
    """Patient by sample, from the cards of the tasks."""
    cards = sorted(Path(__file__).parent.glob("hest-*.yaml"))
    return {section.name: section.patient for card in cards for section in read_card(card).sections}


def _barcodes(file: Hdf5File) -> list[str]:
    """Barcodes of the patches, one a row."""
    if file.kind("barcode") is None:
        raise DataError(f"{file.path}: has no data set 'barcode', which joins patches to spots")
    return [code.rstrip("\0") for code in file.strings("barcode")]


def _edge_on_slide(file: Hdf5File) -> float | None:
    for name in ("coords", "img"):
        for attribute in _EDGES if file.kind(name) else ():
            value = file.attribute(name, attribute)
            if isinstance(value, int | float | np.number) and 0 < float(value) < 1e5:
                return float(value)
    return None
