"""Files of a prediction: a page, AnnData, SpatialData, tables, tiles for QuPath, maps of genes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError, DataError
from bench.files import atomic_write
from bench.prediction.gene_reliability import best_first
from bench.prediction.geojson import geojson, tile_genes
from bench.prediction.places import check_distinct, check_place, system_reason
from bench.prediction.spatial_data import check_package, is_store, write_store

if TYPE_CHECKING:
    from anndata import AnnData

_OWN = ("x", "y", "array_row", "array_col", "ood_score", "ood")
"""Columns of spots beside the genes."""


@dataclass(frozen=True)
class Written:
    """What was written for one ``--out``.

    Attributes
    ----------
    paths
        Files or folders.
    notes
        What is not in them.
    """

    paths: list[Path]
    notes: list[str] = field(default_factory=list)


def left_out(path: Path, kept: int, genes: int) -> list[str]:
    """Note on a file that holds fewer genes than were predicted; empty where it holds all."""
    if kept == genes:
        return []
    return [
        f"{path.name} holds the {kept:,} of {genes:,} genes with the highest PCC on unseen"
        " sections; all of them would make it too large (see --genes)"
    ]


def check_outputs(
    paths: Sequence[Path],
    image: Path,
    *,
    spots: Path | None = None,
    bundle: Path | None = None,
    mask: Path | None = None,
) -> None:
    """Refuse files that cannot be written, before anything is computed.

    Parameters
    ----------
    paths
        Files that are asked for by ``--out``.
    image, spots, bundle
        Files that are read.
    mask
        File that is asked for by ``--mask``.

    Raises
    ------
    BenchError
        An ending that names no format, a folder, a place that cannot be written, a file that is
        read or is written twice, or a package that is missing.
    """
    written = []
    for path in paths:
        if path.suffix not in WRITERS:
            raise BenchError(f"--out {path}: the ending must be one of {', '.join(WRITERS)}")
        if path.suffix == ".zarr":
            check_package(path)
        if path.is_dir() and not (path.suffix == ".zarr" and is_store(path)):
            raise BenchError(f"--out {path}: is a folder")
        if path.suffix == ".zarr" and path.is_file():
            raise BenchError(f"--out {path}: is a file, and a SpatialData store is a folder")
        for part in _files_of(path):
            check_place("--out", part, folder=part.suffix == ".zarr")
            written.append((f"--out {path}", part))
    if mask is not None:
        if mask.suffix.lower() != ".png":
            raise BenchError(f"--mask {mask}: the ending must be .png")
        check_place("--mask", mask)
        written.append((f"--mask {mask}", mask))
    read = {"the image": image, "the file of --spots": spots, "the model": bundle}
    check_distinct({name: path for name, path in read.items() if path is not None}, written)


def _files_of(path: Path) -> list[Path]:
    """What is written for one ``--out``."""
    return [path, _gene_table(path)] if path.suffix == ".csv" else [path]


def _gene_table(path: Path) -> Path:
    return path.with_name(f"{path.stem}.genes.csv")


def write_prediction(adata: AnnData, path: Path) -> Written:
    """Write a prediction in the format of a file's ending; each file is complete or absent.

    Returns
    -------
    Written
        The files: of a ``.csv`` also the table of the genes, ``NAME.genes.csv``.

    Raises
    ------
    BenchError
        An unknown ending, or a place that cannot be written.
    """
    try:
        return WRITERS[path.suffix](adata, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({system_reason(error)})") from error


def _refuse_genes(adata: AnnData, path: Path, reserved: Sequence[str]) -> None:
    """Refuse genes that have the name of a value of the spots."""
    if clash := [name for name in reserved if name in adata.var_names]:
        raise DataError(
            f"{path}: gene '{clash[0]}' has the name of a value of the spots; choose other genes"
            " with --genes"
        )


def _write_h5ad(adata: AnnData, path: Path) -> Written:
    with atomic_write(path) as temporary:
        adata.write_h5ad(temporary, compression="lzf")
    return Written([path])


def _write_csv(adata: AnnData, path: Path) -> Written:
    _refuse_genes(adata, path, _OWN)
    table = adata.to_df()
    pixels = np.asarray(adata.obsm["spatial"])
    for place, name in enumerate(_OWN[2:]):
        table.insert(place, name, adata.obs[name])
    table.insert(0, "y", pixels[:, 1])
    table.insert(0, "x", pixels[:, 0])
    genes = _gene_table(path)
    with atomic_write(genes) as temporary:
        adata.var.to_csv(temporary, index_label="gene")
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index_label="barcode")
    return Written([path, genes])


def _write_geojson(adata: AnnData, path: Path) -> Written:
    _refuse_genes(adata, path, ["ood_score"])
    ranked = best_first(adata.var)
    genes = tile_genes(ranked, adata.n_obs)
    text = json.dumps(geojson(adata, genes), allow_nan=False, separators=(",", ":"))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Written([path], left_out(path, len(genes), len(ranked)))


def _write_store(adata: AnnData, path: Path) -> Written:
    write_store(adata, path)
    return Written([path])


def _write_page(adata: AnnData, path: Path) -> Written:
    from bench.prediction.page import page_genes, prediction_page

    genes = page_genes(adata)
    text = prediction_page(adata, genes)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Written([path], left_out(path, len(genes), adata.n_vars))


MAPPED = 8
"""Genes of a figure."""

_DPI = 200


def _write_figure(adata: AnnData, path: Path) -> Written:
    from PIL import Image

    from bench.report.maps import predicted_maps
    from bench.report.section_maps import SectionMap, expression_unit

    genes = best_first(adata.var)[:MAPPED]
    titles = {
        gene: f"{gene}\nPCC undefined" if np.isnan(pcc) else f"{gene}\nPCC {pcc:.2f}"
        for gene, pcc in adata.var["pcc"].reindex(genes).items()
    }
    ((name, picture),) = adata.uns["spatial"].items()
    about = adata.uns["spotbench"]
    method = about["method"]
    with TemporaryDirectory() as folder:
        image = Path(folder) / "image.jpg"
        Image.fromarray(picture["images"]["hires"]).save(image, format="JPEG", quality=90)
        section = SectionMap(
            section=name,
            genes=tuple(adata.var_names),
            truth=np.empty((adata.n_obs, 0)),
            predictions={method: np.asarray(adata.X)},
            spatial=np.asarray(adata.obsm["spatial"]),
            labels=np.full(adata.n_obs, ""),
            image=image,
            scale=picture["scalefactors"]["tissue_hires_scalef"],
            micrometres_per_pixel=about.get("micrometres_per_pixel"),
            unit=expression_unit({"target": json.loads(about["target"])}),
        )
        figure = predicted_maps(section, titles)
    kind = path.suffix.removeprefix(".")
    with atomic_write(path) as temporary:
        # Without a time stamp, so that the same prediction gives the same file.
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        figure.savefig(temporary, format=kind, dpi=_DPI, metadata=metadata)
    return Written([path])


WRITERS: dict[str, Callable[[AnnData, Path], Written]] = {
    ".h5ad": _write_h5ad,
    ".csv": _write_csv,
    ".geojson": _write_geojson,
    ".html": _write_page,
    ".zarr": _write_store,
    ".png": _write_figure,
    ".pdf": _write_figure,
}
"""Formats by the ending of a file."""
