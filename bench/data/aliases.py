"""Approved gene symbols for sections that use former symbols or aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.data.reading.parsing import read_table
from bench.errors import DataError
from bench.files import file_hash


@dataclass(frozen=True)
class Aliases:
    """Approved symbol by alias, and the hash of the file that was read."""

    symbols: Mapping[str, str]
    sha256: str

    def rename(self, genes: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """Approved symbols in place of others, and how many were replaced.

        A gene keeps its name where its approved symbol is there already, or where two genes
        would get the same one: no gene is ever lost or merged.
        """
        wanted = [self.symbols.get(gene, gene) for gene in genes]
        own = set(genes)
        claims: dict[str, int] = {}
        for name in wanted:
            claims[name] = claims.get(name, 0) + 1
        renamed = tuple(
            new if new == gene or (new not in own and claims[new] == 1) else gene
            for gene, new in zip(genes, wanted, strict=True)
        )
        return renamed, sum(a != b for a, b in zip(genes, renamed, strict=True))


def read_aliases(path: Path) -> Aliases:
    """Read a table of gene symbols.

    Parameters
    ----------
    path
        HGNC's complete set (columns ``symbol``, ``prev_symbol``, ``alias_symbol``, the last two
        with `|` between symbols), or a tab-separated file with columns ``alias`` and ``symbol``.

    Raises
    ------
    DataError
        Neither of these tables, or a table without an alias.
    """
    try:
        table = read_table(path, ["alias", "symbol"], text=["alias", "symbol"])
        symbols = _unambiguous(zip(table["alias"], table["symbol"], strict=True), set())
    except DataError as error:
        columns = ["symbol", "prev_symbol", "alias_symbol"]
        try:
            table = read_table(path, columns, text=columns)
        except DataError:
            raise DataError(
                f"{path}: not HGNC's table, nor tab-separated columns 'alias' and 'symbol'"
            ) from error
        approved = set(table["symbol"])
        symbols = {}
        # A former symbol of one gene takes precedence over an alias of another.
        for column in ("alias_symbol", "prev_symbol"):
            pairs = (
                (other, symbol)
                for others, symbol in zip(table[column], table["symbol"], strict=True)
                for other in others.strip('"').split("|")
            )
            symbols |= _unambiguous(pairs, approved)
    if not symbols:
        raise DataError(f"{path}: names no alias")
    return Aliases(symbols, file_hash(path))


def _unambiguous(pairs: Iterable[tuple[str, str]], approved: set[str]) -> dict[str, str]:
    """Aliases of exactly one symbol that are no approved symbols themselves."""
    meanings: dict[str, set[str]] = {}
    for alias, symbol in pairs:
        if alias and symbol and alias != symbol and alias not in approved:
            meanings.setdefault(alias, set()).add(symbol)
    return {alias: next(iter(of)) for alias, of in meanings.items() if len(of) == 1}
