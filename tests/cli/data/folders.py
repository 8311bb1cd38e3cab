"""Folders of slides that a user may add, and calls of ``bench data``."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
from PIL import Image

from bench.cache import cache_folder
from tests.datasets import layouts


def shown(bench, *arguments):
    answer = bench("data", "show", *arguments, "--json")
    assert answer.status == 0, answer.stderr
    return json.loads(answer.stdout)


def added(bench, folder, table, name="mine", *options):
    answer = bench("data", "add", folder, "--name", name, "--patients", table, *options, "--json")
    assert answer.status == 0, answer.stderr
    return json.loads(answer.stdout)


def patients(path, pairs):
    path.write_text("section,patient\n" + "".join(f"{s},{p}\n" for s, p in pairs.items()))
    return path


def image(path, side=2000, scale=1.0):
    """A slide with tissue under the small section's spots."""
    pixels = np.full((side, side, 3), 240, dtype=np.uint8)
    left, top = int(930 * scale), int(730 * scale)
    pixels[top : top + int(420 * scale), left : left + int(560 * scale)] = (150, 70, 140)
    Image.fromarray(pixels).save(path)


def visium(folder, names=("S1", "S2"), *, hires=False, counts="h5"):
    for number, name in enumerate(names):
        # No two sections hold the same counts: those would be taken for one.
        other = layouts.SmallSection(counts=layouts.SmallSection().counts + 1000 * number)
        spatial = folder / name / "outs" / "spatial"
        spatial.mkdir(parents=True)
        files = layouts.write_space_ranger(spatial.parent, counts=counts)
        for role in ("positions", "scalefactors"):
            files[role].rename(spatial / files[role].name)
        files["labels"].unlink()
        if counts == "h5":
            layouts.write_10x_h5(files["counts"], section=other)
        if counts == "mtx":
            files |= layouts.write_matrix_market(spatial.parent, section=other)
            matrix = spatial.parent / "filtered_feature_bc_matrix"
            matrix.mkdir()
            for role in ("counts", "barcodes", "features"):
                files[role].rename(matrix / files[role].name)
        if hires:
            image(spatial / "tissue_hires_image.png", 200, 0.1)
        else:
            image(folder / name / "slide.tif")
    return folder


def one_section(folder):
    """A section of 20 x 6 spots, 50 px apart, whose tissue fills its image; its table."""
    row, column = np.divmod(np.arange(120), 20)
    rng = np.random.default_rng(0)
    anndata.AnnData(
        X=rng.poisson(4 + column[:, None] % 5, (120, 30)).astype(np.float32),
        obs=pd.DataFrame(
            {"array_row": row, "array_col": column}, index=[f"spot{i}" for i in range(120)]
        ),
        var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)]),
        obsm={"spatial": np.column_stack([100 + 50.0 * column, 100 + 50.0 * row])},
    ).write_h5ad(folder / "one.h5ad")
    pixels = rng.integers(100, 180, (460, 1160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    return patients(folder / "map.csv", {"one": "P1"})


IDS = [f"ENSG{number:011d}" for number in range(30)]


def two_files(folder, *, pictured=("one", "two"), layer=None, symbols=None):
    """Files of two patients with Ensembl ids as names where `symbols` are given; their table."""
    folder.mkdir()
    row, column = np.divmod(np.arange(60), 10)
    for number, name in enumerate(("one", "two")):
        rng = np.random.default_rng(number)
        counts = rng.poisson(4, (60, 30)).astype(np.float32)
        genes = IDS if symbols is not None else [f"GENE{i}" for i in range(30)]
        adata = anndata.AnnData(
            X=counts / 3 + 0.1 if layer else counts,
            obs=pd.DataFrame(
                {"array_row": row, "array_col": column}, index=[f"spot{i}" for i in range(60)]
            ),
            var=pd.DataFrame({} if symbols is None else {"gene_symbol": symbols}, index=genes),
            obsm={"spatial": np.column_stack([100 + 50.0 * column, 100 + 50.0 * row])},
        )
        if layer:
            adata.layers[layer] = counts
        adata.write_h5ad(folder / f"{name}.h5ad")
        if name in pictured:
            pixels = rng.integers(100, 180, (460, 660, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
    return patients(folder / "map.csv", {"one": "P1", "two": "P2"})


def cached_files(kind):
    return [path for path in (cache_folder() / kind).iterdir() if not path.name.startswith(".")]
