"""A stored number depends on what its keys say, and on nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.cli.tiny_dataset import call_process, write_plugin

REPOSITORY = Path(__file__).resolve().parents[2]


def outcome(answer):
    """What became of each job, by its name."""
    assert answer.status == 0, answer.stderr
    lines = re.findall(r"^(\S+) fold (\d): (kept|scored again|done)", answer.stderr, re.MULTILINE)
    return {(name, int(fold)): what for name, fold, what in lines}


@pytest.fixture
def run(bench, tiny, results):
    """Runs methods on the first fold; gives what became of each job."""

    def call(methods, *options):
        more = ("--tracking", "none", "--folds", "0", "--results", results)
        return outcome(bench("run", "--method", methods, *tiny.options, *more, *options))

    return call


def test_a_second_source_file_of_a_plugin_counts(plugins, run):
    (plugins / "second_network.py").write_text("SCALE = 1.0\n")
    fit = "import second_network\nfor s in data.sections: second_network.SCALE"
    write_plugin(plugins, "two_files", fit=fit)
    assert run("two_files") == {("two_files", 0): "done"}
    assert run("two_files") == {("two_files", 0): "kept"}
    (plugins / "second_network.py").write_text('"""Says more."""\nSCALE = 1.0  # as ever\n')
    assert run("two_files") == {("two_files", 0): "kept"}
    (plugins / "second_network.py").write_text("SCALE = 2.0\n")
    assert run("two_files") == {("two_files", 0): "done"}


def test_the_version_of_a_plugin_counts(plugins, run):
    write_plugin(plugins, "versioned")
    assert run("versioned") == {("versioned", 0): "done"}
    metadata = plugins / "plugin_versioned-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0\n", "Version: 1.1\n"))
    assert run("versioned") == {("versioned", 0): "done"}


def test_a_base_class_of_a_plugin_counts(plugins, run):
    base = "class Base:\n    share = {share}\n"
    (plugins / "plugin_base.py").write_text(base.format(share=1))
    write_plugin(plugins, "derived", before="from plugin_base import Base", fit="Base.share")
    source = plugins / "plugin_derived.py"
    source.write_text(
        source.read_text().replace("class Plugin(Method)", "class Plugin(Base, Method)")
    )
    assert run("derived") == {("derived", 0): "done"}
    (plugins / "plugin_base.py").write_text(base.format(share=2))
    assert run("derived") == {("derived", 0): "done"}
    assert run("derived") == {("derived", 0): "kept"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_setting_counts_by_the_content_of_its_file_or_folder(kind, plugins, run, tmp_path):
    source = write_plugin(plugins, "reads", before="from bench.api import MethodConfig")
    module = source / "plugin_reads.py"
    config = "class Config(MethodConfig):\n    where: str = ''\n\n\n"
    plugin = "class Plugin(Method):\n    Config = Config\n"
    module.write_text(module.read_text().replace("class Plugin(Method):\n", config + plugin))
    place = tmp_path / "weights"
    file = place / "sub" / "part.bin" if kind == "folder" else place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"one")
    options = ("--set", f"where={place}")
    assert run("reads", *options) == {("reads", 0): "done"}
    assert run("reads", *options) == {("reads", 0): "kept"}
    file.write_bytes(b"two")
    assert run("reads", *options) == {("reads", 0): "done"}


def test_another_seed_precision_or_setting_is_another_fit(run):
    assert run("coordinates") == {("coordinates", 0): "done"}
    assert run("coordinates", "--seed", "1") == {("coordinates", 0): "done"}
    assert run("coordinates", "--set", "neighbours=3") == {("coordinates", 0): "done"}
    # The precision is of image encoders, which this method has not.
    assert run("coordinates", "--precision", "float32") == {("coordinates", 0): "kept"}


# ------------------------------------------------------- edits of the package, in a copy of it


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package as a wheel has it, to be edited."""
    folder = tmp_path_factory.mktemp("package")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "bench", folder / "bench", ignore=ignore)
    shutil.copytree(REPOSITORY / "methods", folder / "bench" / "methods", ignore=ignore)
    shutil.copytree(REPOSITORY / "datasets", folder / "bench" / "datasets", ignore=ignore)
    published = folder / "bench" / "published"
    shutil.copytree(REPOSITORY / "results" / "published", published, ignore=ignore)
    return folder


@pytest.fixture
def run_copy(package, tiny, results):
    """Runs methods by the copy of the package; gives what became of each job."""

    def call(methods="coordinates,mean,knn"):
        options = ("--tracking", "none", "--folds", "0", "--results", results, "--preset", "tiny")
        where = (*tiny.where, "--method", methods)
        # Without the working folder, whose own package would come first.
        return outcome(call_process("run", *where, *options, path=package, program=PROGRAM))

    return call


PROGRAM = ("-P", "-m", "bench")
JOBS = {("coordinates", 0), ("mean", 0), ("knn", 0), ("depth", 0)}


@pytest.mark.slow
def test_comments_and_docstrings_anywhere_change_nothing(run_copy, package):
    assert run_copy() == dict.fromkeys(JOBS, "done")
    for path in (package / "bench").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        docstring = re.sub(r'\A"""', '"""Once more: ', text)
        path.write_text(f"# a comment\n{docstring}\n\n# another\n", encoding="utf-8")
    assert run_copy() == dict.fromkeys(JOBS, "kept")


@pytest.mark.slow
def test_a_new_score_is_computed_from_stored_predictions(run_copy, package):
    first = run_copy()
    assert set(first) == JOBS
    scoring = package / "bench" / "execute" / "scoring.py"
    text = scoring.read_text()
    scoring.write_text(
        text.replace(
            "        add(scores, truth", "        scores['new'] = 1.0\n        add(scores, truth"
        )
    )
    assert scoring.read_text() != text
    assert run_copy() == dict.fromkeys(JOBS, "scored again")
    assert run_copy() == dict.fromkeys(JOBS, "kept")


@pytest.mark.slow
def test_code_that_a_fit_runs_through_redoes_it(run_copy, package):
    run_copy()
    mean = package / "bench" / "methods" / "mean.py"
    mean.write_text(mean.read_text().replace("(len(slide), 1)", "(len(slide) + 0, 1)"))
    after = run_copy()
    assert after.pop(("mean", 0)) == "done"
    assert set(after.values()) == {"kept"}
    fitting = package / "bench" / "worker" / "fitting.py"
    fitting.write_text(fitting.read_text().replace("task.seed % 2**32", "(task.seed + 0) % 2**32"))
    after = run_copy()
    assert after.pop(("depth", 0)) == "kept"
    assert set(after.values()) == {"done"}
    fetching = package / "bench" / "fetch" / "archives.py"
    fetching.write_text(fetching.read_text() + "\nADDED = 1\n")
    tables = package / "bench" / "report" / "tables.py"
    tables.write_text(tables.read_text() + "\nADDED = 1\n")
    assert set(run_copy().values()) == {"kept"}
