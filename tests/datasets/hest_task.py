"""A made task folder in the form of HEST-Benchmark: four patients, one section each."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

SAMPLES = ("MADE1", "MADE2", "MADE3", "MADE4")
GENES = tuple(f"GENE{number}" for number in range(50))
OTHERS = ("OTHER1", "OTHER2", "BLANK_0001")
COLUMNS, ROWS = 10, 6
WITHOUT = (3, 17)
"""Spots of each sample that have no patch."""

EDGE, ON_SLIDE = 224, 448.0
"""Edge of a patch in pixels of its own and of the slide, 0.25 um each."""


def write_task(
    folder: Path, samples: Sequence[str] = SAMPLES, genes: Sequence[str] = GENES
) -> Path:
    """Write the folder; the same content each time."""
    for part in ("adata", "patches", "splits"):
        (folder / part).mkdir(parents=True)
    for number, sample in enumerate(samples):
        _write_sample(folder, sample, np.random.default_rng(number))
    for index, test in enumerate(samples):
        write_split(folder, "test", index, [test])
        write_split(folder, "train", index, [name for name in samples if name != test])
    (folder / "var_50genes.json").write_text(json.dumps({"genes": list(genes)}))
    return folder


def write_split(folder: Path, side: str, index: int, samples: Sequence[str]) -> None:
    """Write one file of a fold."""
    with open(folder / "splits" / f"{side}_{index}.csv", "w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["sample_id", "patches_path", "expr_path"])
        rows.writerows([name, f"patches/{name}.h5", f"adata/{name}.h5ad"] for name in samples)


def write_patients(path: Path, samples: Sequence[str] = SAMPLES) -> Path:
    """Write a table of patients, one a sample."""
    rows = [f"{name},P{number}" for number, name in enumerate(samples)]
    path.write_text("\n".join(["section,patient", *rows]) + "\n")
    return path


def _write_sample(folder: Path, sample: str, generator: np.random.Generator) -> None:
    col, row = (axis.ravel() for axis in np.meshgrid(range(COLUMNS), range(ROWS)))
    spots = len(col)
    darkness, grain = generator.uniform(0, 1, (2, spots))
    depth = generator.uniform(0.5, 1.5, spots)
    slopes = np.linspace(-1.5, 1.5, len(GENES) + len(OTHERS))
    expected = 6 * np.exp(slopes * (darkness + 0.3 * grain)[:, None]) * depth[:, None]
    names = [f"{r:03d}x{c:03d}" for r, c in zip(row, col, strict=True)]
    adata = anndata.AnnData(
        X=sp.csr_matrix(generator.poisson(expected).astype(np.float32)),
        obs=pd.DataFrame(
            {"in_tissue": [spot != 5 for spot in range(spots)], "array_row": row, "array_col": col},
            index=names,
        ),
        var=pd.DataFrame(index=[*GENES, *OTHERS]),
        obsm={"spatial": np.stack([900 + 400.0 * col, 700 + 400.0 * row], axis=1)},
    )
    adata.write_h5ad(folder / "adata" / f"{sample}.h5ad")
    kept = [spot for spot in generator.permutation(spots) if spot not in WITHOUT]
    patches = np.stack([_patch(darkness[spot], grain[spot], generator) for spot in kept])
    corners = (np.asarray(adata.obsm["spatial"])[kept] - ON_SLIDE / 2).astype(np.int64)
    with h5py.File(folder / "patches" / f"{sample}.h5", "w") as file:
        images = file.create_dataset(
            "img", data=patches, chunks=(1, EDGE, EDGE, 3), compression="gzip"
        )
        coords = file.create_dataset("coords", data=corners)
        barcodes = np.array([[names[spot].encode()] for spot in kept])
        file.create_dataset("barcode", data=barcodes)
        for dataset in (images, coords):
            dataset.attrs["patch_size_src"] = ON_SLIDE
            dataset.attrs["patch_size_target"] = EDGE
            dataset.attrs["downsample"] = ON_SLIDE / EDGE


def _patch(darkness: float, grain: float, generator: np.random.Generator) -> np.ndarray:
    """Patch of blocks of 14 px, darker and more varied with the state of the spot."""
    blocks = generator.normal(0, 40 * grain + 4, (16, 16, 3))
    tone = np.array([230, 150, 200]) - 110 * darkness
    return np.repeat(np.repeat(np.clip(tone + blocks, 0, 255), 14, 0), 14, 1).astype(np.uint8)
