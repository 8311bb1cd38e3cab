"""A prediction as one HTML page: genes over the H&E image, with what is known of each gene."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench.files import printable
from bench.prediction.gene_reliability import best_first
from bench.report.packing import BASE64, as_base64, image_address, pitch, quantised
from bench.report.templates import rendered

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MAP_BYTES = 20_000_000
"""Maximum size of the maps of a page."""

IMAGE_BYTES = 4_000_000
"""Maximum size of its image."""

_IMAGE_SIDES = (2000, 1500, 1000, 600)
_QUALITY = 85
_DIGITS = 4


def page_genes(adata: AnnData) -> list[str]:
    """Genes of the page, best predicted first: all that fit into 20 MB, at least one."""
    most = int(MAP_BYTES / (BASE64 * max(adata.n_obs, 1)))
    return best_first(adata.var)[: max(most, 1)]


def prediction_page(adata: AnnData, genes: list[str]) -> str:
    """The page as text; the same prediction gives the same text.

    Parameters
    ----------
    adata
        Result of :func:`bench.prediction.predicting.predict_image`.
    genes
        Genes in the order of their list.
    """
    ((name, picture),) = adata.uns["spatial"].items()
    about = adata.uns["spotbench"]
    scale = float(picture["scalefactors"]["tissue_hires_scalef"])
    columns = adata.var_names.get_indexer(genes)
    pixels = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    um = about.get("micrometres_per_pixel")
    data = {
        "spots": [str(spot) for spot in adata.obs_names],
        "x": as_base64(pixels[:, 0], "<f4"),
        "y": as_base64(pixels[:, 1], "<f4"),
        "ood": as_base64(adata.obs["ood_score"].to_numpy(), "<f4"),
        "pitch": pitch(pixels),
        "um": None if um is None else float(um),
        "image": _packed_image(picture["images"]["hires"], scale),
        "genes": _packed_genes(adata.var.loc[genes]),
        "min_pcc": float(about["min_pcc"]),
        "map": quantised(np.asarray(adata.X, dtype=np.float64)[:, columns]),
    }
    return rendered(
        "prediction.html.jinja",
        name=printable(str(name)),
        facts={heading: printable(text) for heading, text in _facts(adata, um).items()},
        notes=[printable(note) for note in str(about["notes"]).splitlines()],
        shown=len(genes),
        predicted=adata.n_vars,
        scored=bool(np.isfinite(adata.obs["ood_score"]).any()),
        data=data,
    )


def _facts(adata: AnnData, um: float | None) -> dict[str, str]:
    about = adata.uns["spotbench"]
    return {
        "Model": f"{about['method']}, {about['fits']}",
        "Trained on": f"{about['dataset']}, protocol {about['protocol']}",
        "Run": str(about["run"])[:12],
        "Spots": f"{adata.n_obs:,}",
        "Genes": f"{adata.n_vars:,}, {int(adata.var['predictable'].sum()):,} predictable",
        "Scale of values": _formula(json.loads(about["target"])),
        "Pixel size": "not known" if um is None else f"{um:.4g} µm",
    }


def _formula(target: Mapping[str, str]) -> str:
    """Scale of values, of the rules of a protocol, as a formula."""
    over = " over the predicted genes" if target.get("genes") == "panel" else ""
    count = {
        "spot": f"10,000 × count / total of the spot{over}",
        "gene": "10,000 × count / total of the gene",
        "none": "count",
    }.get(target.get("total", ""), "count")
    return f"{target.get('log', 'ln')}(1 + {count})"


def _packed_genes(var: pd.DataFrame) -> list[dict[str, Any]]:
    """What the list of genes shows; None where a score is undefined."""
    scores = ["pcc", "pcc_low", "pcc_high", "ceiling", "share_of_ceiling"]
    rounded = var[scores].to_numpy(dtype=np.float64).round(_DIGITS).tolist()
    rows = [
        {
            name: value if math.isfinite(value) else None
            for name, value in zip(scores, row, strict=True)
        }
        for row in rounded
    ]
    return [
        {
            "name": str(gene),
            **row,
            "sections": int(sections),
            "predictable": bool(predictable),
        }
        for gene, row, sections, predictable in zip(
            var.index, rows, var["sections"], var["predictable"], strict=True
        )
    ]


def _packed_image(pixels: np.ndarray, scale: float) -> dict[str, Any]:
    """The image, reduced until it fits, with its width and height in full-resolution pixels."""
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    width, height = (edge / scale for edge in image.size)
    for side in _IMAGE_SIDES:
        image.thumbnail((side, side))
        source = image_address(image, _QUALITY)
        if len(source) <= IMAGE_BYTES:
            break
    return {"source": source, "width": width, "height": height}
