"""The code of a method: its own files, and what it imports of the harness."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from bench.errors import BenchError, DataError
from bench.files import one_line
from bench.sources.closure import PARENT, WHOLE, ImportWalk, Place, find_in, is_under
from bench.sources.contents import files_in
from bench.sources.distributions import (
    editable_folder,
    is_shipped,
    listed_files,
    normal_name,
    owners_of,
)
from bench.sources.trees import file_code, parsed, tree_hash

_HARNESS = "bench"
_METHODS = "bench.methods"
_MAIN = {"__mp_main__": "__main__"}  # its name in a process that another one has spawned
_STANDARD = Path(os.__file__).parent


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


class _MethodWalk(ImportWalk):
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
            self._own = owners_of(top, place)
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
        self._places[kind.__module__] = Place(Path(file), folders)
        if "." not in kind.__module__:
            self._beside.append(str(Path(file).parents[1 if folders else 0]))

    def _find(self, module: str) -> Place | None:
        # A file that was loaded by its path may import the files beside it.
        return super()._find(module) or (
            find_in(self._beside, module) if "." not in module else None
        )

    def _start(self, kind: type, is_base: bool) -> None:
        module = kind.__module__
        if is_under(module, _METHODS):
            self._parts.add(".".join(module.split(".")[:3]))
        known = self._places.get(module) is not None or is_under(module, _HARNESS)
        if known or (is_base and self._is_standard(module)):
            self.reach(module, WHOLE)
            return
        text = _source_text(kind)
        if text is None:
            if is_base and not any(_code_files(kind)):
                return  # a class of an extension module
            raise BenchError(
                f"the source of class {kind.__qualname__} cannot be found; define it in a file"
            )
        source = parsed(textwrap.dedent(text).encode())
        self.code[f"{_MAIN.get(module, module)}.{kind.__qualname__}"] = source.hash
        self.follow(module, source, deferred=True)

    def _is_followed(self, module: str, want: str) -> bool:
        if is_under(module, _HARNESS):
            if any(is_under(module, part) for part in self._parts):
                return True
            if want != PARENT and self.place(module) is not None:
                self.harness |= self._entries(module, want)
            return False
        top = module.partition(".")[0]
        if top not in self._decided:
            self._decided[top] = self._is_loose(top)
        return self._decided[top]

    def _entries(self, module: str, want: str) -> set[str]:
        """An import of the harness in the form that :func:`import_closure` takes."""
        steps = [(module, want)] if want == WHOLE else self.steps(module, want)
        whole = {target for target, asked in steps if asked == WHOLE}
        return whole if len(whole) == len(steps) else {f"{module}:{want}"}

    def _is_loose(self, top: str) -> bool:
        """Whether code is known by its files; if not, its distribution's version is noted."""
        place = self.place(top)
        if place is None or self._is_standard(top):
            return False
        owners = owners_of(top, place)
        for owner in owners:
            self.code[f"dist {normal_name(owner.name)}"] = owner.version
        own = {owner.name for owner in self._own}
        return not owners or any(o.name in own or editable_folder(o) for o in owners)

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
        if is_under(kind.__module__, _HARNESS):
            return
        place = self.place(kind.__module__)
        if place is None or place.file is None:
            return
        for owner in self._own:
            files = listed_files(owner)
            if place.file.resolve() in {path.resolve() for path in files.values()}:
                self.code.update({name: file_code(path) for name, path in files.items()})
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
                files = list(files_in(Path(folder), is_shipped))
            except OSError as error:
                raise DataError(f"{folder}: cannot be read ({one_line(error)})") from error
            for name, path in files:
                self.code[f"{package.replace('.', '/')}/{name}"] = file_code(path)


def _code_files(kind: type) -> Iterator[str]:
    """Names of the files that define the functions of a class."""
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
