"""Measured and predicted maps of genes, packed for embedding in a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.images.image import open_image
from bench.errors import DataError
from bench.report.genes import marker_sets
from bench.report.packing import BASE64, as_base64, image_address, pitch, quantised
from bench.store import FoldFolder
from bench.stored_runs import StoredRun

IMAGE_BYTES = 8_000_000
"""Maximum size of the images of a page together."""

_IMAGE_SIDES = (600, 420, 300, 200, 120)
STORED_IMAGE_PIXELS = 4_000_000
"""Pixels of the largest small image that is opened."""
_NUMBERS = 3 * 4
"""Bytes of a gene's lowest and highest value and its PCC in one map."""

_SAME_TRUTH = 1e-4
"""Tolerance for measured values, which may differ between machines by rounding."""


@dataclass(frozen=True)
class Row:
    """Row of a score table with its unique name.

    Attributes
    ----------
    name
        The name.
    run
        Run whose predictions are shown: that of the lowest seed with a finished fold.
    runs
        All runs of the row, by seed; `run` alone where empty.
    """

    name: str
    run: StoredRun
    runs: tuple[StoredRun, ...] = ()

    @property
    def seeds(self) -> tuple[StoredRun, ...]:
        """Runs of the row, by seed."""
        return self.runs or (self.run,)


@dataclass
class Needs:
    """Sizes of the maps of every gene.

    Attributes
    ----------
    order
        Genes in descending order of priority.
    size
        Bytes of each gene in that order.
    """

    order: list[str]
    size: np.ndarray

    @property
    def total(self) -> float:
        """Bytes of all genes."""
        return float(np.cumsum(self.size)[-1]) if len(self.size) else 0.0

    def within(self, budget: float) -> list[str]:
        """The first genes whose sizes fit into `budget` bytes."""
        return self.order[: int(np.searchsorted(np.cumsum(self.size), budget, side="right"))]


@dataclass
class _Variant:
    """Section in runs with the same spots, genes and measured values."""

    name: str
    patient: str
    spots: list[str]
    panel: list[str]
    spatial: np.ndarray
    truth: np.ndarray
    image: str | None = None
    maps: dict[int, dict[str, Any]] = field(default_factory=dict)
    ceiling: np.ndarray | None = None

    def is_of(self, spots: list[str], panel: list[str], truth: np.ndarray) -> bool:
        return (
            self.spots == spots
            and self.panel == panel
            and np.allclose(self.truth, truth, rtol=0, atol=_SAME_TRUTH)
        )


def map_needs(rows: Sequence[Row]) -> Needs:
    """Sizes of the maps of all runs, from their tables alone.

    Markers come first, then the genes by their mean PCC over the methods and sections; where no
    row is a method, over all rows.
    """
    tables = [
        row.run.genes()[["section", "gene", "pcc"]].assign(row=number, kind=row.run.facts["kind"])
        for number, row in enumerate(rows)
        if row.run.done
    ]
    if not tables:
        return Needs([], np.zeros(0))
    table = pd.concat(tables, ignore_index=True)
    spots = _spots(rows)
    drawn = spots.reindex(pd.MultiIndex.from_frame(table[["row", "section"]])).to_numpy()
    # A map with one value per gene, such as that of the mean, is stored without its spots.
    flat = table.groupby(["row", "section"])["pcc"].transform("count") == 0
    table["size"] = BASE64 * (np.where(flat, 0.0, drawn) + _NUMBERS)
    size = table.groupby("gene")["size"].sum()
    largest = table.assign(spots=drawn).groupby(["gene", "section"])["spots"].max()
    size += BASE64 * (largest.groupby("gene").sum() + _NUMBERS)
    contestants = table[table["kind"] == "method"]
    pcc = (contestants if len(contestants) else table).groupby("gene")["pcc"].mean()
    order = pd.DataFrame({"size": size, "pcc": pcc.reindex(size.index).fillna(-2.0)}).reset_index()
    order["marker"] = order["gene"].isin(frozenset().union(*marker_sets().values()))
    order = order.sort_values(["marker", "pcc", "gene"], ascending=[False, False, True])
    return Needs(list(order["gene"]), order["size"].to_numpy())


def _spots(rows: Sequence[Row]) -> pd.Series:
    counts = {}
    for number, row in enumerate(rows):
        scores = row.run.scores() if row.run.done else pd.DataFrame(columns=["section", "spots"])
        for section, of_section in scores[scores["section"] != ""].groupby("section"):
            counts[number, section] = int(of_section["spots"].max())
    return pd.Series(counts, dtype=np.float64)


def share_out(wanted: Sequence[float], budget: float) -> list[float]:
    """Divide a budget: no share exceeds its request, and the remainder is given to the others.

    Examples
    --------
    >>> share_out([1.0, 9.0, 9.0], 11.0)
    [1.0, 5.0, 5.0]
    """
    given = [0.0] * len(wanted)
    for done, number in enumerate(sorted(range(len(wanted)), key=lambda n: wanted[n])):
        given[number] = min(wanted[number], (budget - sum(given)) / (len(wanted) - done))
    return given


def packed_maps(rows: Sequence[Row], genes: Iterable[str]) -> dict[str, Any]:
    """Maps of some genes in every section, ready for JSON.

    Values are given in 256 steps between the lowest and the highest of a gene in a map; arrays
    are little-endian and in base64.

    Returns
    -------
    dict
        ``genes``; ``rows`` (name and kind); ``sections``, each with its spots, its measured map
        and one map a row that has predicted it.
    """
    chosen = sorted(genes)
    position = {gene: number for number, gene in enumerate(chosen)}
    variants: dict[str, list[_Variant]] = {}
    for number, row in enumerate(rows):
        scores = row.run.genes()
        for index in row.run.predicted:
            sections = scores[scores["fold"] == index].groupby("section")
            of_fold = {str(section): part.set_index("gene") for section, part in sections}
            _read_fold(number, row.run.folder.fold(index), of_fold, position, variants)
    packed = []
    for name in sorted(variants):
        for version, variant in enumerate(variants[name], 1):
            several = len(variants[name]) > 1
            label = f"{name} (version {version})" if several else name
            packed.append(_packed(variant, label, position))
    return {
        "genes": chosen,
        "rows": [{"name": row.name, "kind": row.run.facts["kind"]} for row in rows],
        "sections": packed,
    }


def _read_fold(
    number: int,
    fold: FoldFolder,
    scores: Mapping[str, pd.DataFrame],
    position: Mapping[str, int],
    variants: dict[str, list[_Variant]],
) -> None:
    """Add the maps of one row in one fold to those of its sections."""
    import anndata

    adata = anndata.read_h5ad(fold.path / "predictions.h5ad")
    adata = adata[:, adata.var_names.isin(list(position))]
    panel = list(adata.var_names)
    predicted, truth = np.asarray(adata.X), np.asarray(adata.layers["truth"])
    names = adata.obs["section"].to_numpy().astype(str)
    images = fold.facts().get("images", {})
    for section in dict.fromkeys(names):
        here = names == section
        spots = list(adata.obs_names[here])
        known = variants.setdefault(section, [])
        variant = next((v for v in known if v.is_of(spots, panel, truth[here])), None)
        of_genes = scores[section].reindex(panel)
        if variant is None:
            variant = _Variant(
                section,
                str(adata.obs["patient"].to_numpy()[here][0]),
                spots,
                panel,
                np.asarray(adata.obsm["spatial"], dtype=np.float64)[here],
                truth[here],
            )
            variant.ceiling = of_genes["ceiling"].to_numpy()
            known.append(variant)
        # Methods that read no image may have been run without images.
        variant.image = variant.image or images.get(section, {}).get("file")
        variant.maps[number] = {
            **quantised(predicted[here]),
            "pcc": as_base64(of_genes["pcc"].to_numpy(), "<f4"),
            "row": number,
        }


def _packed(variant: _Variant, label: str, position: Mapping[str, int]) -> dict[str, Any]:
    assert variant.ceiling is not None
    return {
        "name": label,
        "patient": variant.patient,
        "genes": [position[gene] for gene in variant.panel],
        "x": as_base64(variant.spatial[:, 0], "<f4"),
        "y": as_base64(variant.spatial[:, 1], "<f4"),
        "pitch": pitch(variant.spatial),
        "image": variant.image,
        "ceiling": as_base64(variant.ceiling, "<f4"),
        "truth": quantised(variant.truth),
        "maps": [variant.maps[number] for number in sorted(variant.maps)],
    }


def packed_images(results: Path, rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Stored small images of the test sections as data addresses, by file.

    Returns
    -------
    dict
        ``source`` and the ``width`` and ``height`` of what it shows, in pixels of the full image.
        Files that are missing, damaged or not in the results folder are left out.
    """
    scales: dict[str, float] = {}
    for row in rows:
        for index in row.run.done:
            for image in row.run.folder.fold(index).facts().get("images", {}).values():
                scales[image["file"]] = float(image["scale"])
    root = results.resolve()
    paths = {name: (root / name).resolve() for name in sorted(scales)}
    packed: dict[str, dict[str, Any]] = {}
    for side in _IMAGE_SIDES:
        packed = {}
        for name, path in paths.items():
            if not path.is_relative_to(root):
                continue
            try:
                packed[name] = _packed_image(path, scales[name], side)
            except DataError:
                continue
        if sum(len(image["source"]) for image in packed.values()) <= IMAGE_BYTES:
            break
    return packed


def _packed_image(path: Path, scale: float, side: int) -> dict[str, Any]:
    with open_image(path, STORED_IMAGE_PIXELS) as image:
        width, height = (edge / scale for edge in image.size)
        image.thumbnail((side, side))
        source = image_address(image.convert("RGB"), quality=80)
    return {"source": source, "width": width, "height": height}
