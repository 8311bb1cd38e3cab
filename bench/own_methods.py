"""Methods that are not installed: a class in a Python file, or a class of the user's process."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeGuard

from bench.errors import BenchError
from bench.files import one_line
from bench.method import Method, MethodConfig
from bench.method_references import HANDED, SHUFFLED, is_handed, split
from bench.sources import harness_imports, method_code

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CONSTANTS = (str, int, float, bool, bytes, tuple, list, dict, set, frozenset, type(None))

_loaded: dict[tuple[str, str], ModuleType] = {}
"""Modules of files by path and hash of the source."""
_handed: dict[str, type[Method]] = {}
"""Classes by reference, as this process knows them."""
_pickled: dict[str, bytes] = {}
"""The same classes as cloudpickle writes them."""


def prefix(reference: str) -> str:
    """What a label begins with where a method has the name of an installed one: file or module."""
    parts = split(reference)
    return Path(parts[0]).stem if parts else _handed[reference].__module__.rpartition(".")[2]


def own_class(reference: str) -> type[Method]:
    """Class of a method that is not installed; its file is executed.

    Raises
    ------
    BenchError
        There is no such file, it cannot be imported, or it holds no method class or several; the
        class was passed to another process.
    """
    parts = split(reference)
    if parts is not None:
        return _class_of_file(Path(parts[0]), parts[1])
    if reference not in _handed:
        if reference not in _pickled:
            raise BenchError(f"{reference}: class of another process; pass the class again")
        import cloudpickle

        # Written by the user's own process, which started this one.
        kind = cloudpickle.loads(_pickled[reference])
        _check_name(kind, kind.__name__, f"class {kind.__qualname__}")
        _handed[reference] = kind
    return _handed[reference]


def own_code(reference: str, kind: type[Method]) -> tuple[dict[str, str], set[str]]:
    """Code of a method for the fit key: hashes of its code, and its imports of the harness.

    See :func:`bench.sources.method_code` and :func:`bench.sources.harness_imports`. For a class
    passed to :func:`bench.run`, functions, classes and constants of its module that it uses
    count too; without its source, its pickle counts, which differs between processes.
    """
    if not is_handed(reference):
        return method_code(kind), harness_imports(kind)
    try:
        code, harness = method_code(kind), harness_imports(kind)
    except BenchError:
        pickled = hashlib.sha256(_pickled[reference]).hexdigest()
        code, harness = {f"pickle of {kind.__qualname__}": pickled}, set()
    # Cells of a notebook import what the cell of the class does not name.
    return {**code, **_used_code(kind)}, harness | {"bench.api"}


# ------------------------------------------------------------------------------------- files


class _Uncached(SourceFileLoader):
    """Reads the source of a file, never its bytecode, which may be of an older source."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _class_of_file(file: Path, wanted: str) -> type[Method]:
    kind = _chosen(_module_of(file), file, wanted)
    _check_name(kind, file.stem, str(file))
    return kind


def _module_of(file: Path) -> ModuleType:
    try:
        if file.is_dir():
            raise BenchError(f"{file}: a folder; name the Python file that holds the method")
        key = (str(file), hashlib.sha256(file.read_bytes()).hexdigest())
    except FileNotFoundError:
        raise BenchError(f"{file}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise BenchError(f"{one_line(file)}: cannot be read ({one_line(error)})") from error
    if key not in _loaded:
        _loaded[key] = _imported(file)
    return _loaded[key]


def _imported(file: Path) -> ModuleType:
    name = _module_name(file.stem)
    loader = _Uncached(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    with _importable(file.parent, name, module):
        try:
            loader.exec_module(module)
        except (Exception, SystemExit) as error:
            # The file of a stranger may fail in any way; the reason must reach the user.
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise BenchError(f"{file}: cannot be imported: {reason}") from error
    return module


def _module_name(stem: str) -> str:
    """The stem, as which files beside it import it, unless a module of that name is there."""
    taken = stem in sys.modules or stem in sys.stdlib_module_names
    return f"_file_{stem}" if taken or not stem.isidentifier() else stem


@contextmanager
def _importable(folder: Path, name: str, module: ModuleType) -> Iterator[None]:
    """Let a module import the files beside it, as a script does; undone where that fails."""
    before, path = sys.dont_write_bytecode, list(sys.path)
    sys.dont_write_bytecode = True
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # stays: functions of the module import later
    sys.modules[name] = module
    try:
        yield
    except BaseException:
        sys.modules.pop(name, None)
        sys.path[:] = path
        raise
    finally:
        sys.dont_write_bytecode = before


def _chosen(module: ModuleType, file: Path, wanted: str) -> type[Method]:
    """The one public method class that a module defines, or the one that is asked for."""
    here = [
        (name, value)
        for name, value in vars(module).items()
        if _is_method(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    names = sorted({name for name, value in here if not inspect.isabstract(value)})
    if wanted:
        kind = getattr(module, wanted, None)
        if not _is_method(kind):
            offer = f"; it has {', '.join(names)}" if names else ""
            raise BenchError(f"{file}: there is no method class '{one_line(wanted, 80)}'{offer}")
        _check_complete(kind, str(file))
        return kind
    whole = list(dict.fromkeys(value for _, value in here if not inspect.isabstract(value)))
    if len(whole) > 1:
        raise BenchError(
            f"{file}: holds several methods, {', '.join(names)}; name one, such as"
            f" {file}:{names[0]}"
        )
    if not whole:
        for _, value in here:
            _check_complete(value, str(file))
        raise BenchError(
            f"{file}: holds no method; define a class derived from Method, NetworkMethod or"
            " RetrievalMethod of bench.api"
        )
    _check_complete(whole[0], str(file))
    return whole[0]


def _is_method(value: object) -> TypeGuard[type[Method]]:
    return inspect.isclass(value) and issubclass(value, Method) and value is not Method


def _check_complete(kind: type[Method], where: str) -> None:
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise BenchError(f"{where}: class {kind.__name__} lacks {', '.join(missing)}")
    if not (inspect.isclass(kind.Config) and issubclass(kind.Config, MethodConfig)):
        raise BenchError(
            f"{where}: class {kind.__name__}: Config must be derived from bench.api.MethodConfig"
        )


def _check_name(kind: type[Method], default: str, where: str) -> None:
    """Give a class without a name the default, and refuse a name that is none."""
    if not hasattr(kind, "name"):
        kind.name = default
    name: object = kind.name
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == SHUFFLED:
        raise BenchError(
            f"{where}: '{one_line(name, 80)}' is no name for a method; set 'name' of class"
            f" {kind.__name__} to letters, digits, '_', '-' and '.', at most 64"
        )


# -------------------------------------------------------------- classes passed to bench.run


def hand_over(kind: type[Method]) -> str:
    """Make a class of this process known to the workers that it will start; gives its reference.

    Raises
    ------
    BenchError
        It is abstract, has no valid name, or cannot be pickled.
    """
    import cloudpickle

    where = f"class {kind.__qualname__}"
    _check_complete(kind, where)
    _check_name(kind, kind.__name__, where)
    module = sys.modules.get(kind.__module__)
    by_value = module is not None and not _is_importable(module)
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        pickled = cloudpickle.dumps(kind)
    except Exception as error:
        # What a class refers to may refuse in any way.
        raise BenchError(
            f"{where} cannot be sent to a worker process ({one_line(error)}); write it to a file"
            " and give the file's path"
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    reference = f"{HANDED}{kind.__name__}@{hashlib.sha256(pickled).hexdigest()[:16]}"
    _handed[reference], _pickled[reference] = kind, pickled
    return reference


def pickled_classes(text: str) -> dict[str, bytes]:
    """Classes that a text refers to, for a process that is to know them: pickles by reference."""
    return {reference: pickled for reference, pickled in _pickled.items() if reference in text}


def take_over(pickled: Mapping[str, bytes]) -> None:
    """Make the classes of another process known; each is unpickled when it is asked for."""
    _pickled.update(pickled)


def _is_importable(module: ModuleType) -> bool:
    """Whether a new process with the same ``sys.path`` would import this very file."""
    top = module.__name__.partition(".")[0]
    if module.__name__ == "__main__":
        return True  # cloudpickle knows it
    try:
        spec: ModuleSpec | None = PathFinder.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return getattr(module, "__file__", None) is None
    own = sys.modules.get(top)
    return own is not None and getattr(own, "__file__", None) in {spec.origin, None}


def _used_code(kind: type) -> dict[str, str]:
    """Hashes of what a class uses of the names of its module, directly or through others."""
    module, used = kind.__module__, {}
    waiting: list[Any] = [kind]
    seen = {id(kind)}
    while waiting:
        for name, value in _names_in(waiting.pop(), module):
            if id(value) in seen:
                continue
            if isinstance(value, _CONSTANTS):
                text = repr(value)
                if " at 0x" not in text:  # an address differs between processes
                    used[f"{module}.{name}"] = text
            elif isinstance(value, type | FunctionType) and value.__module__ == module:
                seen.add(id(value))
                waiting.append(value)
                used[f"{module}.{name}"] = hashlib.sha256(_text_of(value)).hexdigest()
    return used


def _names_in(value: type | FunctionType, module: str) -> Iterator[tuple[str, Any]]:
    """Names and values of a module that a function, or a class and its functions, refer to."""
    if isinstance(value, type):
        for base in value.__mro__:
            if base.__module__ == module:
                yield base.__name__, base
                for name, member in vars(base).items():
                    inner = getattr(member, "__func__", member)
                    if isinstance(inner, FunctionType):
                        yield from _names_in(inner, module)
                    elif isinstance(inner, type):
                        yield name, inner
        return
    codes = [value.__code__]
    while codes:
        code = codes.pop()
        codes += [part for part in code.co_consts if isinstance(part, CodeType)]
        for name in code.co_names:
            if name in value.__globals__:
                yield name, value.__globals__[name]


def _text_of(value: type | FunctionType) -> bytes:
    try:
        return inspect.getsource(value).encode()
    except (OSError, TypeError):
        return value.__code__.co_code if isinstance(value, FunctionType) else b""
