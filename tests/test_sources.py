import importlib
import importlib.util
import json
import linecache
import os
import sys
import time
from pathlib import Path

import pytest

from bench.errors import BenchError, DataError
from bench.registry import find_methods, method_class
from bench.sources import (
    code_hash,
    content_hash,
    harness_imports,
    import_closure,
    method_code,
    tree_hash,
)


def write(folder, files):
    """Write texts by relative path."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Folder that modules are imported from; what a test imports is forgotten after it."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def imported(module, name="Kind"):
    importlib.invalidate_caches()
    return getattr(importlib.import_module(module), name)


# Syntax trees


@pytest.fixture
def hash_of(tmp_path):
    def of(source):
        path = tmp_path / "source.py"
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return tree_hash(path)

    return of


SAME = {
    "comment": ("x = 1\n", "# why\nx = 1  # so\n"),
    "layout": ("f(1, 2)\n", "f(\n    1,\n    2,\n)\n\n\n"),
    "quotes": ("x = 'a'\n", 'x = "a"\n'),
    "docstring of a module": ('"""Old."""\nx = 1\n', '"""New."""\nx = 1\n'),
    "docstring of a class": ("class A:\n    'Old.'\n    x = 1\n", "class A:\n    x = 1\n"),
    "docstring of a function": ("def f():\n    'Old.'\n    return 1\n", "def f():\n    return 1\n"),
    "docstring of a coroutine": (
        "async def f():\n    'Old.'\n    return 1\n",
        "async def f():\n    'New.'\n    return 1\n",
    ),
    "docstring of a method": (
        "class A:\n    def f(self):\n        'Old.'\n        return 1\n",
        "class A:\n    def f(self):\n        'New.'\n        return 1\n",
    ),
    "nothing but a docstring": ("class A:\n    'Old.'\n", "class A:\n    'New.'\n"),
    "docstring instead of pass": ("class A:\n    'Old.'\n", "class A:\n    pass\n"),
    "module of a docstring": ("'''Old.'''\n", ""),
}
OTHER = {
    "constant": ("x = 1\n", "x = 2\n"),
    "type of a constant": ("x = 1\n", "x = 1.0\n"),
    "truth": ("x = 1\n", "x = True\n"),
    "text for a number": ("x = 1\n", "x = '1'\n"),
    "bytes for text": ("x = 'a'\n", "x = b'a'\n"),
    "name for a constant": ("x = 'y'\n", "x = y\n"),
    "operator": ("x = a + b\n", "x = a - b\n"),
    "default": ("def f(a=1):\n    pass\n", "def f(a=2):\n    pass\n"),
    "argument's kind": ("def f(a, b):\n    pass\n", "def f(a, *, b):\n    pass\n"),
    "order": ("a()\nb()\n", "b()\na()\n"),
    "nesting": ("if a:\n    b()\nc()\n", "if a:\n    b()\n    c()\n"),
    "name": ("def f():\n    pass\n", "def g():\n    pass\n"),
    "decorator": ("@a\ndef f():\n    pass\n", "def f():\n    pass\n"),
    "level of an import": ("from . import a\n", "from .. import a\n"),
    "bare raise": ("raise\n", "raise x\n"),
    "conversion in a format": ("f'{x!r}'\n", "f'{x!s}'\n"),
    "text after the docstring": ("'''Doc.'''\n'a'\n", "'''Doc.'''\n'b'\n"),
    "text after a statement": ("x = 1\n'a'\n", "x = 1\n'b'\n"),
    "text in a condition": ("if x:\n    'a'\n", "if x:\n    'b'\n"),
    "formatted text first": ("f'{a}'\n", "f'{b}'\n"),
    "bytes first": ("b'a'\n", "b'b'\n"),
}


@pytest.mark.parametrize("case", SAME)
def test_what_does_not_run_does_not_change_a_tree_hash(hash_of, case):
    first, second = SAME[case]
    assert hash_of(first) == hash_of(second)


@pytest.mark.parametrize("case", OTHER)
def test_what_runs_changes_a_tree_hash(hash_of, case):
    first, second = OTHER[case]
    assert hash_of(first) != hash_of(second)


@pytest.mark.parametrize("source", ["def f(:\n", "x = 1\0\n", b"x = '\xff'\n"])
def test_what_cannot_be_parsed_is_hashed_by_its_bytes(hash_of, source):
    comment = b"# one\n" if isinstance(source, bytes) else "# one\n"
    assert hash_of(source) == hash_of(source)
    assert hash_of(source) != hash_of(source + comment)


def test_a_source_of_any_depth_and_encoding_can_be_hashed(hash_of):
    deep = "x = " + "+".join(["1"] * 5000)
    assert hash_of(deep) != hash_of(f"{deep}+2")
    lists = "x = " + "[" * 150 + "]" * 150
    assert hash_of(lists) == hash_of(f"{lists}  # deep")
    latin = "# coding: latin-1\nx = 'é'\n"
    assert hash_of(latin.encode("latin-1")) == hash_of("x = 'é'\n")


@pytest.mark.filterwarnings("error")
def test_a_doubtful_escape_gives_no_warning(hash_of):
    assert hash_of(r"x = '\d'") == hash_of(r"x = '\\d'")


def test_an_edit_is_noticed_at_once_and_later(tmp_path):
    path = write(tmp_path, {"a.py": "x = 1\n"}) / "a.py"
    first = tree_hash(path)
    path.write_text("x = 2\n")
    assert (second := tree_hash(path)) != first
    old = time.time() - 100
    os.utime(path, (old, old))
    assert tree_hash(path) == tree_hash(path) == second
    path.write_text("x = 3\n")
    assert tree_hash(path) not in {first, second}


def test_a_missing_source_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"gone\.py: cannot be read") as caught:
        tree_hash(tmp_path / "gone.py")
    assert "\n" not in str(caught.value)


# Content


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "folder", {"a.txt": "a", "inner/b.txt": "b"})


def test_the_hash_of_a_folder_does_not_depend_on_its_place_or_its_empty_folders(folder, tmp_path):
    before = content_hash(folder)
    (folder / "inner" / "empty").mkdir()
    assert content_hash(folder) == before
    assert content_hash(folder.rename(tmp_path / "elsewhere")) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a.txt").write_text("c"),
        lambda folder: (folder / "inner" / "b.txt").write_text("c"),
        lambda folder: (folder / "a.txt").rename(folder / "c.txt"),
        lambda folder: (folder / "a.txt").rename(folder / "inner" / "a.txt"),
        lambda folder: (folder / "new").write_text(""),
        lambda folder: (folder / "inner" / "b.txt").unlink(),
    ],
    ids=["content", "content below", "name", "folder", "new file", "file gone"],
)
def test_the_hash_of_a_folder_changes_with_content_and_names(folder, change):
    before = content_hash(folder)
    change(folder)
    assert content_hash(folder) != before


def test_links_are_followed_and_loops_are_not(folder, tmp_path):
    other = write(tmp_path / "other", {"c.txt": "c"})
    copied = write(tmp_path / "copied", {"a.txt": "a", "inner/b.txt": "b", "to/c.txt": "c"})
    (copied / "one.txt").write_text("a")
    (folder / "to").symlink_to(other)
    (folder / "one.txt").symlink_to(folder / "a.txt")
    (folder / "inner" / "loop").symlink_to(folder)
    assert content_hash(folder) == content_hash(copied)
    (other / "c.txt").write_text("d")
    assert content_hash(folder) != content_hash(copied)


def test_a_file_is_hashed_by_its_bytes(folder):
    assert content_hash(folder / "a.txt") != content_hash(folder / "inner" / "b.txt")
    (folder / "b.py").write_text("# a comment\n")
    before = content_hash(folder / "b.py")
    (folder / "b.py").write_text("# another one\n")
    assert content_hash(folder / "b.py") != before


@pytest.mark.parametrize("wrong", ["missing", "broken link", "circle", "pipe", "in a folder"])
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, wrong):
    path = tmp_path / "data" / "x"
    path.parent.mkdir()
    if wrong in {"broken link", "in a folder"}:
        path.symlink_to(tmp_path / "gone")
    elif wrong == "circle":
        path.symlink_to(path)
    elif wrong == "pipe":
        os.mkfifo(path)
    with pytest.raises(DataError, match="data") as caught:
        content_hash(path.parent if wrong == "in a folder" else path)
    assert "\n" not in str(caught.value)


# Closures


@pytest.fixture
def package(place):
    """Make a package ``made``; the answer gives a closure in it, without the name ``made.``."""

    def make(**files):
        texts = {f"made/{name}.py": text for name, text in files.items()}
        write(place, {"made/__init__.py": "", **texts})

        def closure(*modules):
            importlib.invalidate_caches()
            found = import_closure([f"made.{module}" for module in modules], "made")
            assert "made" not in sys.modules
            assert all(path.is_relative_to(place) for path in found.values())
            assert list(found) == sorted(found)
            return {name.removeprefix("made.") for name in found}

        return closure

    return make


def test_imports_are_followed_through_modules_that_import_one_another(package):
    closure = package(
        a="import made.b\nimport os, numpy, gone\n",
        b="from made.c import x\n",
        c="from made.a import y\nimport made.gone\n",
        d="",
    )
    assert closure("a") == closure("b") == closure("c") == {"a", "b", "c"}
    assert closure("d") == {"d"}
    assert closure("a", "d") == {"a", "b", "c", "d"}


def test_imports_inside_functions_count_and_those_for_type_checking_do_not(package):
    closure = package(
        a=(
            "import typing\n"
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from made import t1\nelse:\n    from made import b1\n"
            "if typing.TYPE_CHECKING:\n    from made import t2\n"
            "if not TYPE_CHECKING:\n    from made import b2\nelse:\n    from made import t3\n"
            "try:\n    from made import b3\nexcept ImportError:\n    from made import b4\n"
            "class A:\n    from made import b5\n    def f(self):\n        from made import b6\n"
            "async def f():\n    with x:\n        import made.b7\n"
            "match x:\n    case 1:\n        from made import b8\n"
        ),
        **dict.fromkeys(["t1", "t2", "t3", *(f"b{i}" for i in range(1, 9))], ""),
    )
    assert closure("a") == {"a", *(f"b{i}" for i in range(1, 9))}


def test_relative_imports_are_resolved(package):
    closure = package(
        **{
            "inner/__init__": "from . import near\nfrom .. import far\nfrom .below import x\n",
            "inner/near": "from ..top import x\nfrom .... import beyond\n",
            "inner/below": "",
        },
        far="from .top import x\n",
        top="",
        beyond="",
    )
    assert closure("inner") == {"inner", "inner.near", "inner.below", "far", "top"}


def test_of_a_parent_only_the_imports_at_module_level_are_followed(package, place):
    closure = package(
        **{
            "inner/__init__": "from made.top import x\ndef f():\n    from made.lazy import y\n",
            "inner/module": "",
        },
        top="",
        lazy="",
    )
    (place / "made" / "__init__.py").write_text("def run():\n    from made.lazy import y\n")
    assert closure("inner.module") == {"inner", "inner.module", "top"}
    assert closure("inner") == {"inner", "top", "lazy"}


def test_folders_without_an_init_are_packages(package):
    closure = package(a="from made.bare.deeper import b\n", **{"bare/deeper/b": "", "bare/c": ""})
    assert closure("a") == {"a", "bare.deeper.b"}


REEXPORTS = {
    "name": ("from made.api import X", {"x"}),
    "name under another one": ("from made.api import X as Z", {"x"}),
    "renamed there": ("from made.api import Other", {"y"}),
    "two names": ("from made.api import X, Other", {"x", "y"}),
    "in a function": ("def f():\n    from made.api import X", {"x"}),
    "module there": ("from made.api import z", {"z"}),
    "constant there": ("from made.api import VERSION", {"api"}),
    "function there": ("from made.api import own", {"api", "x", "y", "z", "lazy"}),
    "unknown name": ("from made.api import W", {"api", "x", "y", "z", "lazy"}),
    "star": ("from made.api import *", {"api", "x", "y", "z", "lazy"}),
    "module": ("import made.api", {"api", "x", "y", "z", "lazy"}),
    "module by name": ("from made import api", {"api", "x", "y", "z", "lazy"}),
    "or a constant": ("from made.api import Maybe", {"api", "x"}),
    "or a value": ("from made.api import Either", {"api", "x", "y", "z", "lazy"}),
    "through another": ("from made.again import X", {"x"}),
}


@pytest.mark.parametrize("case", REEXPORTS)
def test_of_a_module_that_only_imports_a_name_that_import_alone_is_followed(package, case):
    statement, expected = REEXPORTS[case]
    api = (
        "from made.x import X\nfrom made.y import Y as Other\nfrom made import z\nVERSION = '1'\n"
        "try:\n    from made.x import Maybe\nexcept ImportError:\n    Maybe = None\n"
        "try:\n    from made.x import Either\nexcept ImportError:\n    Either = object()\n"
        "def own():\n    from made.lazy import w\n"
    )
    closure = package(
        a=f"{statement}\n", api=api, again="from made.api import X\n", x="", y="", z="", lazy=""
    )
    assert closure("a") == {"a", *expected}


@pytest.mark.parametrize(
    "doing",
    [
        "register(Y)",
        "X.attribute = Y",
        "for name in Y:\n    pass",
        "X = Y",
        "X += Y",
        "def f():\n    global X",
        "from made.z import *",
        "with Y as X:\n    pass",
        "del Y",
        "for X in Y:\n    pass",
    ],
)
def test_a_module_that_does_something_with_its_imports_is_followed_entirely(package, doing):
    api = f"from made.x import X\nfrom made.y import Y\n{doing}\n"
    closure = package(a="from made.api import X\n", api=api, x="", y="", z="")
    assert closure("a") >= {"a", "api", "x", "y"}


def test_an_imported_parent_is_followed_where_it_is_used(package, place):
    closure = package(a="import made.b\nmade.b.f()\n", c="import made.b\nmade.run()\n", b="", d="")
    (place / "made" / "__init__.py").write_text("def run():\n    import made.d\n")
    assert closure("a") == {"a", "b"}
    assert closure("c") == {"made", "b", "c", "d"}


def test_one_name_of_a_module_can_be_asked_for(package):
    closure = package(api="from made.x import X\nfrom made.y import Y\n", x="", y="")
    assert closure("api:X") == {"x"}
    assert closure("api") == {"api", "x", "y"}


@pytest.mark.parametrize("module", ["made.gone", "made.a.b", "os", "gone", "bench.api"])
def test_a_module_that_is_not_in_the_package_is_refused(package, module):
    package(a="")
    with pytest.raises(BenchError, match=f"no module {module} in package made"):
        import_closure([module], "made")


def test_code_hash_changes_with_the_code_of_the_closure_alone(package, place):
    package(a="from made.b import x\n", b="x = 1\n", c="")
    made = place / "made"
    before = code_hash(["made.a"], "made")
    (made / "b.py").write_text('"""Say."""\nx = 1  # why\n')
    (made / "c.py").write_text("y = 1\n")
    assert code_hash(["made.a"], "made") == before
    (made / "b.py").write_text("x = 2\n")
    changed = code_hash(["made.a"], "made")
    assert changed != before
    (made / "b.py").rename(made / "d.py")
    (made / "a.py").write_text("from made.d import x\n")
    importlib.invalidate_caches()
    assert code_hash(["made.a"], "made") not in {before, changed}


# Methods


def changes(kind, path, text):
    """Names under which `method_code` differs once a file has another text."""
    before = method_code(kind)
    path.write_text(text)
    importlib.invalidate_caches()
    after = method_code(kind)
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def install(folder, name, version, top, record=None, url=None):
    """Write the metadata of an installed distribution."""
    files = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
    files["top_level.txt"] = f"{top}\n"
    info = folder / f"{name.replace('-', '_')}-1.dist-info"
    if url is not None:
        files["direct_url.json"] = json.dumps({"url": url, "dir_info": {"editable": True}})
    if record is not None:
        listed = [*record, f"{info.name}/METADATA", f"{info.name}/RECORD", "../../bin/run"]
        files["RECORD"] = "".join(f"{path},,\n" for path in listed)
    return write(info, files)


def test_loose_files_are_followed_and_the_harness_is_named(place):
    write(
        place,
        {
            "loose_method.py": (
                "from bench.api import Context, atomic_write\n"
                "import loose_helper\nimport json, numpy as np\n"
                "class Kind:\n"
                "    def fit(self):\n"
                "        from bench.blocks.retrieval import retrieve\n"
                "        from bench.blocks import weights\n"
            ),
            "loose_helper.py": "from bench.api import DataError\nx = 1\n",
            "loose_other.py": "",
        },
    )
    kind = imported("loose_method")
    code = method_code(kind)
    assert set(code) == {"loose_method.py", "loose_helper.py", "dist numpy"}
    assert list(code) == sorted(code)
    assert harness_imports(kind) == {
        "bench.api:Context",
        "bench.api:atomic_write",
        "bench.api:DataError",
        "bench.blocks.retrieval",
        "bench.blocks.weights",
    }
    assert "bench.method" in import_closure(harness_imports(kind))
    assert "bench.data.card" not in import_closure(harness_imports(kind))
    assert changes(kind, place / "loose_helper.py", "x = 2\n") == {"loose_helper.py"}
    assert changes(kind, place / "loose_helper.py", "# why\nx = 2\n") == set()
    assert changes(kind, place / "loose_other.py", "x = 2\n") == set()


def test_a_base_class_in_another_loose_file_counts(place):
    write(
        place,
        {
            "based_method.py": "from based_api import Base\nclass Kind(Base):\n    pass\n",
            "based_api.py": "from based_parent import Base\n",
            "based_parent.py": "from bench.api import Method\nclass Base(Method):\n    pass\n",
        },
    )
    kind = imported("based_method")
    assert set(method_code(kind)) >= {"based_method.py", "based_parent.py"}
    assert "bench.method" in harness_imports(kind)
    text = "class Base:\n    x = 1\n"
    assert changes(kind, place / "based_parent.py", text) >= {"based_parent.py"}


def test_a_base_class_is_found_without_an_import_statement(place):
    write(
        place,
        {
            "computed_method.py": (
                "import importlib\n"
                "Base = importlib.import_module('computed_' + 'base').Base\n"
                "class Kind(Base):\n    pass\n"
            ),
            "computed_base.py": "import computed_helper\nclass Base:\n    pass\n",
            "computed_helper.py": "",
        },
    )
    assert set(method_code(imported("computed_method"))) == {
        "computed_method.py", "computed_base.py", "computed_helper.py",
    }  # fmt: skip


PACKAGE = {
    "boxed/__init__.py": "",
    "boxed/method.py": "from .network import f\nclass Kind:\n    pass\n",
    "boxed/network.py": "def f():\n    return 1\n",
    "boxed/unused.py": "",
    "boxed/data/genes.csv": "a,b\n",
    "boxed/__pycache__/old.pyc": "old",
    "boxed/.hidden": "",
}
BOXED = {
    "boxed/__init__.py", "boxed/method.py", "boxed/network.py", "boxed/unused.py",
    "boxed/data/genes.csv",
}  # fmt: skip


@pytest.mark.parametrize("kind_of", ["loose", "recorded", "no record", "editable"])
def test_all_files_of_a_package_count(place, tmp_path, monkeypatch, kind_of):
    root = place
    if kind_of == "editable":
        root = tmp_path / "project"
        monkeypatch.syspath_prepend(str(root))
        install(place, "Boxed_Plugin", "1", "boxed", ["boxed.pth"], root.as_uri())
    elif kind_of != "loose":
        record = list(PACKAGE) if kind_of == "recorded" else None
        install(place, "Boxed_Plugin", "1", "boxed", record)
    write(root, PACKAGE)
    kind = imported("boxed.method")
    code = method_code(kind)
    assert set(code) == BOXED | (set() if kind_of == "loose" else {"dist boxed-plugin"})
    for name in ["boxed/network.py", "boxed/unused.py"]:
        assert changes(kind, root / name, "x = 1\n") == {name}
    # Data are hashed by bytes, whatever they look like.
    assert changes(kind, root / "boxed/data/genes.csv", "a,b  # c\n") == {"boxed/data/genes.csv"}
    assert changes(kind, root / "boxed/network.py", "x = 1  # why\n") == set()
    assert changes(kind, root / "boxed/__pycache__/old.pyc", "new") == set()


def test_another_version_of_the_distribution_shows(place):
    write(place, {"single.py": "import json\nclass Kind:\n    pass\n"})
    info = install(place, "single-plugin", "1", "single", ["single.py"])
    kind = imported("single")
    assert set(method_code(kind)) == {"single.py", "dist single-plugin"}
    text = (info / "METADATA").read_text().replace("Version: 1", "Version: 2")
    assert changes(kind, info / "METADATA", text) == {"dist single-plugin"}


def test_another_distribution_counts_by_its_version(place):
    write(
        place,
        {
            "user.py": "from library.part import Base\nclass Kind(Base):\n    pass\n",
            "library/__init__.py": "",
            "library/part.py": "import library_helper\nclass Base:\n    pass\n",
            "library_helper.py": "",
        },
    )
    install(place, "library", "1.5", "library", ["library/__init__.py", "library/part.py"])
    kind = imported("user")
    assert method_code(kind).keys() == {"user.py", "dist library"}
    assert method_code(kind)["dist library"] == "1.5"
    assert changes(kind, place / "library/part.py", "x = 2\n") == set()


def test_another_distribution_that_is_editable_is_followed(place, tmp_path, monkeypatch):
    project = write(tmp_path / "project", {"library.py": "class Base:\n    pass\n"})
    monkeypatch.syspath_prepend(str(project))
    write(place, {"user.py": "from library import Base\nclass Kind(Base):\n    pass\n"})
    install(place, "library", "1.5", "library", ["library.pth"], project.as_uri())
    assert set(method_code(imported("user"))) == {"user.py", "library.py", "dist library"}


def test_a_file_with_the_name_of_an_installed_module_is_told_from_it(place):
    write(place, {"user.py": "import yaml\nclass Kind:\n    pass\n", "yaml.py": ""})
    importlib.invalidate_caches()
    real = sys.modules.pop("yaml")
    try:
        assert set(method_code(imported("user"))) == {"user.py", "yaml.py"}
    finally:
        sys.modules["yaml"] = real


def test_a_base_among_the_built_in_methods_counts_with_its_file(place):
    source = "from bench.methods.mean import Mean\nclass Kind(Mean):\n    pass\n"
    write(place, {"meaner.py": source})
    kind = imported("meaner")
    assert set(method_code(kind)) == {"meaner.py", "bench/methods/mean.py", "dist numpy"}
    assert "bench.api:Method" in harness_imports(kind)


def test_a_file_given_by_its_path_counts_with_the_files_beside_it(tmp_path):
    write(
        tmp_path,
        {
            "by_path.py": "class Kind:\n    def fit(self):\n        import beside\n",
            "beside.py": "x = 1\n",
            "other.txt": "",
        },
    )
    spec = importlib.util.spec_from_file_location("statistics_of_mine", tmp_path / "by_path.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kind = module.Kind  # not in sys.modules
    assert set(method_code(kind)) == {"statistics_of_mine.py", "beside.py"}
    assert changes(kind, tmp_path / "beside.py", "x = 2\n") == {"beside.py"}


def test_a_class_of_a_notebook_counts_with_its_cell(monkeypatch):
    def cell(text):
        name = f"/nowhere/ipykernel/{len(text)}.py"
        monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(True), name))
        scope = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), scope)
        return scope["Kind"]

    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    source = (
        "class Kind:\n    def fit(self):\n        import numpy\n"
        "        from bench.api import Context\n        return 1\n"
    )
    kind = cell(source)
    assert set(method_code(kind)) == {"__main__.Kind", "dist numpy"}
    assert harness_imports(kind) == {"bench.api:Context"}
    same, other = cell(source.replace("1", "1  # why")), cell(source.replace("1", "100"))
    assert method_code(same) == method_code(kind)
    assert method_code(other) != method_code(kind)


@pytest.mark.parametrize("module", ["__main__", "builtins", "never_heard_of"])
def test_a_class_without_a_source_is_refused(monkeypatch, module):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    scope = {"__name__": module}
    exec("class Kind:\n    def fit(self):\n        pass\n", scope)
    with pytest.raises(BenchError, match="source of class Kind cannot be found") as caught:
        method_code(scope["Kind"])
    assert "\n" not in str(caught.value)


# The project itself


METHODS = sorted(name for name, found in find_methods().items() if found.source == "built-in")
NOT_IN_A_FIT = (
    "bench.cli", "bench.report", "bench.evaluate", "bench.tracking", "bench.tune",
    "bench.execute.plan", "bench.fetch", "bench.data.card", "bench.data.section",
    "bench.registry", "bench.store",
)  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_closure_of_a_method_is_what_a_fit_runs_through(name):
    closure = import_closure([f"bench.methods.{name}"])
    assert [module for module in closure if module.startswith(NOT_IN_A_FIT)] == []
    assert not {"bench", "bench.api"} & set(closure)
    assert {"bench.method", "bench.data.inputs", f"bench.methods.{name}"} <= set(closure)
    others = {module.split(".")[2] for module in closure if module.startswith("bench.methods.")}
    assert others == {name}


def test_the_closures_of_two_methods_are_as_expected():
    mean = import_closure(["bench.methods.mean"])
    assert not any(module.startswith(("bench.blocks", "bench.training")) for module in mean)
    closure = import_closure(["bench.methods.mclstexp"])
    assert set(closure) > {
        *("bench.methods.mclstexp.network", "bench.training.module", "bench.training.fitting"),
        *("bench.training.network_method", "bench.training.retrieval_method"),
        *("bench.blocks.retrieval", "bench.blocks.weights"),
    }
    assert "bench.blocks.graph" not in closure
    assert "bench.blocks.retrieval" not in import_closure(["bench.methods.stnet"])


@pytest.mark.parametrize("name", METHODS)
def test_the_code_of_a_built_in_method_is_its_own_files(name):
    kind = method_class(name)
    code = method_code(kind)
    closure = import_closure([f"bench.methods.{name}"])
    assert {"dist numpy", "dist torch"} & set(code)
    assert "dist spotbench" not in code
    files = {path for path in code if not path.startswith("dist ")}
    assert all(path.startswith(f"bench/methods/{name}") for path in files)
    # What the harness gives to it, and its own files, are all that it imports.
    given = set(import_closure(harness_imports(kind)))
    own = {module for module in closure if module.startswith("bench.methods")}
    assert given == set(closure) - own
    assert len(files) == len(own) - 1


def test_a_reader_is_hashed_with_what_it_imports():
    closure = import_closure(["bench.datasets.legacy_st", "bench.data.section"])
    assert {"bench.data.reading.parsing", "bench.data.card"} <= set(closure)
    assert not any(module.startswith("bench.fetch") for module in closure)
    assert Path(closure["bench.datasets.legacy_st"]).name == "legacy_st.py"
