"""Which features of a matrix are genes of the tissue, and what a reader left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bench.errors import DataError

LEFT_OUT = "left_out"
"""Where in ``uns`` a reader counts what it left out: number by reason."""

EXPRESSION = "Gene Expression"
"""Feature type of genes in the formats of 10x Genomics."""

_CONTROL = re.compile(
    r"(BLANK|NegControl(Probe|Codeword)?|NegPrb|Negative|SystemControl|FalseCode|antisense"
    r"|DeprecatedCodeword|UnassignedCodeword|Intergenic_Region|DEPRECATED)_?[-_ 0-9].*",
    re.IGNORECASE,
)
_GENOME = re.compile(r"(?P<genome>[A-Za-z][A-Za-z0-9.-]{1,30}?)(?P<gap>_+)(?P<gene>.+)")
_MOST_GENOMES = 4  # of a reference; gene symbols with an underscore begin in more ways


def is_control_probe(name: str) -> bool:
    """Whether a feature is a control probe of an imaging or probe assay by its name.

    Examples
    --------
    >>> is_control_probe("BLANK_0012"), is_control_probe("NegControlProbe_00042")
    (True, True)
    >>> is_control_probe("BLANKET1")
    False
    """
    return _CONTROL.fullmatch(name) is not None


def expressed_genes(
    names: Sequence[str],
    types: Sequence[str] | None,
    where: str,
    *,
    genome: str | None = None,
) -> tuple[np.ndarray, list[str], dict[str, int]]:
    """Features that are genes, their symbols, and what was left out.

    Other types of features (``Antibody Capture``) and control probes are left out. A reference of
    several genomes gives symbols a prefix, as in ``GRCh38__ACTB``: with `genome` the genes of one
    are kept, without the prefix.

    Parameters
    ----------
    names
        (features,) symbols.
    types
        (features,) types, in the words of 10x Genomics; None where the file has none.
    where
        File, for the message.
    genome
        Genome to keep.

    Returns
    -------
    tuple
        (genes,) int64 columns that are kept, their symbols, and the number of features left out
        by reason.

    Raises
    ------
    DataError
        No gene is left, or `genome` is not among the genomes of the file.
    """
    if types is None:
        types = [EXPRESSION] * len(names)
    left_out: Counter[str] = Counter()
    kept: list[int] = []
    for column, (name, kind) in enumerate(zip(names, types, strict=True)):
        if kind != EXPRESSION:
            left_out[f"features of type '{str(kind)[:40]}'"] += 1
        elif is_control_probe(name):
            left_out["control probes"] += 1
        else:
            kept.append(column)
    if not kept:
        raise DataError(f"{where}: no feature is of type '{EXPRESSION}'")
    symbols = [names[column] for column in kept]
    if genome is not None:
        genomes = genomes_of(symbols)
        if genome not in genomes:
            there = " and ".join(genomes) or "no genome"
            raise DataError(f"{where}: genome '{genome[:40]}' is not in it; its genes name {there}")
        own = [symbol.startswith(f"{genome}_") for symbol in symbols]
        left_out["genes of another genome"] += own.count(False)
        kept = [column for column, mine in zip(kept, own, strict=True) if mine]
        symbols = [
            symbol[len(genome) :].lstrip("_")
            for symbol, mine in zip(symbols, own, strict=True)
            if mine
        ]
    return np.array(kept, dtype=np.int64), symbols, dict(+left_out)


def genomes_of(symbols: Sequence[str]) -> Mapping[str, int]:
    """Genomes that symbols name by a prefix (``GRCh38__ACTB``), with their number of genes.

    Cell Ranger fills up the prefixes of a reference to one length: ``GRCh38_ACTB`` and
    ``mm10___Actb``. Empty unless every symbol has such a prefix; where none has more than one
    underscore, they must be two to four genomes of prefixes of one length.

    Examples
    --------
    >>> genomes_of(["GRCh38_ACTB", "mm10___Actb"])
    {'GRCh38': 1, 'mm10': 1}
    >>> genomes_of(["ACTB", "mm10__Actb"])
    {}
    >>> genomes_of(["HLA_A", "HLA_B"])
    {}
    """
    matches = [match for symbol in symbols if (match := _GENOME.fullmatch(symbol))]
    if not symbols or len(matches) < len(symbols):
        return {}
    genomes = Counter(match["genome"] for match in matches)
    if all(len(match["gap"]) > 1 for match in matches):
        return dict(genomes)
    lengths = {match.start("gene") for match in matches}
    if len(lengths) > 1 or not 1 < len(genomes) <= _MOST_GENOMES:
        return {}
    return dict(genomes)
