"""Hashes of source code and of files, by which stored results are keyed.

Python source is hashed as a syntax tree, so that a comment, a docstring or a line break changes
no key. Which source a result depends on follows from the import statements, read without
importing anything. Imports by a computed name (``importlib.import_module``, entry points) cannot
be seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import linecache
import os
import pkgutil
import re
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
)
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from bench.errors import BenchError, DataError
from bench.files import canonical_hash, file_hash, one_line

_Result = TypeVar("_Result")

_SETTLED = 2_000_000_000
"""Nanoseconds after a write, after which another one certainly changes the modification time."""


def tree_hash(path: Path) -> str:
    """SHA-256 of a Python file's syntax tree without comments, docstrings and positions.

    A string expression that is not a docstring counts. A file that cannot be parsed is hashed by
    its bytes. The hash may differ between versions of Python, whose trees differ.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    return _source_of(path).hash


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the relative names and contents of all files in a folder.

    Symbolic links are followed, except one to a folder that contains it. Empty folders do not
    count.

    Raises
    ------
    DataError
        Something in it is missing, cannot be read, or is neither a file nor a folder.
    """
    try:
        if not path.is_dir():
            return _regular_hash(path)
        files = sorted(_files_in(path))
        return canonical_hash([[name, _regular_hash(file)] for name, file in files])
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _regular_hash(path: Path) -> str:
    # Reading a pipe or a device would block or never end.
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: neither a file nor a folder")
    return file_hash(path)


def _files_in(
    folder: Path,
    counts: Callable[[PurePath], bool] = lambda path: True,
    above: tuple[Path, ...] = (),
) -> Iterator[tuple[str, Path]]:
    """Relative name and path of each file; `above` are the resolved folders that lead here."""
    above = (*above, folder.resolve())
    for path in filter(counts, folder.iterdir()):
        if not path.is_dir():
            yield path.name, path
        elif path.resolve() not in above:
            for name, file in _files_in(path, counts, above):
                yield f"{path.name}/{name}", file


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
    face = (package, _PARENT)
    walk = _Walk(lambda module, want: _is_under(module, package) and (module, want) != face)
    for entry in modules:
        module, _, name = entry.partition(":")
        if not _is_under(module, package) or walk.place(module) is None:
            raise BenchError(f"there is no module {module} in package {package}")
        walk.reach(module, name or _WHOLE)
    walk.run()
    return dict(sorted(walk.files.items()))


def code_hash(modules: Iterable[str], package: str = "bench") -> str:
    """SHA-256 of the syntax trees of :func:`import_closure`; parameters and errors are the same.

    A file that has been edited since the last call is read again.
    """
    closure = import_closure(modules, package)
    return canonical_hash([[name, tree_hash(path)] for name, path in closure.items()])


def method_code(kind: type) -> dict[str, str]:
    """Hashes of the code that a fit of a method can run through, except the harness's own.

    It covers the modules of the class and of its bases, all modules that these import and that
    belong to no other installed distribution, and all files of the distribution that provides the
    class. Where the distribution does not list its files, as in an editable installation, or where
    there is none, all files of the outermost package of the class are covered. Files and folders
    whose names begin with a dot are left out. For a method in ``bench.methods``, its own file or
    folder is covered; for a class in a notebook, the source of the class or of its cell, not that
    of other cells.

    Another distribution is recorded by its version. If it is an editable installation, its modules
    are followed as well, because its version does not change with its code. The standard library
    is left out, and so are modules of ``bench``, which :func:`harness_imports` names. Imports by a
    computed name, and files outside of the package that are not imported, cannot be seen.

    Parameters
    ----------
    kind
        Class of a method, imported in this process.

    Returns
    -------
    dict of str to str
        Hash by the name of the file relative to its place of import (``plugin/network.py``), and
        version by ``dist NAME`` for distributions; sorted.

    Raises
    ------
    BenchError
        The source of the class cannot be found.
    """
    return dict(sorted(_MethodWalk(kind).code.items()))


def harness_imports(kind: type) -> set[str]:
    """What the code in :func:`method_code` imports of ``bench``, as :func:`code_hash` takes it.

    Parameters
    ----------
    kind
        Class of a method, imported in this process.

    Returns
    -------
    set of str
        Module names, and ``module:name`` for a name that a module only imports, such as
        ``bench.api:Context``.
    """
    return set(_MethodWalk(kind).harness)


def _is_under(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


# One source file: its hash, its imports, and where its names come from.


@dataclass(frozen=True)
class _Import:
    """Import of one name; `name` is ``*`` for a star import and None for ``import module``."""

    module: str
    level: int
    name: str | None
    deferred: bool  # inside a function

    def absolute(self, importer: str, is_package: bool) -> str | None:
        """Name of the imported module; None for a relative import that leads out of the top."""
        if not self.level:
            return self.module
        parts = importer.split(".")
        kept = parts[: len(parts) - self.level + is_package]
        return ".".join([*kept, *filter(None, [self.module])]) if kept else None


@dataclass
class _Source:
    """What is known of a file.

    Attributes
    ----------
    hash
        Of the syntax tree, or of the bytes where there is none.
    imports
        All imports but those for type checking.
    origins
        By name at module level: the imports that bind it, none for a constant; None for a name
        that is bound in another way.
    opaque
        Whether importing the file may do more than bind names, so that no name can be had without
        all that it imports.
    uses
        Dotted names in use that ``import a.b`` gives access to.
    constants
        Names that are bound to constants at module level.
    """

    hash: str
    imports: list[_Import] = field(default_factory=list)
    origins: dict[str, list[_Import] | None] = field(default_factory=dict)
    opaque: bool = True
    uses: set[str] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)


def _read_current(read: Callable[[Path, int, int], _Result], path: Path) -> _Result:
    """Call a cached function of a file and its state, so that a changed file is read again."""
    try:
        state = path.stat()
        # A file written just now may change once more without another modification time.
        settled = time.time_ns() - state.st_mtime_ns > _SETTLED
        function = read if settled else inspect.unwrap(read)
        return function(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _source_of(path: Path) -> _Source:
    return _read_current(_read_source, path)


@lru_cache(maxsize=4096)
def _read_source(path: Path, mtime_ns: int, size: int) -> _Source:
    return _parsed(path.read_bytes())


@lru_cache(maxsize=4096)
def _read_bytes_hash(path: Path, mtime_ns: int, size: int) -> str:
    return file_hash(path)


def _parsed(content: bytes) -> _Source:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing the file reports them
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _Source(hashlib.sha256(content).hexdigest())
    source = _Source(_hash_of_tree(tree), opaque=False)
    _read_names(tree, source)
    return source


class _Fields(dict[type, Callable[[Any], tuple[Any, ...]]]):
    """Function by type of node that gives the values of a node's fields."""

    def __missing__(self, kind: type[ast.AST]) -> Callable[[Any], tuple[Any, ...]]:
        # The context of a name follows from its position; a prefix 'u' has no effect.
        left_out = {"ctx", "kind", "type_comment", "type_ignores"}
        names = [name for name in kind._fields if name not in left_out]
        if len(names) > 1:
            self[kind] = attrgetter(*names)
        else:
            self[kind] = lambda node: tuple(getattr(node, name) for name in names)
        return self[kind]


_FIELDS = _Fields()
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LAZY = "__getattr__"
"""Function by which a module imports names when they are first asked for (PEP 562)."""
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, *_FUNCTIONS)


def _hash_of_tree(tree: ast.Module) -> str:
    words: list[str] = []
    add = words.append
    waiting: list[Any] = [tree]
    # Each type of node has a fixed number of fields and each list begins with its length, so that
    # the words are unambiguous. Recursion would fail on deeply nested expressions.
    while waiting:
        value = waiting.pop()
        kind = value.__class__
        if kind is str:
            add(value)
        elif kind is ast.Constant:
            add(f"={value.value!a}")
        elif kind is list:
            add(f"[{len(value)}")
            waiting += value
        elif isinstance(value, ast.AST):
            add(kind.__name__)
            if isinstance(value, _WITH_DOCSTRING):
                value.body = _without_docstring(value)
            waiting += _FIELDS[kind](value)
        else:
            add(str(value))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _without_docstring(node: Any) -> list[ast.stmt]:
    body: list[ast.stmt] = node.body
    if not (body and _is_constant(body[0], str)):
        return body
    return body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])


def _is_constant(statement: ast.stmt, kind: type = object) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, kind)
    )


def _read_names(tree: ast.Module, source: _Source) -> None:
    """Fill in where the names of a module come from."""
    origins: dict[str, list[_Import]] = {}
    otherwise: set[str] = set()
    roots: set[str] = set()
    # Statements with the scope they run in: module, class, function, or the module's __getattr__,
    # whose imports provide names of the module.
    waiting: list[tuple[ast.AST, str]] = [(statement, "module") for statement in tree.body]
    while waiting:
        node, scope = waiting.pop()
        at_top = scope == "module"
        if isinstance(node, ast.Import | ast.ImportFrom):
            deferred = scope in {"function", _LAZY}
            for bound, statement in _imports_of(node, deferred=deferred):
                source.imports.append(statement)
                source.opaque |= at_top and bound == "*"
                if at_top or scope == _LAZY:
                    origins.setdefault(bound, []).append(statement)
                if statement.name is None and statement.module.startswith(f"{bound}."):
                    roots.add(bound)
        elif isinstance(node, ast.Global):
            otherwise.update(node.names)
        elif at_top:
            source.opaque |= not _only_binds(node)
            otherwise |= _bound_otherwise(node)
            if (constant := _constant_name(node)) is not None:
                origins.setdefault(constant, [])
                source.constants.add(constant)
        waiting += _statements_in(node, scope)
    source.origins = {**origins, **dict.fromkeys(otherwise)}
    if roots:
        source.uses = _dotted_uses(tree, roots)


def _imports_of(node: ast.Import | ast.ImportFrom, deferred: bool) -> Iterator[tuple[str, _Import]]:
    """Names that an import statement binds, each with the import that binds it."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            bound = alias.asname or alias.name.partition(".")[0]
            yield bound, _Import(alias.name, 0, None, deferred)
        else:
            statement = _Import(node.module or "", node.level, alias.name, deferred)
            yield alias.asname or alias.name, statement


def _statements_in(node: ast.AST, scope: str) -> Iterator[tuple[ast.AST, str]]:
    """Statements inside a statement, but those that are for type checking alone."""
    if isinstance(node, _FUNCTIONS):
        lazy = scope == "module" and node.name == _LAZY
        scope = _LAZY if lazy else "function"
    elif isinstance(node, ast.ClassDef) and scope == "module":
        scope = "class"
    skipped = None
    if isinstance(node, ast.If):
        if _is_type_checking(node.test):
            skipped = "body"
        elif isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
            skipped = "orelse" if _is_type_checking(node.test.operand) else None
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, part, None)
        if part != skipped and isinstance(inner, list):
            for statement in inner:
                yield statement, scope


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _only_binds(node: ast.AST) -> bool:
    """Whether a statement of a module does nothing but bind names, itself or by those in it."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets)
    if isinstance(node, ast.AnnAssign | ast.AugAssign):
        return isinstance(node.target, ast.Name)
    return isinstance(
        node, (*_FUNCTIONS, ast.ClassDef, ast.If, ast.Try, ast.ExceptHandler, ast.Pass)
    ) or (isinstance(node, ast.stmt) and _is_constant(node))


def _constant_name(node: ast.AST) -> str | None:
    """Name that a statement binds to a constant, None if it does something else."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant):
            return target.id
    return None


def _bound_otherwise(node: ast.AST) -> set[str]:
    """Names that a statement of a module binds itself, to something else than a constant."""
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return {node.name}
    if _constant_name(node) is not None:
        return set()
    names = {node.name} if isinstance(node, ast.ExceptHandler) and node.name else set()
    inner = {id(statement) for statement, _ in _statements_in(node, "module")}
    waiting = [child for child in ast.iter_child_nodes(node) if id(child) not in inner]
    while waiting:
        child = waiting.pop()
        if isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load):
            names.add(child.id)
        waiting += ast.iter_child_nodes(child)
    return names


def _dotted_uses(tree: ast.Module, roots: set[str]) -> set[str]:
    """The longest dotted names in a module that begin with one of `roots`."""
    nodes = list(ast.walk(tree))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    dotted = {_dotted(node) for node in nodes if id(node) not in inner}
    return {name for name in dotted if name.partition(".")[0] in roots}


def _dotted(node: ast.AST) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


# From module to module.

_WHOLE = "*"
"""Asks for a module with all that it imports; a name asks for what that name needs."""
_PARENT = ""
"""Asks for a package because one of its modules is imported."""


@dataclass(frozen=True)
class _Place:
    """File of a module, None for a folder without ``__init__``; folders of a package."""

    file: Path | None
    folders: tuple[str, ...] = ()


class _Walk:
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
        self._places: dict[str, _Place | None] = {}

    def place(self, module: str) -> _Place | None:
        """Where a module is, None if there is none; nothing is imported."""
        if module not in self._places:
            self._places[module] = self._find(module)
        return self._places[module]

    def _find(self, module: str) -> _Place | None:
        parent = module.rpartition(".")[0]
        if parent:
            above = self.place(parent)
            return _find_in(above.folders, module) if above else None
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
            self.reach(parent, _PARENT)

    def run(self) -> None:
        """Follow the imports of all that has been reached."""
        while self._waiting:
            module, want = self._waiting.pop()
            place = self.place(module)
            file = place.file if place else None
            whole = want in {_WHOLE, _PARENT}
            if file is not None and (whole or want in _source_of(file).constants):
                self.files[module] = file
            if not whole:
                for step in self.steps(module, want):
                    self.reach(*step)
            elif file is not None:
                self.follow(module, _source_of(file), deferred=want == _WHOLE)

    def follow(self, module: str, source: _Source, deferred: bool) -> None:
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
                self.reach(dotted, _WHOLE)

    def steps(self, module: str, name: str) -> list[tuple[str, str]]:
        """What must be reached for a module to provide a name: modules and what is asked."""
        place = self.place(module)
        if place is None:
            return []
        below = f"{module}.{name}"
        steps = [(below, _WHOLE)] if place.folders and self.place(below) else []
        source = _source_of(place.file) if place.file else _Source("")
        if name not in source.origins:
            # An import of a package's module asks nothing of the package's own code.
            return steps or [(module, _WHOLE)]
        origins = source.origins[name]
        if origins is None or source.opaque:
            return [*steps, (module, _WHOLE)]
        return steps + [step for origin in origins if (step := self._target(module, origin))]

    def _target(self, module: str, statement: _Import) -> tuple[str, str] | None:
        """What an import reaches: a module and what is asked of it."""
        place = self.place(module)
        target = statement.absolute(module, bool(place and place.folders))
        return (target, statement.name or _WHOLE) if target else None


def _as_place(spec: ModuleSpec | None) -> _Place | None:
    if spec is None:
        return None
    file = Path(spec.origin) if spec.origin and spec.has_location else None
    return _Place(file, tuple(spec.submodule_search_locations or ()))


def _find_in(folders: Sequence[str], module: str) -> _Place | None:
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
        return _Place(None, tuple(portions))
    # Finders of editable installations know of folders elsewhere.
    for finder in sys.meta_path:
        if finder is not PathFinder:
            spec = finder.find_spec(module, folders)
            if spec is not None:
                return _as_place(spec)
    return None


# The code of a method.

_HARNESS = "bench"
_METHODS = "bench.methods"
_MAIN = {"__mp_main__": "__main__"}  # its name in a process that another one has spawned
_STANDARD = Path(os.__file__).parent


class _MethodWalk(_Walk):
    """Follows the imports of a method's class; `code` and `harness` are what it finds."""

    def __init__(self, kind: type) -> None:
        super().__init__(self._is_followed)
        self.code: dict[str, str] = {}
        self.harness: set[str] = set()
        self._decided: dict[str, bool] = {}
        self._own: list[Distribution] = []
        self._parts: set[str] = set()  # files and folders of bench.methods
        self._beside: list[str] = []

        for base in kind.__mro__:
            self._locate(base)
        top = kind.__module__.partition(".")[0]
        if top != _HARNESS and (place := self.place(top)) is not None:
            self._own = _owners(top, place)
        for base in kind.__mro__:
            self._start(base, is_base=base is not kind)
        self.run()
        for module, file in self.files.items():
            self.code[self._name_of(module, file)] = tree_hash(file)
        self._add_files(kind)

    def _locate(self, kind: type) -> None:
        """Remember where the module of a class is, which a file given by its path tells alone."""
        module = sys.modules.get(kind.__module__)
        file = getattr(module, "__file__", None) or next(_code_files(kind), None)
        if file is None or not Path(file).is_file():
            # '__main__' may be the module of a notebook, and have the spec of another file.
            self._places[kind.__module__] = None
            return
        folders = tuple(getattr(module, "__path__", ()))
        self._places[kind.__module__] = _Place(Path(file), folders)
        if "." not in kind.__module__:
            self._beside.append(str(Path(file).parents[1 if folders else 0]))

    def _find(self, module: str) -> _Place | None:
        # A file that was loaded by its path may import the files beside it.
        return super()._find(module) or (
            _find_in(self._beside, module) if "." not in module else None
        )

    def _start(self, kind: type, is_base: bool) -> None:
        module = kind.__module__
        if _is_under(module, _METHODS):
            self._parts.add(".".join(module.split(".")[:3]))
        known = self._places.get(module) is not None or _is_under(module, _HARNESS)
        if known or (is_base and self._is_standard(module)):
            self.reach(module, _WHOLE)
            return
        text = _source_text(kind)
        if text is None:
            if is_base and not any(_code_files(kind)):
                return  # a class of an extension module
            raise BenchError(
                f"the source of class {kind.__qualname__} cannot be found; define it in a file"
            )
        source = _parsed(textwrap.dedent(text).encode())
        self.code[f"{_MAIN.get(module, module)}.{kind.__qualname__}"] = source.hash
        self.follow(module, source, deferred=True)

    def _is_followed(self, module: str, want: str) -> bool:
        if _is_under(module, _HARNESS):
            if any(_is_under(module, part) for part in self._parts):
                return True
            if want != _PARENT and self.place(module) is not None:
                self.harness |= self._entries(module, want)
            return False
        top = module.partition(".")[0]
        if top not in self._decided:
            self._decided[top] = self._is_loose(top)
        return self._decided[top]

    def _entries(self, module: str, want: str) -> set[str]:
        """An import of the harness in the form that :func:`import_closure` takes."""
        steps = [(module, want)] if want == _WHOLE else self.steps(module, want)
        whole = {target for target, asked in steps if asked == _WHOLE}
        return whole if len(whole) == len(steps) else {f"{module}:{want}"}

    def _is_loose(self, top: str) -> bool:
        """Whether code is known by its files; if not, its distribution's version is noted."""
        place = self.place(top)
        if place is None or self._is_standard(top):
            return False
        owners = _owners(top, place)
        for owner in owners:
            self.code[f"dist {_normal(owner.name)}"] = owner.version
        own = {owner.name for owner in self._own}
        return not owners or any(o.name in own or _editable_folder(o) for o in owners)

    def _is_standard(self, module: str) -> bool:
        top = module.partition(".")[0]
        place = self.place(top)
        file = place.file if place else None
        return top in sys.stdlib_module_names and (file is None or file.is_relative_to(_STANDARD))

    def _name_of(self, module: str, file: Path) -> str:
        name = _MAIN.get(module, module).replace(".", "/")
        place = self.place(module)
        return f"{name}/{file.name}" if place and place.folders else f"{name}{file.suffix}"

    def _add_files(self, kind: type) -> None:
        """Note the files that belong to the class, whether they are imported or not."""
        for part in self._parts:
            self._add_folder(part)
        if _is_under(kind.__module__, _HARNESS):
            return
        place = self.place(kind.__module__)
        if place is None or place.file is None:
            return
        for owner in self._own:
            files = _listed_files(owner)
            if place.file.resolve() in {path.resolve() for path in files.values()}:
                self.code.update({name: _file_code(path) for name, path in files.items()})
                return
        # The outermost package, as others may share a folder without '__init__'.
        parts = kind.__module__.split(".")
        for end in range(1, len(parts) + 1):
            package = ".".join(parts[:end])
            outer = self.place(package)
            if outer is not None and outer.file is not None:
                self._add_folder(package)
                return

    def _add_folder(self, package: str) -> None:
        place = self.place(package)
        for folder in place.folders if place else ():
            try:
                files = list(_files_in(Path(folder), _is_shipped))
            except OSError as error:
                raise DataError(f"{folder}: cannot be read ({one_line(error)})") from error
            for name, path in files:
                self.code[f"{package.replace('.', '/')}/{name}"] = _file_code(path)


def _code_files(kind: type) -> Iterator[str]:
    """Names of the files in which the functions of a class stand."""
    for value in vars(kind).values():
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function):
            code = getattr(inspect.unwrap(function), "__code__", function.__code__)
            yield code.co_filename


def _source_text(kind: type) -> str | None:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        # A notebook keeps its cells under the names of files that do not exist.
        cells = ("".join(linecache.getlines(file)) for file in _code_files(kind))
        return next(filter(None, cells), None)


def _file_code(path: Path) -> str:
    return tree_hash(path) if path.suffix == ".py" else _read_current(_read_bytes_hash, path)


def _is_shipped(path: PurePath) -> bool:
    """Whether a file or folder is part of a package's content."""
    return not (
        path.name.startswith(".")
        or path.name == "__pycache__"
        or path.suffix in {".pyc", ".dist-info", ".egg-info"}
    )


def _listed_files(owner: Distribution) -> dict[str, Path]:
    """Files that a distribution says it has installed, by their relative names."""
    return {
        file.as_posix(): path
        for file in owner.files or ()
        if all(_is_shipped(part) for part in (*file.parents, file) if part.name)
        # What lies above are scripts, which name the interpreter of this machine.
        and ".." not in file.parts
        and (path := Path(str(owner.locate_file(file)))).is_file()
    }


def _owners(top: str, place: _Place) -> list[Distribution]:
    """Installed distributions that provide a top-level module, with the file it has here."""
    owners: list[Distribution] = []
    if place.file is None and not place.folders:
        return owners
    where = (place.file or Path(place.folders[0])).resolve()
    for name in _providers().get(top, ()):
        try:
            owner = distribution(name)
        except PackageNotFoundError:
            continue
        roots = [Path(str(owner.locate_file(""))), _editable_folder(owner)]
        if any(root is not None and where.is_relative_to(root.resolve()) for root in roots):
            owners.append(owner)
    return owners


def _editable_folder(owner: Distribution) -> Path | None:
    """Folder of the project that an editable installation runs from (PEP 610)."""
    try:
        facts = json.loads(owner.read_text("direct_url.json") or "{}")
        if facts["dir_info"]["editable"]:
            return Path(unquote(urlsplit(facts["url"]).path))
    except (KeyError, TypeError, ValueError):
        pass
    return None


def _providers() -> Mapping[str, list[str]]:
    """Names of the distributions that provide each top-level module."""
    state = []
    for entry in sys.path:
        try:
            state.append((entry, os.stat(entry or ".").st_mtime_ns))
        except OSError:
            continue
    return _providers_on(tuple(state))


@lru_cache(maxsize=8)
def _providers_on(state: tuple[tuple[str, int], ...]) -> Mapping[str, list[str]]:
    return {top: sorted(set(names)) for top, names in packages_distributions().items()}


def _normal(name: str) -> str:
    """Name of a distribution in the spelling of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()
