"""Reader of the layout in which He et al. 2020 published the breast cancer data of ST-Net.

``metadata.csv`` states the files of each section: their prefixes (BT, BC) follow no rule.
Counts are a tab-separated table of all spots of the array, named ``XxY``, by Ensembl gene id.
The spot file names the spots under tissue, with columns ``X`` and ``Y`` in pixels. The annotation
has old Macintosh line ends and a header that is one name short; its last column is ``tumor`` or
``non``. Ensembl ids become symbols by a release of HGNC's table, whose hash is part of the
data's; an id that is not in the table stays unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from bench.readers import DataError, read_bytes, read_counts, read_table

if TYPE_CHECKING:
    from bench.readers import DatasetCard

ROLES = ("counts", "spots", "symbols")
"""Files without which a section cannot be read."""

_COLUMNS = {
    "counts": "count_matrix",
    "spots": "spot_coordinates",
    "image": "histology_image",
    "labels": "tumor_annotation",
}
_SPOT = re.compile(r"([0-9]{1,4})x([0-9]{1,4})")
_ENSEMBL = re.compile(r"(ENSG[0-9]{11})(\.[0-9]+)?")


def resolve(card: DatasetCard, root: Path) -> DatasetCard:
    """The card with the file names that ``metadata.csv`` gives.

    Raises
    ------
    DataError
        A section of the card is not in it, belongs to another patient there, or is named twice.
    """
    assert card.index is not None
    path = root / card.index.path
    columns = ["patient", "replicate", *_COLUMNS.values()]
    table = read_table(path, columns, separator=",", text=columns)
    table.index = pd.Index(table["patient"] + "_" + table["replicate"])
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise DataError(f"{path}: section {twice} occurs more than once")
    sections = []
    for section in card.sections:
        if section.name not in table.index:
            raise DataError(f"{path}: section {section.name} is not in it")
        row = table.loc[section.name]
        if row["patient"] != section.patient:
            raise DataError(
                f"{path}: section {section.name} belongs to {row['patient']}, the card says"
                f" {section.patient}"
            )
        named = {
            role: {**section.files[role].model_dump(), "path": row[column]}
            for role, column in _COLUMNS.items()
            if role in section.files and row[column]
        }
        sections.append(section.replaced(named, where=str(path)))
    return card.model_copy(update={"sections": tuple(sections)})


def read(files: Mapping[str, Path]) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts``, ``spots``, ``symbols``, optionally ``labels``.

    Returns
    -------
    AnnData
        Raw counts of the spots under tissue (spots x genes, CSR int32), in the order of the
        counts file; ``var["gene_id"]`` holds the Ensembl ids.

    Raises
    ------
    DataError
        A file is missing, truncated, or not in this layout.
    """
    counts, names, ids = read_counts(files["counts"])
    keys = _spots(names, files["counts"])
    positions = _positions(files["spots"])
    under = keys.isin(positions.index)
    if not under.any():
        raise DataError(f"{files['spots']}: no spot in common with {files['counts']}")
    keys, counts = keys[under], counts[np.flatnonzero(under)]
    genes = _symbols(ids, files["symbols"], files["counts"])
    obs = pd.DataFrame(
        {
            "array_row": keys.get_level_values("y").astype(np.int64),
            "array_col": keys.get_level_values("x").astype(np.int64),
            "in_tissue": np.ones(len(keys), dtype=np.int64),
            "label": _labels(files["labels"], keys) if "labels" in files else "",
        },
        index=[f"{x}x{y}" for x, y in keys],
    )
    return AnnData(
        X=counts,
        obs=obs,
        var=pd.DataFrame({"gene_id": ids}, index=pd.Index(genes)),
        obsm={"spatial": positions.loc[keys].to_numpy(dtype=np.float64)},
    )


def _spots(names: list[str], path: Path) -> pd.MultiIndex:
    matches = [_SPOT.fullmatch(name) for name in names]
    wrong = [name for name, match in zip(names, matches, strict=True) if match is None]
    if wrong:
        raise DataError(f"{path}: '{wrong[0][:40]}' is not a spot name like '10x16'")
    pairs = [(int(match[1]), int(match[2])) for match in matches if match]
    keys = pd.MultiIndex.from_tuples(pairs, names=["x", "y"])
    if not keys.is_unique:
        x, y = keys[keys.duplicated()][0]
        raise DataError(f"{path}: spot '{x}x{y}' occurs more than once")
    return keys


def _positions(path: Path) -> pd.DataFrame:
    table = read_table(path, ["", "X", "Y"], separator=",", text=[""])
    places = table[["X", "Y"]]
    if not np.isfinite(places.to_numpy(dtype=np.float64)).all():
        raise DataError(f"{path}: a coordinate is missing or not finite")
    return places.set_index(_spots(list(table[""]), path))


def _symbols(ids: list[str], path: Path, counts: Path) -> list[str]:
    matches = [_ENSEMBL.fullmatch(gene) for gene in ids]
    if not any(matches):
        raise DataError(
            f"{counts}: no column is named by an Ensembl gene id such as ENSG00000141510"
        )
    table = read_table(path, ["symbol", "ensembl_gene_id"], text=["symbol", "ensembl_gene_id"])
    table = table[(table["ensembl_gene_id"] != "") & (table["symbol"] != "")]
    known = dict(zip(table["ensembl_gene_id"], table["symbol"], strict=True))
    if not any(match and match[1] in known for match in matches):
        raise DataError(f"{path}: has none of the genes of {counts}")
    genes = [
        known.get(match[1], gene) if match else gene
        for gene, match in zip(ids, matches, strict=True)
    ]
    first: dict[str, str] = {}
    for gene, symbol in zip(ids, genes, strict=True):
        if symbol in first:
            raise DataError(f"{counts}: {first[symbol]} and {gene} are both gene '{symbol}'")
        first[symbol] = gene
    return genes


def _labels(path: Path, keys: pd.MultiIndex) -> np.ndarray:
    try:
        lines = read_bytes(path).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    if not lines or "\t" not in lines[0]:
        raise DataError(f"{path}: its first line is no header separated by tabs")
    labels: dict[tuple[int, int], str] = {}
    for line in filter(str.strip, lines[1:]):
        try:
            _, column, row, _, label = line.split("\t")
            x, y = round(float(column)), round(float(row))
        except (ValueError, OverflowError):
            raise DataError(
                f"{path}: '{line[:60]}' is not name, x, y, line, label separated by tabs"
            ) from None
        if labels.setdefault((x, y), label.strip()) != label.strip():
            raise DataError(f"{path}: spot {x}x{y} has two labels")
    return np.array([labels.get(key, "") for key in keys], dtype=object)
