"""Results of two controls on the tiny dataset, and the archive of them."""

from __future__ import annotations

import shutil

import pytest

from tests.cli.tiny_dataset import call, write_tiny_dataset


@pytest.fixture(scope="session")
def shared_tiny(tmp_path_factory):
    """The tiny dataset; not to be changed."""
    return write_tiny_dataset(tmp_path_factory.mktemp("shared") / "tiny")


@pytest.fixture(scope="session")
def shared_results(shared_tiny, tmp_path_factory):
    """A results folder of two controls and an oracle; not to be changed."""
    folder = tmp_path_factory.mktemp("shared-results") / "results"
    arguments = ("run", "--method", "mean,coordinates,depth", *shared_tiny.options)
    more = (*shared_tiny.quick_protocol, "--tracking", "none", "--results", folder)
    answer = call(*arguments, *more)
    assert answer.status == 0, answer.stderr
    return folder


@pytest.fixture
def own_results(shared_results, tmp_path):
    """A copy that the test may change."""
    shutil.copytree(shared_results, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture(scope="session")
def archive(shared_results, tmp_path_factory):
    """The archive of these results."""
    path = tmp_path_factory.mktemp("archive") / "lab.spotbench.zip"
    answer = call("export", "--results", shared_results, "--out", path)
    assert answer.status == 0, answer.stderr
    return path
