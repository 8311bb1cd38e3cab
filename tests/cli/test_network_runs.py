"""Runs of a network and of its twin on permuted images."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from tests.cli.tiny_dataset import (
    TINY_NETWORK,
    rows_of,
    scores_of,
)

ROW = "mclstexp[lcnet_050]"
"""Row of the network of TINY_NETWORK."""


@pytest.fixture(scope="module")
def network(tmp_path_factory, tiny, bench, one_thread):
    """Results folder of mclstexp and its shuffled twin on fold 0, and the call's JSON."""
    folder = tmp_path_factory.mktemp("network") / "results"
    arguments = ("run", "--method", "mclstexp,shuffled", *tiny.options, *TINY_NETWORK)
    arguments += ("--folds", "0", "--tracking", "none", "--results", folder, "--json")
    return folder, bench(*arguments)


@pytest.fixture
def run_network(run):
    """Runs methods with the settings of `network`."""
    return lambda methods, *more: run(methods, *TINY_NETWORK, "--folds", "0", "--json", *more)


def test_shuffled_is_the_twin_of_the_method_beside_it(network):
    rows = rows_of(network[1])
    assert set(rows) == {ROW, f"shuffled:{ROW}"}
    assert rows[f"shuffled:{ROW}"]["kind"] == "control"
    assert rows[ROW]["kind"] == "method"
    scores = scores_of(network[0])
    assert scores[f"{ROW}/fold-0"] != scores[f"shuffled-{ROW}/fold-0"]


def test_network_gives_the_same_bits_in_another_folder(network, run_network, results):
    assert run_network("mclstexp").status == 0
    name = f"{ROW}/fold-0"
    assert scores_of(results)[name] == scores_of(network[0])[name]
    weights = [
        next(folder.glob("runs/*/*/mclstexp*/fold-0/model/network.safetensors")).read_bytes()
        for folder in (network[0], results)
    ]
    assert weights[0] == weights[1]


def test_twin_is_the_same_with_a_fit_of_its_own(network, run_network, results):
    rows = rows_of(run_network("shuffled:mclstexp"))
    assert set(rows) == {f"shuffled:{ROW}"}
    name = f"shuffled-{ROW}/fold-0"
    assert scores_of(results)[name] == scores_of(network[0])[name]


def test_network_records_curves_and_model(network):
    folder = next(network[0].glob("runs/*/*/mclstexp*/fold-0"))
    curves = pd.read_parquet(folder / "curves.parquet")
    assert list(curves["epoch"]) == [0.0]
    assert np.isfinite(curves["train_loss"]).all()
    assert {path.name for path in (folder / "model").iterdir()} == {
        *("network.safetensors", "bank.npz")
    }
    assert not (folder / "scratch").exists()


def test_mixed_presets_are_told_apart(network, tiny, bench):
    results, _ = network
    settings = ("encoder=lcnet_050", "weights=none", "epochs=1", "input_size=32", "patch_size=32")
    pairs = [part for setting in settings for part in ("--set", setting)]
    arguments = ("run", "--method", "mclstexp", *tiny.options, "--preset", "authors", *pairs)
    arguments += ("--device", "cpu", "--folds", "0", "--tracking", "none", "--results", results)
    assert bench(*arguments).status == 0
    printed = bench("tables", "--dataset", "tiny", "--results", results)
    assert printed.status == 0
    rows = [line.split() for line in printed.stdout.splitlines() if line.startswith("  mclstexp")]
    assert sorted(row[1] for row in rows) == ["authors*", "quick*"]
    told = " ".join(printed.stdout.split())  # notes are broken into lines
    assert re.search(r"\d+\. Preset quick: [^.]*not comparable", told)
