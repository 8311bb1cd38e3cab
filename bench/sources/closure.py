"""From module to module: which source files the imports of a module reach."""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from bench.errors import BenchError
from bench.files import canonical_hash
from bench.sources.trees import Import, SourceFile, source_of, tree_hash

WHOLE = "*"
"""Asks for a module with all that it imports; a name asks for what that name needs."""
PARENT = ""
"""Asks for a package because one of its modules is imported."""


def import_closure(modules: Iterable[str], package: str = "bench") -> dict[str, Path]:
    """Modules of a package that the named modules import, directly or through others.

    Nothing of the package is imported. Imports at module level and inside functions count, those
    under ``if TYPE_CHECKING:`` do not. The ``__init__`` of each parent package is included, except
    that of the package itself; only their imports at module level are followed. ``from m import
    name`` follows all that ``m`` imports, unless ``m`` itself only imports the name: then the
    import of that name alone is followed, and ``m`` is not included.

    Parameters
    ----------
    modules
        Names of modules, or ``module:name`` for what a module must import to provide one name.
    package
        Top-level package whose modules count.

    Returns
    -------
    dict of str to Path
        Source file by module name, sorted; the named modules are included.

    Raises
    ------
    BenchError
        A named module is not in the package.
    """
    # The package's own face hands names to its users; what it says changes no module in it.
    face = (package, PARENT)
    walk = ImportWalk(lambda module, want: is_under(module, package) and (module, want) != face)
    for entry in modules:
        module, _, name = entry.partition(":")
        if not is_under(module, package) or walk.place(module) is None:
            raise BenchError(f"there is no module {module} in package {package}")
        walk.reach(module, name or WHOLE)
    walk.run()
    return dict(sorted(walk.files.items()))


def code_hash(modules: Iterable[str], package: str = "bench") -> str:
    """SHA-256 of the syntax trees of :func:`import_closure`; parameters and errors are the same.

    A file that has been edited since the last call is read again.
    """
    closure = import_closure(modules, package)
    return canonical_hash([[name, tree_hash(path)] for name, path in closure.items()])


def is_under(module: str, package: str) -> bool:
    """Whether a module is a package or lies in it."""
    return module == package or module.startswith(f"{package}.")


@dataclass(frozen=True)
class Place:
    """File of a module, None for a folder without ``__init__``; folders of a package."""

    file: Path | None
    folders: tuple[str, ...] = ()


class ImportWalk:
    """Follows imports through source files.

    Parameters
    ----------
    admits
        Whether to follow an import, given the name of the module and what is asked of it.

    Attributes
    ----------
    files
        Files of the modules that were reached, by the modules' names.
    """

    def __init__(self, admits: Callable[[str, str], bool]) -> None:
        self.files: dict[str, Path] = {}
        self._admits = admits
        self._asked: set[tuple[str, str]] = set()
        self._waiting: list[tuple[str, str]] = []
        self._places: dict[str, Place | None] = {}

    def place(self, module: str) -> Place | None:
        """Where a module is, None if there is none; nothing is imported."""
        if module not in self._places:
            self._places[module] = self._find(module)
        return self._places[module]

    def _find(self, module: str) -> Place | None:
        parent = module.rpartition(".")[0]
        if parent:
            above = self.place(parent)
            return find_in(above.folders, module) if above else None
        try:
            return _as_place(importlib.util.find_spec(module))
        except (ImportError, AttributeError, ValueError):
            return None

    def reach(self, module: str, want: str) -> None:
        """Take in a module and its parents, if they are admitted."""
        if (module, want) in self._asked:
            return
        self._asked.add((module, want))
        if not self._admits(module, want) or self.place(module) is None:
            return
        self._waiting.append((module, want))
        if parent := module.rpartition(".")[0]:
            self.reach(parent, PARENT)

    def run(self) -> None:
        """Follow the imports of all that has been reached."""
        while self._waiting:
            module, want = self._waiting.pop()
            place = self.place(module)
            file = place.file if place else None
            whole = want in {WHOLE, PARENT}
            if file is not None and (whole or want in source_of(file).constants):
                self.files[module] = file
            if not whole:
                for step in self.steps(module, want):
                    self.reach(*step)
            elif file is not None:
                self.follow(module, source_of(file), deferred=want == WHOLE)

    def follow(self, module: str, source: SourceFile, deferred: bool) -> None:
        """Reach what a module imports, inside functions as well if `deferred`."""
        for statement in source.imports:
            step = self._target(module, statement)
            if step is not None and (deferred or not statement.deferred):
                self.reach(*step)
        for dotted in source.uses:
            # The module that an expression such as 'a.b.function' refers to.
            while dotted and self.place(dotted) is None:
                dotted = dotted.rpartition(".")[0]
            if dotted:
                self.reach(dotted, WHOLE)

    def steps(self, module: str, name: str) -> list[tuple[str, str]]:
        """What must be reached for a module to provide a name: modules and what is asked."""
        place = self.place(module)
        if place is None:
            return []
        below = f"{module}.{name}"
        steps = [(below, WHOLE)] if place.folders and self.place(below) else []
        source = source_of(place.file) if place.file else SourceFile("")
        if name not in source.origins:
            # An import of a package's module asks nothing of the package's own code.
            return steps or [(module, WHOLE)]
        origins = source.origins[name]
        if origins is None or source.opaque:
            return [*steps, (module, WHOLE)]
        return steps + [step for origin in origins if (step := self._target(module, origin))]

    def _target(self, module: str, statement: Import) -> tuple[str, str] | None:
        """What an import reaches: a module and what is asked of it."""
        place = self.place(module)
        target = statement.absolute(module, bool(place and place.folders))
        return (target, statement.name or WHOLE) if target else None


def _as_place(spec: ModuleSpec | None) -> Place | None:
    if spec is None:
        return None
    file = Path(spec.origin) if spec.origin and spec.has_location else None
    return Place(file, tuple(spec.submodule_search_locations or ()))


def find_in(folders: Sequence[str], module: str) -> Place | None:
    """Where a module of a package is, found as an import does, but without the package."""
    portions: list[str] = []
    for folder in folders:
        find = getattr(pkgutil.get_importer(folder), "find_spec", None)
        spec = find(module) if find is not None else None
        if spec is not None and spec.loader is not None:
            return _as_place(spec)
        if spec is not None:
            portions += spec.submodule_search_locations or ()
    if portions:
        return Place(None, tuple(portions))
    # Finders of editable installations know of folders elsewhere.
    for finder in sys.meta_path:
        if finder is not PathFinder:
            spec = finder.find_spec(module, folders)
            if spec is not None:
                return _as_place(spec)
    return None
