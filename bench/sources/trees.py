"""One source file: the hash of its syntax tree, its imports, and where its names come from."""

from __future__ import annotations

import ast
import hashlib
import inspect
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import DataError
from bench.files import file_hash, one_line

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
    return source_of(path).hash


def file_code(path: Path) -> str:
    """Hash of a file of a method: of the syntax tree for Python, else of the bytes."""
    return tree_hash(path) if path.suffix == ".py" else read_current(_read_bytes_hash, path)


@dataclass(frozen=True)
class Import:
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
class SourceFile:
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
    imports: list[Import] = field(default_factory=list)
    origins: dict[str, list[Import] | None] = field(default_factory=dict)
    opaque: bool = True
    uses: set[str] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)


def read_current(read: Callable[[Path, int, int], _Result], path: Path) -> _Result:
    """Call a cached function of a file and its state, so that a changed file is read again."""
    try:
        state = path.stat()
        # A file written just now may change once more without another modification time.
        settled = time.time_ns() - state.st_mtime_ns > _SETTLED
        function = read if settled else inspect.unwrap(read)
        return function(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def source_of(path: Path) -> SourceFile:
    """What is known of a file; it is read again after a change."""
    return read_current(_read_source, path)


@lru_cache(maxsize=4096)
def _read_source(path: Path, mtime_ns: int, size: int) -> SourceFile:
    return parsed(path.read_bytes())


@lru_cache(maxsize=4096)
def _read_bytes_hash(path: Path, mtime_ns: int, size: int) -> str:
    return file_hash(path)


def parsed(content: bytes) -> SourceFile:
    """What is known of a source text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing the file reports them
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return SourceFile(hashlib.sha256(content).hexdigest())
    source = SourceFile(_hash_of_tree(tree), opaque=False)
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


def _read_names(tree: ast.Module, source: SourceFile) -> None:
    """Fill in where the names of a module come from."""
    origins: dict[str, list[Import]] = {}
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


def _imports_of(node: ast.Import | ast.ImportFrom, deferred: bool) -> Iterator[tuple[str, Import]]:
    """Names that an import statement binds, each with the import that binds it."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            bound = alias.asname or alias.name.partition(".")[0]
            yield bound, Import(alias.name, 0, None, deferred)
        else:
            statement = Import(node.module or "", node.level, alias.name, deferred)
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
