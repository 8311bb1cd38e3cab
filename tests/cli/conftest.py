"""Fixtures for the commands: a tiny dataset, and two ways to call ``bench``."""

from __future__ import annotations

import pytest

from bench.worker.process import start_server
from tests.cli import tiny_dataset


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny dataset; not to be changed."""
    return tiny_dataset.write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def damaged(tiny, tmp_path):
    """A copy of the tiny dataset that the test may damage."""
    return tiny.copy(tmp_path / "damaged")


@pytest.fixture
def results(tmp_path):
    """A results folder that does not exist yet."""
    return tmp_path / "results"


@pytest.fixture(scope="session")
def bench():
    """Calls a command in this process; gives status, stdout, stderr."""
    start_server(networks=True)  # once for all tests, whichever comes first
    return tiny_dataset.call


@pytest.fixture(scope="session")
def bench_process():
    """Calls a command in a process of its own; gives status, stdout, stderr."""
    return tiny_dataset.call_process


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A folder of installed plugins that this process and its children import from."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return folder


@pytest.fixture(scope="module")
def run_together(tiny, bench, tmp_path_factory):
    """Runs plugins and one more method on one fold, in one call; gives answer and scores."""

    def run(statements, other, *options):
        folder = tmp_path_factory.mktemp("together")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            patch.setattr("sys.dont_write_bytecode", True)
            for name, statement in statements.items():
                tiny_dataset.write_plugin(folder, name, **statement)
            more = ("--tracking", "none", "--folds", "0", "--results", folder / "results")
            methods = ",".join([*statements, other])
            answer = bench("run", "--method", methods, *tiny.options, *more, *options)
        return answer, tiny_dataset.scores_of(folder / "results")

    return run


@pytest.fixture(scope="module")
def one_thread():
    """Torch on one thread: what is computed here is too small to share out."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def options(tiny, results):
    """Options after ``bench run`` that choose dataset, results folder, and no tracking."""
    return (*tiny.options, "--tracking", "none", "--results", results)


@pytest.fixture
def run(bench, options):
    """Runs methods on the tiny dataset in this process."""
    return lambda method, *more: bench("run", "--method", method, *options, *more)
