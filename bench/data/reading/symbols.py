"""Gene lists in JSON, as HEST-Benchmark writes them: ``{"genes": [...]}``."""

from __future__ import annotations

from pathlib import Path

from bench.data.reading.parsing import read_json
from bench.errors import DataError

_MAX_BYTES = 16 << 20


def read_json_symbols(path: Path) -> list[str]:
    """Gene symbols of a JSON file that holds a list of them, or an object with such ``genes``.

    Parameters
    ----------
    path
        JSON file.

    Returns
    -------
    list of str
        Gene symbols in the order of the file.

    Raises
    ------
    DataError
        Not such a file; a symbol that is no text, is empty or occurs twice.
    """
    content = read_json(path, _MAX_BYTES)
    symbols = content.get("genes") if isinstance(content, dict) else content
    if not isinstance(symbols, list) or not symbols:
        raise DataError(f'{path}: must hold {{"genes": [...]}} with at least one gene symbol')
    for number, symbol in enumerate(symbols, 1):
        if not isinstance(symbol, str) or not symbol.strip():
            raise DataError(f"{path}: gene {number} is {str(symbol)[:40]!r}, not a gene symbol")
    symbols = [symbol.strip() for symbol in symbols]
    twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
    if twice:
        raise DataError(f"{path}: gene '{twice[0][:40]}' occurs more than once")
    return symbols
