"""Predictions as tiles that QuPath imports."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report.packing import pitch

if TYPE_CHECKING:
    from anndata import AnnData

MEASUREMENTS = 2_000_000
"""Largest number of measurements in a file, about 33 MB; QuPath keeps all of them in memory."""

UNFAMILIAR = {"name": "Unlike the training images", "color": [214, 96, 0]}
"""QuPath classification of tiles whose ``ood_score`` is above 1."""

_NAMESPACE = uuid.UUID("6f1c9e1e-53c0-5d0c-8a8c-9b0d3a4f5e21")
_DIGITS = 5


def tile_genes(genes: Sequence[str], tiles: int) -> list[str]:
    """The first genes of a ranking that a file of so many tiles holds, at least one."""
    return list(genes[: max(MEASUREMENTS // max(tiles, 1), 1)])


def geojson(adata: AnnData, genes: Sequence[str]) -> dict[str, Any]:
    """Square tiles around the spots with their predictions, as QuPath imports them.

    Each spot is a ``Polygon`` in full-resolution pixels, as wide as the distance to the nearest
    spot, with ``objectType`` ``tile`` and genes as ``measurements``. Tiles with an ``ood_score``
    above 1 have the classification :data:`UNFAMILIAR`.

    Format: QuPath 0.4 and later, ``qupath.lib.io.QuPathTypeAdapters`` of its source, and
    https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html

    Parameters
    ----------
    adata
        Result of :func:`bench.prediction.predicting.predict_image`.
    genes
        Genes that become measurements.
    """
    pixels = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * pitch(pixels) / 2
    rings = (pixels[:, None] + corners).round(3).tolist()
    columns = adata.var_names.get_indexer(list(genes))
    values = np.asarray(adata.X, dtype=np.float64)[:, columns].round(_DIGITS).tolist()
    scores = adata.obs["ood_score"].to_numpy()
    features = []
    for number, name in enumerate(adata.obs_names):
        measured = dict(zip(genes, values[number], strict=True))
        properties = {"objectType": "tile", "name": str(name), "measurements": measured}
        if np.isfinite(scores[number]):
            measured["ood_score"] = round(float(scores[number]), _DIGITS)
        if scores[number] > 1:
            properties["classification"] = UNFAMILIAR
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, str(name))),
                "geometry": {"type": "Polygon", "coordinates": [rings[number]]},
                "properties": properties,
            }
        )
    return {"type": "FeatureCollection", "features": features}
