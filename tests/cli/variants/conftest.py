"""Datasets and calls that tests of runs over seeds, datasets and training patients share."""

from __future__ import annotations

import pytest

from tests.cli.tiny_dataset import (
    write_tiny_dataset,
)
from tests.cli.variants.made import make_other


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """A second dataset, of patients X and Y; not to be changed."""
    return make_other(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="session")
def larger(tmp_path_factory):
    """A dataset of five patients with a section each; not to be changed."""
    return write_tiny_dataset(tmp_path_factory.mktemp("larger"), "larger", list("ABCDE"))


@pytest.fixture
def run(bench, tiny, results):
    """Runs on the tiny dataset in this process, without tracking."""

    def call(*arguments, method="mean", options=(), folder=results):
        always = ("--tracking", "none", "--results", folder, "--method", method)
        return bench("run", *(options or tiny.options), *always, *arguments)

    return call


@pytest.fixture
def on_other(run, other):
    """Runs a method fitted on the tiny dataset on the other one."""
    where = ("--test-dataset", other.card, "--test-data-root", other.root)
    return lambda *arguments, **changes: run(*where, *arguments, **changes)
