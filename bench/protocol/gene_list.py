"""External gene lists: published lists of a card, or a user's file."""

from __future__ import annotations

import ast
import hashlib
import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.cache import Cache
from bench.data.card import DatasetCard, PanelCard
from bench.data.reading.symbols import read_json_symbols
from bench.errors import DataError, UnknownNameError
from bench.files import canonical_hash

_MAX_PANEL_BYTES = 16 << 20


def read_panel(card: DatasetCard, name: str, root: Path) -> tuple[str, ...]:
    """Published gene list of a card, in the published order.

    Searched in the data folder as plain text or as the published file, beside the data
    folder as plain text, then in the cache, then downloaded.

    Raises
    ------
    UnknownNameError
        The card has no such panel.
    DataError
        No source is available, or the hash of the symbols differs from that in the card.
    """
    if name not in card.panels:
        raise UnknownNameError(f"panel of {card.name}", name, card.panels)
    panel = card.panels[name]
    places: list[Path] = []
    if panel.text:
        places += [root / panel.text, root.parent / panel.text]
    if panel.file:
        places.append(root / panel.file.path)
    for place in places:
        if place.is_file():
            if panel.file and place == root / panel.file.path:
                panel.file.verify(place)
            return _checked(read_symbols(place), panel, place)
    if panel.file and panel.file.url:
        return _download(panel)
    raise DataError(f"panel {name} not found; put it at {' or '.join(map(str, places))}")


def _download(panel: PanelCard) -> tuple[str, ...]:
    """Symbols of a panel's file, downloaded if not cached."""
    from bench.fetch.download import Downloader, Source

    file = panel.file
    assert file is not None
    assert file.url is not None
    panels = Cache(
        "panels", Path(file.path).suffix, lambda path: _checked(read_symbols(path), panel, path)
    )
    key = panel.symbols_sha256 or canonical_hash(["panel", file.url, file.hash])
    symbols = panels.get(key)
    if symbols is None:
        try:
            with panels.new_entry(key) as temporary:
                Downloader().fetch(Source(file.url), file, temporary)
                symbols = _checked(read_symbols(temporary), panel, Path(file.path))
        except DataError as error:
            raise DataError(
                f"panel cannot be downloaded: {error}; without a connection put the list as"
                f" {panel.text or file.path} into the data folder"
            ) from error
    return symbols


def read_symbols(path: Path) -> list[str]:
    """Gene symbols of a file: text with one per line, JSON, or a numpy or pandas array of strings.

    Raises
    ------
    DataError
        The file is too large or not such a list.
    """
    if path.stat().st_size > _MAX_PANEL_BYTES:
        raise DataError(f"{path}: too large for a gene list")
    if path.suffix in {".npy", ".pkl"}:
        return read_string_array(path)
    if path.suffix == ".json":
        return read_json_symbols(path)
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: not a text file of gene symbols") from None


def _checked(symbols: list[str], panel: PanelCard, path: Path) -> tuple[str, ...]:
    if panel.symbols_sha256 is None:
        if len(symbols) != panel.genes:
            raise DataError(f"{path}: {len(symbols)} symbols, the card says {panel.genes}")
        return tuple(symbols)
    digest = hashlib.sha256("\n".join(symbols).encode()).hexdigest()
    if digest != panel.symbols_sha256 or len(symbols) != panel.genes:
        raise DataError(
            f"{path}: {len(symbols)} symbols hashing to {digest[:12]}, the card says"
            f" {panel.genes} hashing to {panel.symbols_sha256[:12]}; fetch the file again"
        )
    return tuple(symbols)


class _PickledArray:
    """Placeholder for an array or its type that receives the state numpy would restore."""

    shape: Any = None
    items: Any = None

    def __init__(self, *arguments: Any) -> None:
        # A pandas index is made of its type and a mapping that holds its array.
        content = arguments[1] if len(arguments) == 2 else None
        array = content.get("data") if isinstance(content, dict) else None
        if isinstance(array, _PickledArray):
            self.shape, self.items = array.shape, array.items

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            _, self.shape, _, _, self.items = state


class _StringArrayUnpickler(pickle.Unpickler):
    """Unpickler for the items of an object array; it refuses every other global name.

    No numpy object is made: an array or dtype restored from a hostile or damaged state points
    anywhere in memory.
    """

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
            ("pandas.core.indexes.base", "_new_Index"),
            ("pandas.core.indexes.base", "Index"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self._stand_in

    def _stand_in(self, *arguments: Any) -> _PickledArray:
        return _PickledArray(*arguments)


def read_string_array(path: Path) -> list[str]:
    """Strings of a one-dimensional ``.npy`` file, also of an object array, or of a pandas index.

    Object arrays and indices (``.pkl``) are pickles; they are read by an unpickler that can
    only build a list of strings.

    Raises
    ------
    DataError
        Not such a file, or a pickle with any other global name.
    """
    try:
        with open(path, "rb") as stream:
            if path.suffix != ".pkl" and _npy_header(stream)["descr"] != "|O":
                stream.seek(0)
                array = np.load(stream, allow_pickle=False)
                shape, symbols = array.shape, array.tolist()
            else:
                array = _StringArrayUnpickler(stream).load()
                if not isinstance(array, _PickledArray):
                    raise ValueError("holds no array")
                shape, symbols = array.shape, array.items
    except (pickle.UnpicklingError, ValueError, EOFError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a numpy array of gene symbols ({error})") from error
    except Exception as error:
        # A damaged pickle may fail in any way.
        raise DataError(f"{path}: damaged array ({type(error).__name__})") from error
    if not isinstance(symbols, list) or shape != (len(symbols),):
        raise DataError(f"{path}: not a one-dimensional array of gene symbols")
    if not all(isinstance(symbol, str) for symbol in symbols):
        raise DataError(f"{path}: holds something that is not a string")
    return symbols


def _npy_header(stream: IO[bytes]) -> dict[str, Any]:
    version = np.lib.format.read_magic(stream)
    size = 2 if version == (1, 0) else 4
    length = int.from_bytes(stream.read(size), "little")
    if length > 4096:
        raise ValueError("header too long")
    header = ast.literal_eval(stream.read(length).decode("latin1"))
    if not isinstance(header, dict) or "descr" not in header:
        raise ValueError("no array header")
    return header
