"""Finding methods and datasets by name, without importing what is not asked for."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data.card import DatasetCard, read_card
from bench.data.folders import cards_folder, member_folder
from bench.errors import BenchError, UnknownNameError
from bench.files import one_line
from bench.method_references import is_own

if TYPE_CHECKING:  # with it comes numpy, which a list of names does not need
    from bench.method import Method

GROUP = "bench.methods"


@dataclass(frozen=True)
class InstalledMethod:
    """A method that is installed; its module has not been imported.

    Attributes
    ----------
    name
        What users type.
    source
        ``built-in`` or the distribution that provides it.
    folder
        Folder of its module, for a method of this package.
    entry
        Where its class is, for a method of another distribution.
    """

    name: str
    source: str
    folder: Path | None = None
    entry: EntryPoint | None = None

    @cached_property
    def summary(self) -> str:
        """First line of its module's docstring, or the summary of its distribution."""
        if self.folder is not None:
            return _summary(self.folder / self.name)
        return _summary_of(self.entry) if self.entry else ""


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BenchError(f"package {package} is not installed; install spotbench again")
    return Path(next(iter(spec.submodule_search_locations)))


def _summary(path: Path) -> str:
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        return f"cannot be read: {error}"
    return text.strip().split("\n")[0]


def find_methods() -> dict[str, InstalledMethod]:
    """All installed methods by name: those of this package and those of entry points.

    A plugin with the name of a built-in method or of another plugin is listed as
    ``distribution:name``.
    """
    methods = _built_in()
    entries = list(entry_points(group=GROUP))
    providers = Counter([*methods, *(entry.name for entry in entries)])
    for entry in entries:
        distribution = entry.dist.name if entry.dist else "unknown distribution"
        alone = providers[entry.name] == 1
        name = entry.name if alone else f"{distribution}:{entry.name}"
        methods[name] = InstalledMethod(name, distribution, entry=entry)
    return methods


def _built_in() -> dict[str, InstalledMethod]:
    folder = _folder("bench.methods")
    return {
        module.name: InstalledMethod(module.name, "built-in", folder)
        for module in pkgutil.iter_modules([str(folder)])
        if not module.name.startswith("_")
    }


def _summary_of(entry: EntryPoint) -> str:
    """Summary of the distribution that a method comes from, which may have none."""
    if entry.dist is None or "Summary" not in entry.dist.metadata:
        # Asked first: some readers of metadata raise for what is missing, others give None.
        return ""
    return str(entry.dist.metadata["Summary"] or "")


def method_class(name: str) -> type[Method]:
    """Class of an installed method.

    Raises
    ------
    UnknownNameError
        No such method; the nearest names are offered.
    BenchError
        Its module cannot be imported, or holds no such method; the reason is given.
    """
    from bench.method import Method

    installed = _built_in()
    if name not in installed:  # entry points are files of all distributions, and none goes first
        installed = find_methods()
    check_installed(name, installed)
    entry = installed[name].entry
    try:
        if entry is not None:
            candidates = [entry.load()]
        else:
            module = importlib.import_module(f"bench.methods.{name}")
            candidates = [value for _, value in inspect.getmembers(module, inspect.isclass)]
    except (Exception, SystemExit) as error:
        # A contributor's module may fail in any way; the reason must reach the user.
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise BenchError(f"method '{name}' cannot be imported: {reason}") from error
    own_name = entry.name if entry is not None else name
    for value in candidates:
        if (
            inspect.isclass(value)
            and issubclass(value, Method)
            and not inspect.isabstract(value)
            and value.name == own_name
        ):
            return value
    raise BenchError(f"method '{name}': its module holds no Method class of that name")


def load_method(reference: str) -> type[Method]:
    """Class of a method: an installed one by name, or one by reference.

    Parameters
    ----------
    reference
        Name, or what :mod:`bench.method_references` calls a reference.

    Raises
    ------
    BenchError
        As :func:`method_class` and :func:`bench.own_methods.own_class`.
    """
    if not is_own(reference):
        return method_class(reference)
    from bench.own_methods import own_class

    return own_class(reference)


def check_installed(
    name: str, installed: Mapping[str, InstalledMethod], others: Iterable[str] = ()
) -> None:
    """Refuse a name that no installed method has.

    Parameters
    ----------
    name
        The name.
    installed
        Installed methods.
    others
        Further names that may be meant.

    Raises
    ------
    BenchError
        Several plugins have the name, or it looks like a path that is none of a Python file.
    UnknownNameError
        No such method; the nearest names are offered.
    """
    if name in installed:
        return
    shared = sorted(key for key in installed if key.rpartition(":")[2] == name)
    if shared:
        raise BenchError(f"several plugins provide method '{name}'; write {' or '.join(shared)}")
    if "/" in name or os.sep in name:
        raise BenchError(f"method '{one_line(name, 80)}': the file of a method ends in .py")
    raise UnknownNameError("method", name, [*installed, *others])


def reference_to(method: object) -> str:
    """What a request calls a method: a name or path as it is, a class by a reference.

    Raises
    ------
    BenchError
        It is none of these, or a class that cannot be serialised.
    """
    from bench.method import Method
    from bench.own_methods import hand_over

    if isinstance(method, str | Path):
        return str(method)
    if not inspect.isclass(method) or not issubclass(method, Method):
        shown = one_line(getattr(method, "__name__", repr(method)), 80)
        raise BenchError(
            f"{shown}: a method is a name, the path of a Python file, or a class derived from"
            " Method of bench.api"
        )
    where = f"{method.__module__}:{method.__qualname__}"
    for name, installed in find_methods().items():
        if installed.entry is not None and installed.entry.value == where:
            return name
        if installed.entry is None and where.startswith(f"bench.methods.{name}:"):
            return name
    return hand_over(method)


def find_datasets() -> dict[str, Path]:
    """Cards by dataset name: those of the package, then those that the user has added."""
    return {**built_in_datasets(), **own_datasets()}


def built_in_datasets() -> dict[str, Path]:
    """Cards of the package by dataset name."""
    return {path.stem: path for path in sorted(_folder("bench.datasets").glob("*.yaml"))}


def own_datasets() -> dict[str, Path]:
    """Cards that ``bench data add`` has written; a built-in name is never taken by one."""
    own = {path.stem: path for path in sorted(cards_folder().glob("*.yaml"))}
    return {name: path for name, path in own.items() if name not in built_in_datasets()}


def dataset_name(name: str) -> str:
    """Name of a dataset as its card has it: ``hest:LYMPH_IDC`` is ``hest-lymph-idc``."""
    collection, colon, member = name.partition(":")
    if not colon or "/" in name or os.sep in name:
        return name
    return f"{collection}-{member.replace('_', '-')}".lower()


def collection(name: str) -> tuple[str, ...]:
    """Names of the built-in datasets that a name stands for together; none for other names."""
    if name in own_datasets():
        return ()
    return tuple(
        member
        for member, path in built_in_datasets().items()
        if member.startswith(f"{name}-") and read_card(path).collection == name
    )


def members(name: str, data_root: Path | None) -> list[tuple[str, Path | None]]:
    """Datasets that a name stands for, each with its data folder in one that the user names."""
    names = collection(name)
    if not names:
        return [(dataset_name(name), data_root)]
    return [(one, member_folder(dataset_card(one), data_root)) for one in names]


def readers() -> list[str]:
    """Modules of ``bench.datasets``, which read or generate."""
    folder = _folder("bench.datasets")
    return [m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")]


def dataset_card(name: str) -> DatasetCard:
    """Card by dataset name, or from a card file of the user's own.

    Raises
    ------
    UnknownNameError
        Neither a known dataset nor a card file.
    DataError
        The card breaks the schema.
    """
    cards = find_datasets()
    known = dataset_name(name)
    if known in cards:
        return read_card(cards[known])
    if members := collection(name):
        raise BenchError(
            f"{name} stands for {len(members)} datasets, of which this takes one: such as"
            f" {members[0]}"
        )
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return read_card(path)
    raise UnknownNameError("dataset", name, cards)
