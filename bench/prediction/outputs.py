"""Files of a prediction: AnnData, tables, tiles for QuPath, maps of genes."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError, DataError
from bench.files import atomic_write, one_line

if TYPE_CHECKING:
    from anndata import AnnData

_NAMESPACE = uuid.UUID("6f1c9e1e-53c0-5d0c-8a8c-9b0d3a4f5e21")


def check_outputs(paths: Sequence[Path], image: Path) -> None:
    """Refuse files that cannot be written, before anything is computed.

    Raises
    ------
    BenchError
        An ending that names no format, a folder, or the image itself.
    """
    for path in paths:
        if path.suffix not in WRITERS:
            raise BenchError(f"--out {path}: the ending must be one of {', '.join(WRITERS)}")
        if path.is_dir():
            raise BenchError(f"--out {path}: is a folder")
        if not os.access(next(part for part in path.absolute().parents if part.exists()), os.W_OK):
            raise BenchError(f"--out {path}: its folder cannot be written")
        if path.exists() and image.exists() and path.samefile(image):
            raise BenchError(f"--out {path}: is the image itself")


def write_prediction(adata: AnnData, path: Path) -> list[Path]:
    """Write a prediction in the format of a file's ending; each file is complete or absent.

    Returns
    -------
    list of Path
        The files: of a ``.csv`` also the table of the genes, ``NAME.genes.csv``.

    Raises
    ------
    BenchError
        An unknown ending, or a place that cannot be written.
    """
    try:
        return WRITERS[path.suffix](adata, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({one_line(error.strerror or error)})"
        ) from error


def _write_h5ad(adata: AnnData, path: Path) -> list[Path]:
    with atomic_write(path) as temporary:
        adata.write_h5ad(temporary, compression="lzf")
    return [path]


def _write_csv(adata: AnnData, path: Path) -> list[Path]:
    table = adata.to_df()
    pixels = np.asarray(adata.obsm["spatial"])
    own = ["array_row", "array_col", "ood_score", "ood"]
    for place, name in enumerate(own):
        table.insert(place, name, adata.obs[name])
    table.insert(0, "y", pixels[:, 1])
    table.insert(0, "x", pixels[:, 0])
    genes = path.with_name(f"{path.stem}.genes.csv")
    with atomic_write(genes) as temporary:
        adata.var.to_csv(temporary, index_label="gene")
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index_label="barcode")
    return [path, genes]


def _write_geojson(adata: AnnData, path: Path) -> list[Path]:
    text = json.dumps(geojson(adata), allow_nan=False, separators=(",", ":"))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [path]


def geojson(adata: AnnData) -> dict[str, Any]:
    """Square tiles around the spots with their predictions, as QuPath imports them.

    Each spot is a ``Polygon`` in full-resolution pixels, as wide as the distance to the nearest
    spot, with ``objectType`` ``tile`` and its genes as ``measurements``. Format: QuPath 0.4 and
    later, https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
    """
    from scipy.spatial import cKDTree

    pixels = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    half = float(np.median(cKDTree(pixels).query(pixels, k=2)[0][:, 1])) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * half
    values, genes = np.asarray(adata.X, dtype=np.float64), list(adata.var_names)
    scores = adata.obs["ood_score"].to_numpy()
    features = []
    for number, name in enumerate(adata.obs_names):
        measured = dict(zip(genes, values[number].round(6).tolist(), strict=True))
        if np.isfinite(scores[number]):
            measured["ood_score"] = round(float(scores[number]), 6)
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, str(name))),
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [(pixels[number] + corners).round(3).tolist()],
                },
                "properties": {
                    "objectType": "tile",
                    "name": str(name),
                    "measurements": measured,
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


MAPPED = 8
"""Genes of a figure."""

_DPI = 200


def _write_figure(adata: AnnData, path: Path) -> list[Path]:
    from PIL import Image

    from bench.report.maps import predicted_maps
    from bench.report.section_maps import SectionMap

    ranked = adata.var["pcc"].sort_values(ascending=False, na_position="last", kind="stable")
    genes = list(ranked.index[:MAPPED])
    titles = {
        gene: f"{gene}\nPCC undefined" if np.isnan(pcc) else f"{gene}\nPCC {pcc:.2f}"
        for gene, pcc in ranked[genes].items()
    }
    ((name, picture),) = adata.uns["spatial"].items()
    method = adata.uns["spotbench"]["method"]
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
        )
        figure = predicted_maps(section, titles)
    kind = path.suffix.removeprefix(".")
    with atomic_write(path) as temporary:
        # Without a time stamp, so that the same prediction gives the same file.
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        figure.savefig(temporary, format=kind, dpi=_DPI, metadata=metadata)
    return [path]


WRITERS: dict[str, Callable[[AnnData, Path], list[Path]]] = {
    ".h5ad": _write_h5ad,
    ".csv": _write_csv,
    ".geojson": _write_geojson,
    ".png": _write_figure,
    ".pdf": _write_figure,
}
"""Formats by the ending of a file."""
