"""Layouts of a section's files, and the readers that know them, found by name."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from bench.data.card import DatasetCard
from bench.data.discovery import FoundSection
from bench.errors import BenchError, DataError, UnknownNameError
from bench.files import canonical_hash, one_line
from bench.sources import code_hash, import_closure, tree_hash

if TYPE_CHECKING:
    from anndata import AnnData

GROUP = "spotbench.readers"
"""Group of entry points by which a package adds layouts: name of the layout, module or object
that reads it."""

BUILT_IN = "built-in"


class Reader(Protocol):
    """Reader of a layout: a module, or an object with the same names.

    Three functions are optional. ``discover(folder: Path) -> list[FoundSection]`` gives the
    sections in a folder that has no card, for ``bench data add``; ``describe(folder: Path) ->
    dict`` gives further fields of the new card, such as gene lists. ``resolve(card: DatasetCard,
    root: Path) -> DatasetCard`` gives the card with the file names that its ``index`` file states.

    Attributes
    ----------
    ROLES
        Roles of the files without which a section cannot be read; ``counts`` is one of them.
    """

    ROLES: Sequence[str]

    def read(self, files: Mapping[str, Path], /) -> AnnData:
        """Read one section.

        Parameters
        ----------
        files
            Path of each file by role: all of `ROLES`, and others that the card names, except
            the image.

        Returns
        -------
        AnnData
            ``X``: raw counts (spots x genes) as CSR, whole numbers. ``obs``: ``array_row`` and
            ``array_col`` (array coordinates, int), ``in_tissue`` (0 or 1), ``label`` (text, empty
            for none). ``obsm["spatial"]``: (spots, 2) full-resolution pixel (x, y). Names of
            spots and genes are unique.

        Raises
        ------
        DataError
            A file is damaged or not in this layout: one line that names the file.
        """
        ...


@dataclass(frozen=True)
class Layout:
    """A layout that a card can name; its reader has not been imported.

    Attributes
    ----------
    name
        Name in the card.
    source
        ``built-in``, or the distribution that provides it.
    entry
        Entry point of the reader, for a layout of another distribution.
    fault
        Reason why the layout cannot be used, empty where none is known.
    """

    name: str
    source: str
    entry: EntryPoint | None = None
    fault: str = ""

    @property
    def described(self) -> str:
        """Name and source for a message."""
        return f"'{self.name}'" if self.entry is None else f"'{self.name}' of {self.source}"


def find_layouts() -> dict[str, Layout]:
    """All layouts by name: built-in ones, then those of entry points; nothing is imported.

    A built-in name cannot be taken by another distribution. A name that two distributions
    provide is listed with its fault.

    Returns
    -------
    dict of str to Layout
        Layouts by the name that cards use.
    """
    layouts = {name: Layout(name, BUILT_IN) for name in _built_in_names()}
    for name, entries in _plugins().items():
        if name in layouts:
            continue
        sources = [_distribution(entry) for entry in entries]
        fault = ""
        if len(entries) > 1:
            fault = f"provided by {' and by '.join(sources)}; uninstall one of them"
        layouts[name] = Layout(name, sources[0], entries[0], fault)
    return layouts


def layout_faults() -> dict[str, str]:
    """Reason by layout for all layouts of other distributions that cannot be used.

    Their readers are imported for it.

    Returns
    -------
    dict of str to str
        One line a layout.
    """
    faults = {}
    built_in = set(_built_in_names())
    for name, entries in _plugins().items():
        if name in built_in:
            faults[name] = f"{_distribution(entries[0])} provides it too; the built-in one is used"
            continue
        try:
            load_reader(name)
        except BenchError as error:
            faults[name] = str(error)
    return faults


def load_reader(name: str) -> Reader:
    """Reader of a layout.

    Parameters
    ----------
    name
        Layout, as cards name it.

    Returns
    -------
    Reader
        Module of the reader.

    Raises
    ------
    UnknownNameError
        There is no such layout; the nearest names are offered.
    DataError
        Its module cannot be imported or is no reader; the reason is given.
    """
    layout = _layout(name)
    try:
        if layout.entry is None:
            loaded = importlib.import_module(f"bench.datasets.{name}")
        else:
            loaded = layout.entry.load()
    except (Exception, SystemExit) as error:
        # A contributor's module may fail in any way; the reason must reach the user.
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"layout {layout.described} cannot be imported: {reason}") from error
    roles = getattr(loaded, "ROLES", None)
    if not callable(getattr(loaded, "read", None)) or not _are_roles(roles):
        raise DataError(
            f"layout {layout.described} is no reader: it needs a function 'read' and a tuple"
            " 'ROLES' with 'counts' in it"
        )
    return cast("Reader", loaded)


def read_files(
    name: str, files: Mapping[str, Path], settings: Mapping[str, str | int] | None = None
) -> AnnData:
    """Section that the reader of a layout reads; `settings` are its keyword arguments.

    Raises
    ------
    UnknownNameError, DataError
        As :func:`load_reader`; or the files are not in the layout, or the reader failed.
    """
    read = load_reader(name).read
    settings = settings or {}
    unknown = set(settings) - set(inspect.signature(read).parameters)
    if unknown:
        raise DataError(
            f"the reader of layout {_layout(name).described} has no setting {sorted(unknown)[0]}"
        )
    return cast("AnnData", _call(name, read, files, **settings))


def discover(
    name: str, folder: Path, options: Mapping[str, str | int | None] | None = None
) -> list[FoundSection]:
    """Sections that the reader of a layout finds in a folder; none where it cannot look.

    Of `options`, the user's choices such as ``genome``, a reader gets those that it takes.

    Raises
    ------
    DataError
        The reader cannot be imported, failed, or gave something else than sections.
    """
    look = getattr(load_reader(name), "discover", None)
    if look is None:
        return []
    takes = inspect.signature(look).parameters
    chosen = {key: value for key, value in (options or {}).items() if value and key in takes}
    sections = _call(name, look, folder, **chosen)
    if not isinstance(sections, list) or not all(isinstance(s, FoundSection) for s in sections):
        raise DataError(f"layout {_layout(name).described}: 'discover' gives no list of sections")
    return sections


def describe(name: str, folder: Path) -> dict[str, object]:
    """Further fields of the card of a folder, as the reader of its layout gives them.

    Raises
    ------
    DataError
        The reader cannot be imported, failed, or gave something else than fields.
    """
    look = getattr(load_reader(name), "describe", None)
    if look is None:
        return {}
    fields = _call(name, look, folder)
    if not isinstance(fields, dict):
        raise DataError(f"layout {_layout(name).described}: 'describe' gives no fields of a card")
    return fields


def resolve(card: DatasetCard, root: Path) -> DatasetCard:
    """The card with the file names that its index states, as the reader of its layout reads it.

    Raises
    ------
    DataError
        The reader has no ``resolve``, or the index says nothing that the reader understands.
    """
    named = getattr(load_reader(card.layout), "resolve", None)
    if named is None:
        raise DataError(
            f"card {card.name}: layout {card.layout} has no 'resolve' for the card's index"
        )
    return cast("DatasetCard", _call(card.layout, named, card, root))


def _call(
    name: str, function: Callable[..., object], *arguments: object, **settings: object
) -> object:
    """Call a function of a reader; an unexpected error of a plugin becomes one line."""
    layout = _layout(name)
    if layout.entry is None:
        return function(*arguments, **settings)
    try:
        return function(*arguments, **settings)
    except BenchError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"the reader of layout {layout.described} failed: {reason}") from error


@lru_cache
def reader_hash(name: str) -> str:
    """Hash of all source that decides what a reader gives; the reader is not imported.

    It is computed once in a process, which does not import an edited reader again either.
    """
    layout = _layout(name)
    if layout.entry is None:
        return code_hash([f"bench.datasets.{name}", "bench.data.section"])
    module = layout.entry.module
    try:
        files = import_closure([module], package=module.partition(".")[0])
    except BenchError:
        files = {}
    if module not in files:  # the package itself, or one that an import hook finds
        files = {**files, module: _source(module, layout)}
    own = [[file, tree_hash(path)] for file, path in sorted(files.items())]
    return canonical_hash([own, code_hash(["bench.readers", "bench.data.section"])])


def _source(module: str, layout: Layout) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise DataError(f"layout {layout.described}: there is no module {module}")
    return Path(spec.origin)


def generator_source(name: str) -> Path:
    """Source file of the module of ``bench.datasets`` that generates a dataset.

    Raises
    ------
    DataError
        There is none.
    """
    spec = importlib.util.find_spec(f"bench.datasets.{name}")
    if spec is None or spec.origin is None:
        raise DataError(f"there is no module bench.datasets.{name}, which the card names")
    return Path(spec.origin)


def _layout(name: str) -> Layout:
    if name in _built_in_names():
        return Layout(name, BUILT_IN)
    layouts = find_layouts()
    if name not in layouts:
        raise UnknownNameError("layout", name, layouts)
    layout = layouts[name]
    if layout.fault:
        raise DataError(f"layout '{name}' cannot be used: {layout.fault}")
    return layout


@lru_cache
def _built_in_names() -> tuple[str, ...]:
    """Modules of ``bench.datasets`` that define ``read``."""
    spec = importlib.util.find_spec("bench.datasets")
    if spec is None or not spec.submodule_search_locations:
        raise BenchError("package bench.datasets is not installed; install spotbench again")
    folder = Path(next(iter(spec.submodule_search_locations)))
    names = [module.name for module in pkgutil.iter_modules([str(folder)])]
    return tuple(name for name in names if _defines_read(folder, name))


def _defines_read(folder: Path, name: str) -> bool:
    """Whether a module, or the package of that name, defines or imports ``read``."""
    package = folder / name / "__init__.py"
    path = package if package.is_file() else folder / f"{name}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return False
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return "read" in names


def _plugins() -> dict[str, list[EntryPoint]]:
    return _plugins_on(tuple(sys.path))


@lru_cache(maxsize=4)
def _plugins_on(path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """Entry points of the distributions on a path, by name; reading them all takes long."""
    by_name: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        by_name.setdefault(entry.name, []).append(entry)
    return by_name


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "unknown distribution"


def _are_roles(roles: object) -> bool:
    return (
        isinstance(roles, Sequence)
        and not isinstance(roles, str)
        and all(isinstance(role, str) for role in roles)
        and "counts" in roles
    )
