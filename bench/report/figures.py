"""Figures of stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.files import atomic_write
from bench.report.figure_style import plain
from bench.store import FoldFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GENES_SHOWN = 3


def prediction_map(fold: FoldFolder, path: Path, title: str) -> Path:
    """Draw measured beside predicted expression of the best-measured genes of each test section.

    Parameters
    ----------
    fold
        Finished fold.
    path
        PNG file to write.
    title
        Title of the figure.

    Returns
    -------
    Path
        `path`.
    """
    import anndata
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    adata = anndata.read_h5ad(fold.path / "predictions.h5ad")
    correlations = fold.read_table("genes.parquet")
    sections = list(adata.obs["section"].cat.categories)
    figure = Figure(
        figsize=(2.6 * 2 * GENES_SHOWN, 2.6 * len(sections) + 0.6), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(sections), 2 * GENES_SHOWN, squeeze=False)
    for row, section in enumerate(sections):
        part = adata[adata.obs["section"] == section]
        of_section = correlations[correlations["section"] == section]
        genes = of_section.sort_values(["heg", "truth_mean"], ascending=False)["gene"]
        pcc = of_section.set_index("gene")["pcc"]
        for number, gene in enumerate(genes[:GENES_SHOWN]):
            truth = np.asarray(part[:, gene].layers["truth"]).ravel()
            predicted = np.asarray(part[:, gene].X).ravel()
            spatial = np.asarray(part.obsm["spatial"])
            left, right = axes[row, 2 * number], axes[row, 2 * number + 1]
            _draw(left, spatial, truth, f"{section} · {gene}\nmeasured")
            r = pcc[gene]
            said = "PCC undefined" if np.isnan(r) else f"PCC {r:.2f}"
            _draw(right, spatial, predicted, f"predicted\n{said}")
    for unused in axes.ravel():
        if not unused.collections:
            unused.set_visible(False)
    figure.suptitle(f"{plain(title)} (each map has its own colour range)", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path


def _draw(axes: Axes, spatial: np.ndarray, values: np.ndarray, title: str) -> None:
    extent = np.ptp(spatial, axis=0)
    pitch = np.sqrt(extent.prod() / len(spatial))
    # Spots nearly touch: their diameter in points is most of the pitch on a map of 2.4 inches.
    diameter = 0.85 * pitch / max(extent.max(), 1.0) * 2.4 * 72
    axes.scatter(
        spatial[:, 0], spatial[:, 1], c=values, s=diameter**2, cmap="viridis", linewidths=0
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_axis_off()
    axes.set_title(plain(title), fontsize=8)
