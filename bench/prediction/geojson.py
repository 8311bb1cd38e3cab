"""Predictions as tiles that QuPath imports."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.files import listed

if TYPE_CHECKING:
    from anndata import AnnData

MEASUREMENTS = 2_000_000
"""Measurements of a file: about 45 MB, which QuPath opens in less than a minute."""

UNFAMILIAR = {"name": "Unlike the training images", "color": [214, 96, 0]}
"""QuPath classification of tiles whose ``ood_score`` is above 1."""

_NAMESPACE = uuid.UUID("6f1c9e1e-53c0-5d0c-8a8c-9b0d3a4f5e21")
_DIGITS = 5


def geojson(adata: AnnData) -> dict[str, Any]:
    """Square tiles around the spots with their predictions, as QuPath imports them.

    Each spot is a ``Polygon`` in full-resolution pixels, as wide as the distance to the nearest
    spot, with ``objectType`` ``tile`` and its genes as ``measurements``. Tiles unlike the training
    images are classified so. Genes that are left out, because they would make more than 2,000,000
    measurements, are named in the member ``notes`` of the collection, which QuPath skips.

    Format: QuPath 0.4 and later, `exporting annotations
    <https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html>`_ and
    ``qupath.lib.io.QuPathTypeAdapters`` of its source.
    """
    from bench.prediction.ranking import best_predicted

    pixels = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    half = pitch(pixels) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * half
    rings = (pixels[:, None] + corners).round(3).tolist()
    most = MEASUREMENTS // adata.n_obs
    ranked = best_predicted(adata.var)
    kept = set(ranked[:most])
    genes = [gene for gene in adata.var_names if gene in kept]
    values = np.asarray(adata[:, genes].X, dtype=np.float64).round(_DIGITS).tolist()
    scores = adata.obs["ood_score"].to_numpy()
    features = []
    for number, name in enumerate(adata.obs_names):
        measured = dict(zip(genes, values[number], strict=True))
        if np.isfinite(scores[number]):
            measured[OOD] = round(float(scores[number]), _DIGITS)
        properties = {"objectType": "tile", "name": str(name), "measurements": measured}
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
    collection = {"type": "FeatureCollection", "features": features}
