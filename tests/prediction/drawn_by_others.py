"""Draws predictions with scanpy, squidpy and spatialdata-plot; run in an environment with these.

Arguments: a prediction, an export of a run, a gene of both, and a folder for the pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(prediction: Path, export: Path, gene: str, folder: Path) -> None:
    """Every picture; bars of colour are left out, so that only spots have the colours."""
    # Imported here, as tests are collected where these are not installed.
    import matplotlib as mpl

    mpl.use("Agg")

    import anndata
    import scanpy as sc
    import spatialdata as sd
    import spatialdata_plot  # noqa: F401 - adds the accessor 'pl'
    import squidpy as sq
    from matplotlib import pyplot as plt

    from bench.prediction.spatial_data import write_store

    def save(name: str) -> None:
        plt.gcf().savefig(folder / f"{name}.png", dpi=100)
        plt.close("all")

    predicted = anndata.read_h5ad(prediction)
    sc.pl.spatial(predicted, color=gene, colorbar_loc=None, show=False)
    save("scanpy-prediction")
    sq.pl.spatial_scatter(predicted, color=gene, colorbar=False)
    save("squidpy-prediction")

    exported = anndata.read_h5ad(export)
    section = exported.obs["library_id"].cat.categories[0]
    part = exported[exported.obs["library_id"] == section]
    for layer in (None, "truth"):
        sc.pl.spatial(
            part, library_id=section, color=gene, layer=layer, colorbar_loc=None, show=False
        )
        save(f"scanpy-export-{layer or 'X'}")
    sq.pl.spatial_scatter(exported, library_key="library_id", color=gene, colorbar=False)
    save("squidpy-export")

    write_store(predicted, folder / "prediction.zarr")
    store = sd.read_zarr(folder / "prediction.zarr")
    for system in store.coordinate_systems:
        drawn = store.pl.render_images("hires_image").pl.render_shapes("spots", color=gene)
        drawn.pl.show(coordinate_systems=system, colorbar=False)
        save(f"spatialdata-{system}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
