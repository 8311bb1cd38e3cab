"""Gene names and counts of files that a user adds: what was chosen without being asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.data.discovery import FoundSection
from bench.data.reading.counts import unique_names
from bench.data.reading.hdf5 import Hdf5File, open_hdf5
from bench.errors import DataError
from bench.files import listed

SYMBOL_COLUMNS = (
    *("gene_symbol", "gene_symbols", "gene_name", "gene_names", "symbol", "symbols"),
    *("feature_name", "SYMBOL"),
)
"""Columns of ``var`` in which AnnData files keep gene symbols beside Ensembl ids."""

_ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{6,}(\.\d+)?")


def are_ensembl_ids(names: Sequence[str]) -> bool:
    """Whether most of the gene names are Ensembl ids.

    Parameters
    ----------
    names
        Gene names.

    Returns
    -------
    bool
        True if more than half are.

    Examples
    --------
    >>> are_ensembl_ids(["ENSG00000141736", "ENSMUSG00000062312.12"])
    True
    >>> are_ensembl_ids(["ERBB2", "ENSA", "ENSG00000141736"])
    False
    """
    return 2 * sum(_ENSEMBL.fullmatch(name) is not None for name in names) > len(names)


def look_at_genes(section: FoundSection, genes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Choices about the counts and gene names of a section that was read without error.

    Parameters
    ----------
    section
        Section as it was found.
    genes
        Names of its genes as they were read.

    Returns
    -------
    tuple of list of str and list of str
        Assumptions, and possible problems that the user should check; without the section's name.
    """
    path = section.files["counts"]
    assumed: list[str] = []
    symbols = ""
    if path.suffix == ".h5ad" and path.is_file():
        with open_hdf5(path) as file:
            if file.kind("layers/counts") is None and file.kind("layers/raw_counts") is not None:
                assumed.append("counts are layers['raw_counts']")
            frame = _frame(file, genes)
            if frame is not None and "gene_column" not in section.settings:
                assumed += _repeated(_index(file, frame))
                symbols = _symbol_column(file, frame)
            elif frame is None and "gene_column" in section.settings:
                assumed += _renamed(genes)
    elif path.suffix == ".h5" and path.is_file():
        with open_hdf5(path) as file:
            if file.kind("matrix/features/name") == "data set":
                assumed += _repeated(file.strings("matrix/features/name"))
    if not are_ensembl_ids(genes):
        return assumed, []
    advice = (
        f"; var column '{symbols}' has symbols: --gene-column {symbols} takes them"
        if symbols
        else "; lists of gene symbols will not match them"
    )
    return assumed, [f"gene names look like Ensembl ids{advice}"]


def places_of_counts(section: FoundSection, error: DataError) -> str:
    """Message about a section that cannot be read; without raw counts, with the file's layers.

    The reader of AnnData files names no layers, and a change of its source would change the keys
    of all results of such files.

    Parameters
    ----------
    section
        Section as it was found.
    error
        What its reader refused.

    Returns
    -------
    str
        One line.
    """
    path = section.files["counts"]
    if path.suffix != ".h5ad" or "raw counts are needed in layers" not in str(error):
        return str(error)
    with open_hdf5(path) as file:
        layers = file.names("layers") if file.kind("layers") == "group" else []
    there = listed([name[:40] for name in layers]) or "none"
    return f"{error}; layers['raw_counts'] is read as well; layers in the file: {there}"


def no_shared_gene(folder: Path, genes: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Message about sections without a common gene, with examples of two that share none.

    Parameters
    ----------
    folder
        Folder of the sections.
    genes
        Name and genes of each section.

    Returns
    -------
    str
        One line.
    """
    first, names = genes[0]
    known = set(names)
    other, others = next((pair for pair in genes if known.isdisjoint(pair[1])), genes[-1])
    examples = "; ".join(
        f"{section}: {', '.join(one[:40] for one in some[:2])}, ..."
        for section, some in ((first, names), (other, others))
    )
    return f"{folder}: the sections have no gene in common ({examples})"


def _index(file: Hdf5File, frame: str) -> list[str]:
    name = file.attribute(frame, "_index")
    values = file.values(f"{frame}/{name if isinstance(name, str) else '_index'}")
    return [str(one) for one in values]


def _frame(file: Hdf5File, genes: Sequence[str]) -> str | None:
    """Data frame of the file that names the genes; None where they were renamed."""
    for frame in ("var", "raw/var"):
        if file.kind(frame) == "group" and set(genes) <= set(unique_names(_index(file, frame))):
            return frame
    return None


def _symbol_column(file: Hdf5File, frame: str) -> str:
    """Column of symbols beside the names; empty where there is none."""
    for column in SYMBOL_COLUMNS:
        if file.kind(f"{frame}/{column}") is None:
            continue
        # Before anndata 0.8 a column held codes, and its categories lay beside the columns.
        old = f"{frame}/__categories/{column}"
        values = list(file.values(old if file.kind(old) is not None else f"{frame}/{column}"))
        texts = [one for one in values if isinstance(one, str)]
        if 2 * len(texts) > len(values) and not are_ensembl_ids(texts):
            return column
    return ""


def _repeated(names: Sequence[str]) -> list[str]:
    several = sorted(name for name, times in Counter(names).items() if times > 1)
    if not several:
        return []
    verb = "gene name occurs" if len(several) == 1 else "gene names occur"
    return [
        f"{len(several)} {verb} more than once ({listed([one[:40] for one in several])});"
        f" repeats are called {several[0][:40]}-1 and so on"
    ]


def _renamed(genes: Sequence[str]) -> list[str]:
    """The same of symbols that a column gave, of which only the changed names are known."""
    known = set(genes)
    bases = [base for name in genes if (base := name.rpartition("-1")[0]) and name == f"{base}-1"]
    return _repeated([base for base in bases if base in known for _ in range(2)])
