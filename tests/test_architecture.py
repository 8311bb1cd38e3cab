"""Rules of the layout, checked on the source and on what an import pulls in."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {
    "bench": REPOSITORY / "bench",
    "bench.methods": REPOSITORY / "methods",
    "bench.datasets": REPOSITORY / "datasets",
    "benchmarks": REPOSITORY / "benchmarks",
}
HEAVY = ("torch", "lightning", "mlflow", "scanpy", "anndata", "pandas", "sklearn", "timm")
METHODS = sorted(
    path.stem
    for path in PACKAGES["bench.methods"].iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
)

# Calls that write a file, wherever they stand.
WRITING = {
    "write_text", "write_bytes", "to_parquet", "to_pickle", "to_excel", "to_feather", "to_hdf",
    "write_h5ad", "write_zarr", "savefig", "savez", "savez_compressed", "savetxt", "save_file",
    "tofile", "copyfile", "copy2", "copytree",
}  # fmt: skip
# 'save' and 'dump' write a file unless they are called on one of our own objects.
WRITING_OF = {
    ("np", "save"), ("numpy", "save"), ("torch", "save"), ("json", "dump"), ("pickle", "dump"),
    ("yaml", "dump"), ("yaml", "safe_dump"), ("pq", "write_table"),
    ("shutil", "copy"), ("shutil", "move"),
}  # fmt: skip
# Function and call that write outside of a 'with atomic_write', and why that is right.
EXCEPTIONS = {
    ("benchmarks/sharing.py", "_variant", "to_parquet"): "into memory",
    ("bench/data/images/patches.py", "_cut_into", "open_memmap"): "inside cut's atomic_write",
    ("bench/data/images/patches.py", "_cut_into", "open"): "inside cut's atomic_write",
    ("bench/prediction/bundle_writing.py", "_as_bytes", "savez"): "into memory",
    ("bench/prediction/bundle_writing.py", "_card_text", "safe_dump"): "into memory",
    ("bench/sharing/importing.py", "_land", "open"): "into a folder that is moved when complete",
    ("bench/staging.py", "write_staged", "open"): "into a folder that is moved when complete",
    ("bench/worker/memory.py", "reset_peak_memory", "open"): "a switch of the kernel, no file",
    ("bench/worker/memory.py", "reset_peak_memory", "write"): "a switch of the kernel, no file",
    ("bench/worker/fitting.py", "_write", "save"): "into a folder that is read after the job alone",
    ("bench/worker/handover.py", "write", "save"): "into a folder of this process",
}


def sources(package):
    folder = PACKAGES[package]
    return [
        path
        for path in sorted(folder.rglob("*.py"))
        if not (package == "bench" and {"methods", "datasets"} & set(path.parts[-3:]))
    ]


ALL_SOURCES = [path for package in PACKAGES for path in sources(package)]


def relative(path):
    return path.relative_to(REPOSITORY).as_posix()


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def opens_for_writing(call):
    """Whether a call of something named open has a mode that writes, or one that is not plain."""
    modes = [k.value for k in call.keywords if k.arg == "mode"] or call.args[1:2]
    if isinstance(call.func, ast.Attribute) and not isinstance(call.func.value, ast.Name):
        modes = [k.value for k in call.keywords if k.arg == "mode"] or call.args[:1]
    if not modes:
        return False
    mode = modes[0]
    return not (isinstance(mode, ast.Constant) and not set(str(mode.value)) & set("wax+"))


def is_writing(call):
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = function.value if isinstance(function, ast.Attribute) else None
    if name in WRITING:
        return True
    if name in {"open_memmap", "memmap"}:
        modes = [k.value for k in call.keywords if k.arg == "mode"]
        return not (modes and isinstance(modes[0], ast.Constant) and modes[0].value in {"r", "c"})
    if name == "open" and not (isinstance(owner, ast.Name) and owner.id in {"os", "Image"}):
        return opens_for_writing(call)
    if name == "File" and any(isinstance(a, ast.Constant) and a.value == "w" for a in call.args):
        return True
    if name == "to_csv" and (call.args or any(k.arg == "path_or_buf" for k in call.keywords)):
        return True
    return isinstance(owner, ast.Name) and (owner.id, name) in WRITING_OF


def is_atomic(item):
    call = item.context_expr
    if not isinstance(call, ast.Call):
        return False
    # A new entry of a cache is written through atomic_write.
    return getattr(call.func, "id", "") == "atomic_write" or (
        getattr(call.func, "attr", "") == "new_entry"
    )


def unprotected_writes(tree):
    """(function, call, line) of what writes a file outside of a 'with atomic_write' block."""
    found = []

    def walk(node, function, protected):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function, protected = node.name, False
        if isinstance(node, ast.With) and any(map(is_atomic, node.items)):
            protected = True
        if isinstance(node, ast.Call) and is_writing(node) and not protected:
            name = getattr(node.func, "attr", None) or node.func.id
            found.append((function, name, node.lineno))
        for child in ast.iter_child_nodes(node):
            walk(child, function, protected)

    walk(tree, "", False)
    return found


@pytest.mark.parametrize("path", ALL_SOURCES, ids=relative)
def test_files_are_written_through_atomic_write_alone(path):
    writes = [
        f"{relative(path)}:{line}: {name} in {function or 'module'}"
        for function, name, line in unprotected_writes(parsed(path))
        if (relative(path), function, name) not in EXCEPTIONS
    ]
    assert writes == []


@pytest.mark.parametrize(
    ("source", "writes"),
    [
        ("open(p, 'w')", True),
        ("open(p, mode='ab')", True),
        ("open(p, 'r+')", True),
        ("open(p, mode)", True),
        ("p.with_suffix('x').open('w')", True),
        ("gzip.open(p, 'wt')", True),
        ("np.save(p, a)", True),
        ("open_memmap(p, mode='w+')", True),
        ("np.memmap(p)", True),
        ("open_memmap(p, mode='r')", False),
        ("p.write_text('x')", True),
        ("table.to_csv(p)", True),
        ("with atomic_write(p) as t:\n    def f(): open(t, 'w')", True),
        ("with open(q) as s, other(p) as t:\n    t.write_bytes(b'')", True),
        ("open(p)", False),
        ("open(p, 'rb')", False),
        ("table.to_csv(sep=',')", False),
        ("method.save(folder)", False),
        ("with atomic_write(p) as t:\n    t.write_text('x')", False),
        ("with CACHE.new_entry(key) as t:\n    t.write_text('x')", False),
        ("with atomic_write(p) as t:\n    with open(t, 'wb') as s: np.save(s, a)", False),
    ],
)
def test_the_search_for_writes_finds_them(source, writes):
    assert bool(unprotected_writes(ast.parse(source))) == writes


def private_imports(tree):
    """Private names that a module imports from another one of ours, as 'module.name'."""
    return [
        f"{node.module or ''}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.level or is_ours(node.module))
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]


def is_ours(module):
    return module == "bench" or module.startswith("bench.")


@pytest.mark.parametrize("path", ALL_SOURCES, ids=relative)
def test_a_private_name_stays_in_its_module(path):
    assert private_imports(parsed(path)) == []


def test_the_search_for_private_names_finds_them():
    source = (
        "from bench.store import _hash, read_record\n"
        "def f():\n    from . import _inner\n"
        "from bench.version import __version__\n"
        "from mlflow.store import _upgrade\n"
    )
    assert private_imports(ast.parse(source)) == ["bench.store._hash", "._inner"]


@pytest.mark.parametrize("path", sources("bench"), ids=relative)
def test_the_harness_loads_no_method_and_no_dataset_by_a_literal_name(path):
    literals = {
        node.value
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    prefixes = ("bench.methods.", "bench.datasets.")
    # A prefix alone, to which a registered name is added, is how they are found.
    assert [text for text in literals if text.startswith(prefixes) and text not in prefixes] == []


def test_no_two_classes_share_a_name():
    names = Counter(
        node.name
        for path in ALL_SOURCES
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, number in names.items() if number > 1] == []


def test_the_sources_are_those_of_the_whole_project():
    names = {relative(path) for path in ALL_SOURCES}
    assert {"bench/cli/running.py", "bench/evaluate/metrics.py", "methods/mean.py"} <= names
    assert "datasets/legacy_st.py" in names
    assert {"mean", "coordinates", "mclstexp"} <= set(METHODS)


def loaded_by(program):
    """Heavy libraries that a program, run in a new interpreter, leaves imported."""
    listing = f"{program}\nimport sys\nprint('|'.join(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [name for name in done.stdout.splitlines()[-1].split("|") if name], done.stdout


def called(arguments):
    return (
        "import sys\n"
        f"sys.argv = ['bench', *{arguments}]\n"
        "from bench.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
    )


@pytest.mark.parametrize(
    "program",
    [
        "import bench",
        "import bench.api",
        "import bench.readers",
        "import bench.cli",
        "import bench.registry; bench.registry.find_methods()",
    ],
)
def test_importing_the_front_doors_is_light(program):
    assert loaded_by(program)[0] == []


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["--help"], "run"), (["list"], "her2st"), (["run", "--help"], "--method")],
)
def test_listing_and_help_are_light(arguments, shown):
    heavy, output = loaded_by(called(arguments))
    assert heavy == []
    assert shown in output


def test_importing_the_methods_is_light_and_none_imports_another():
    for_each = "\n".join(
        f"import bench.methods.{name}\n"
        "new = {m.split('.')[2] for m in sys.modules if m.startswith('bench.methods.')}\n"
        f"assert new == {{{name!r}}}, new\n"
        "for m in [m for m in sys.modules if m.startswith('bench.methods.')]: del sys.modules[m]\n"
        f"assert 'torch' not in sys.modules, {name!r}"
        for name in METHODS
    )
    assert loaded_by(f"import sys\n{for_each}")[0] == []


def test_the_search_for_heavy_libraries_finds_them():
    assert "pandas" in loaded_by("import bench.evaluate.section")[0]
