"""One small section, written in the form of each layout that there is a reader for.

Its counts tell where they belong: no two cells hold the same, so that a spot with the counts of
another, or a column with those of another gene, shows whatever the values are.
"""

from __future__ import annotations

import gzip
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

SPOTS, GENES = 12, 8
SYMBOLS = ("ACTB", "FASN", "HLA-A", "TBCE", "ERBB2", "MT-CO1", "nan", "GAPDH")
BARCODES = (
    *("GCTAGGACTTCCAAAT-1", "AACGTTGCATGCCTGA-1", "TTGACCATGGACTCAG-1", "CAGTTACGGATACCTG-1"),
    *("ATCCGGTTAACGATGC-1", "GGATACTGCCTTAGCA-1", "CTAAGCGATTGGCATC-1", "TCGCATAACCGTGGTA-1"),
    *("AGTCTGGCAATCTACG-1", "GACATTCGTGCAATCT-1", "CGTGACTATACGGTCA-1", "TATGCGAGCGATTCAC-1"),
)
OUTSIDE = ("ACACACACACACACAC-1", "GTGTGTGTGTGTGTGT-1")
"""Barcodes of the slide that lie outside of the tissue."""

LABELS = ("invasive cancer", "fat", "stroma, loose")


def _counts() -> np.ndarray:
    counts = 101 + 13 * np.arange(SPOTS * GENES).reshape(SPOTS, GENES)
    spots = np.arange(SPOTS)
    counts[spots, (3 * spots) % GENES] = 0
    return counts


@dataclass(frozen=True)
class SmallSection:
    """What a reader must give of the section.

    Attributes
    ----------
    names
        Spots in the order of the counts.
    genes
        Gene symbols in that order.
    counts
        (spots, genes) int64.
    row, col
        (spots,) array coordinates, which no order of the spots follows.
    pixels
        (spots, 2) full-resolution pixel (x, y).
    labels
        Of the spots.
    """

    names: tuple[str, ...] = BARCODES
    genes: tuple[str, ...] = SYMBOLS
    counts: np.ndarray = field(default_factory=_counts)
    row: np.ndarray = field(default_factory=lambda: (7 * np.arange(SPOTS) % SPOTS) // 4)
    col: np.ndarray = field(default_factory=lambda: (7 * np.arange(SPOTS) % SPOTS) % 4)

    @property
    def pixels(self) -> np.ndarray:
        return np.stack([1000.0 + 137 * self.col, 800.0 + 137 * self.row], axis=1)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(LABELS[spot % len(LABELS)] for spot in range(SPOTS))


def legacy_section() -> SmallSection:
    """The same section with the names of spots that a legacy array gives."""
    section = SmallSection()
    return SmallSection(
        names=tuple(f"{x}x{y}" for x, y in zip(section.col, section.row, strict=True))
    )


def write_legacy(folder: Path) -> dict[str, Path]:
    """Counts, spots in another order than theirs, labels; see ``bench.datasets.legacy_st``."""
    section = legacy_section()
    files = {role: folder / f"{role}.tsv" for role in ("counts", "spots", "labels")}
    table = pd.DataFrame(section.counts, index=list(section.names), columns=list(section.genes))
    files["counts"].write_text(table.to_csv(sep="\t"))
    spots = pd.DataFrame({"x": section.col + 0.04, "y": section.row - 0.03})
    spots[["pixel_x", "pixel_y"]] = section.pixels
    spots["selected"] = 1
    files["spots"].write_text(spots[::-1].to_csv(sep="\t", index=False))
    labels = spots[["x", "y"]].assign(label=section.labels)
    files["labels"].write_text(labels[::-1].to_csv(sep="\t", index=False))
    return files


def write_stnet(folder: Path) -> dict[str, Path]:
    """Counts by Ensembl id, spots, tumour annotation, symbols; see ``bench.datasets.stnet``."""
    section = legacy_section()
    names = list(section.names)
    ids = [f"ENSG{number:011d}" for number in range(GENES)]
    table = pd.DataFrame(section.counts, index=names, columns=ids)
    spots = pd.DataFrame(section.pixels, index=names, columns=["X", "Y"])
    labels = pd.DataFrame({"x": section.col + 0.08, "y": section.row - 0.11, "line": "L1"})
    labels.index = pd.Index([f"C1_{name.replace('x', '_')}" for name in names])
    labels["label"] = section.labels
    rows = labels[::-1].to_csv(sep="\t", header=False)
    symbols = pd.DataFrame({"symbol": section.genes, "name": "gene", "ensembl_gene_id": ids})
    # A gene "nan" is none to a table of symbols.
    symbols["symbol"] = symbols["symbol"].replace("nan", "NAN1")
    texts = {
        "counts": ("counts.tsv", table.to_csv(sep="\t")),
        "spots": ("spots.csv", spots[::-1].to_csv()),
        "labels": ("labels.tsv", "xcoord\tycoord\tlab\ttumor\n" + rows),
        "symbols": ("hgnc_complete_set.txt", symbols.to_csv(sep="\t", index=False)),
    }
    files = {}
    for role, (name, text) in texts.items():
        files[role] = folder / name
        files[role].write_text(text)
    return files


def write_positions(folder: Path, version: int = 1) -> Path:
    """Positions of all spots of the slide, those outside of the tissue between the others."""
    section = SmallSection()
    table = pd.DataFrame(
        {
            "barcode": section.names,
            "in_tissue": 1,
            "array_row": section.row,
            "array_col": section.col,
            "pxl_row_in_fullres": section.pixels[:, 1].astype(np.int64),
            "pxl_col_in_fullres": section.pixels[:, 0].astype(np.int64),
        }
    )
    for number, barcode in enumerate(OUTSIDE):
        table.loc[len(table)] = [barcode, 0, 50 + number, 50, 9000, 9000 + number]
    table = table.sort_values("barcode")
    if version == 1:
        path = folder / "tissue_positions_list.csv"
        path.write_text(table.to_csv(index=False, header=False))
    elif version == 2:
        path = folder / "tissue_positions.csv"
        pixels = ["pxl_row_in_fullres", "pxl_col_in_fullres"]
        path.write_text(table.astype(dict.fromkeys(pixels, float)).to_csv(index=False))
    else:
        path = folder / "tissue_positions.parquet"
        table.to_parquet(path, index=False)
    return path


def write_scalefactors(folder: Path) -> Path:
    """Scale factors of an image reduced to a tenth."""
    path = folder / "scalefactors_json.json"
    factors = {
        "spot_diameter_fullres": 89.4,
        "tissue_hires_scalef": 0.1,
        "fiducial_diameter_fullres": 144.5,
        "tissue_lowres_scalef": 0.03,
    }
    path.write_text(json.dumps(factors))
    return path


def write_barcode_labels(folder: Path) -> Path:
    """A table of cells or spots as R writes it, with the pathologist's label among others."""
    section = SmallSection()
    table = pd.DataFrame(
        {"nCount_RNA": section.counts.sum(axis=1), "Classification": section.labels},
        index=list(section.names),
    )
    path = folder / "metadata.csv"
    path.write_text(table[::-1].to_csv())
    return path


def write_space_ranger(folder: Path, counts: str = "h5", positions: int = 1) -> dict[str, Path]:
    """Counts as ``h5``, ``h5-v2`` (before Cell Ranger 3) or ``mtx``, and what lies beside."""
    files = {
        "positions": write_positions(folder, positions),
        "scalefactors": write_scalefactors(folder),
        "labels": write_barcode_labels(folder),
    }
    if counts == "mtx":
        return {**files, **write_matrix_market(folder)}
    files["counts"] = folder / "filtered_feature_bc_matrix.h5"
    write_10x_h5(files["counts"], old=counts == "h5-v2")
    return files


def write_10x_h5(path: Path, *, old: bool = False, section: SmallSection | None = None) -> None:
    """A matrix in 10x Genomics' HDF5 format: pieces of 80,000, compressed, text of fixed length."""
    section = section or SmallSection()
    matrix = sp.csr_matrix(section.counts)
    identifiers = [f"ENSG{number:011d}" for number in range(len(section.genes))]
    with h5py.File(path, "w") as file:
        if old:
            group = file.create_group("GRCh38")
            texts = {"genes": identifiers, "gene_names": section.genes, "barcodes": section.names}
        else:
            file.attrs["filetype"] = "matrix"
            file.attrs["version"] = 2
            group = file.create_group("matrix")
            texts = {
                "barcodes": section.names,
                "features/id": identifiers,
                "features/name": section.genes,
                "features/feature_type": ["Gene Expression"] * len(section.genes),
                "features/genome": ["GRCh38"] * len(section.genes),
                "features/_all_tag_keys": ["genome"],
            }
        numbers = {
            "data": matrix.data.astype(np.int32),
            "indices": matrix.indices.astype(np.int64),
            "indptr": matrix.indptr.astype(np.int64),
            "shape": np.array(section.counts.shape[::-1], dtype=np.int32),
        }
        for name, values in {**texts, **numbers}.items():
            array = values if isinstance(values, np.ndarray) else np.array(values, dtype="S")
            group.create_dataset(
                name, data=array, chunks=(80_000,), maxshape=(None,), compression="gzip"
            )


def write_matrix_market(
    folder: Path, *, zipped: bool = False, columns: int = 3, section: SmallSection | None = None
) -> dict[str, Path]:
    """``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` of so many columns."""
    section = section or SmallSection()
    spot, gene = section.counts.nonzero()
    entries = [f"{g + 1} {s + 1} {section.counts[s, g]}" for s, g in zip(spot, gene, strict=True)]
    lines = [
        "%%MatrixMarket matrix coordinate integer general",
        '%metadata_json: {"format_version": 2}',
        f"{len(section.genes)} {len(section.names)} {len(entries)}",
        *entries,
    ]
    fields = [
        [f"ENSG{number:011d}", symbol, "Gene Expression"]
        for number, symbol in enumerate(section.genes)
    ]
    features = [row[1:2] if columns == 1 else row[:columns] for row in fields]
    texts = {
        "counts": ("matrix.mtx", lines),
        "barcodes": ("barcodes.tsv", section.names),
        "features": ("features.tsv", ["\t".join(row) for row in features]),
    }
    files = {}
    for role, (name, rows) in texts.items():
        content = ("\n".join(rows) + "\n").encode()
        files[role] = folder / (f"{name}.gz" if zipped else name)
        files[role].write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    return files


def small_anndata(section: SmallSection | None = None, form: str = "csr") -> AnnData:
    """The section in memory, its counts ``csr``, ``csc`` or ``dense``."""
    section = section or SmallSection()
    counts = section.counts.astype(np.float32)
    makers = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}
    obs = pd.DataFrame(
        {
            "in_tissue": np.ones(len(section.names), dtype=np.int64),
            "array_row": section.row,
            "array_col": section.col,
            "label": pd.Categorical(section.labels),
        },
        index=list(section.names),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique")
        return AnnData(
            X=makers[form](counts),
            obs=obs,
            var=pd.DataFrame(index=list(section.genes)),
            obsm={"spatial": section.pixels},
        )


def write_h5ad(folder: Path, form: str = "csr", compression: str | None = None) -> dict[str, Path]:
    """The section as anndata writes it."""
    path = folder / "section.h5ad"
    small_anndata(form=form).write_h5ad(path, compression=compression)
    return {"counts": path}
