"""``bench import-weights``: a released checkpoint becomes a run, or one line says why not."""

from __future__ import annotations

import json
import os

import anndata
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.errors import DataError
from bench.execute.checkpoints import checkpoints_by_fold
from tests.cli.tiny_dataset import assert_nothing_half_written, assert_refused

SETTINGS = ("--preset", "tiny", "--device", "cpu", "--tracking", "none", "--folds", "0")


def scores(results, label):
    (path,) = results.glob(f"runs/*/*/{label}-*/fold-0/scores.parquet")
    import pandas as pd

    return pd.read_parquet(path).drop(columns="method")


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory, bench):
    """Results of a run of the methods, and their networks' tensors."""
    results = tmp_path_factory.mktemp("trained")
    done = bench(
        *("run", "-m", "stnet,mclstexp,triplex", *tiny.options, *tiny.quick_protocol, *SETTINGS),
        *("--results", results),
    )
    assert done.status == 0, done.stderr
    states = {}
    for method in ("stnet", "mclstexp", "triplex"):
        (path,) = results.glob(f"runs/*/*/{method}-*/fold-0/model/network.safetensors")
        states[method] = load_file(path)
    return results, states


@pytest.fixture
def import_weights(tiny, bench, results):
    def call(checkpoint, method="stnet", *more):
        return bench(
            *("import-weights", "--method", method, *tiny.where, *tiny.quick_protocol),
            *("--checkpoint", checkpoint, "--results", results, *SETTINGS, *more),
        )

    return call


def parallel(state):
    return {f"module.{name}": value for name, value in state.items()}


def lightning(state):
    return {"epoch": 3, "state_dict": state, "optimizer_states": [], "loops": {"x": 1}}


@pytest.mark.parametrize(
    ("method", "wrapped"),
    [
        ("stnet", dict),
        ("mclstexp", dict),
        ("stnet", parallel),
        ("stnet", lightning),
        ("triplex", lightning),
    ],
)
def test_a_checkpoint_scores_as_the_fit_it_was_taken_from(
    trained, import_weights, results, tmp_path, method, wrapped
):
    torch.save(wrapped(trained[1][method]), tmp_path / "best.pt")
    done = import_weights(tmp_path / "best.pt", method, "--json")
    assert done.status == 0, done.stderr
    table = json.loads(done.stdout)
    assert [row["method"] for row in table["rows"]] == [f"released:{method}"]
    assert any("not trained here but read from best.pt" in note for note in table["footnotes"])
    fitted, imported = scores(trained[0], method), scores(results, f"released-{method}")
    assert imported.equals(fitted)


def test_an_imported_run_stands_in_the_table_beside_others(
    tiny, bench, trained, import_weights, results, tmp_path
):
    torch.save(trained[1]["stnet"], tmp_path / "best.pt")
    assert import_weights(tmp_path / "best.pt").status == 0
    run = bench(
        *("run", "-m", "mean", *tiny.options, *tiny.quick_protocol, "--folds", "0"),
        *("--tracking", "none", "--results", results),
    )
    assert run.status == 0
    done = bench("tables", "--dataset", "tiny", "--results", results, "--format", "json")
    assert {row["method"] for row in json.loads(done.stdout)["rows"]} == {"mean", "released:stnet"}


@pytest.mark.slow
def test_another_file_is_another_run_and_the_same_is_kept(
    trained, import_weights, results, tmp_path
):
    state = trained[1]["stnet"]
    torch.save(state, tmp_path / "best.pt")
    first = import_weights(tmp_path / "best.pt")
    again = import_weights(tmp_path / "best.pt")
    assert first.status == again.status == 0
    assert len(list(results.glob("runs/*/*/released-stnet-*"))) == 1
    changed = {**state, "classifier.bias": state["classifier.bias"] + 1}
    torch.save(changed, tmp_path / "best.pt")
    assert import_weights(tmp_path / "best.pt").status == 0
    assert len(list(results.glob("runs/*/*/released-stnet-*"))) == 2


@pytest.mark.parametrize("form", ["pattern", "folder"])
def test_one_checkpoint_a_fold_makes_one_run(
    tiny, bench, trained, results, tmp_path, monkeypatch, form
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "seed2021"
    folder.mkdir()
    state = trained[1]["stnet"]
    for fold in range(3):
        changed = {**state, "classifier.bias": state["classifier.bias"] + fold}
        torch.save(changed, folder / f"best_{fold}-epoch=07.pt")
    checkpoint = {"pattern": "seed2021/best_{fold}-epoch=07.pt", "folder": "seed2021"}[form]
    call = ("import-weights", "--method", "stnet", *tiny.where, *tiny.quick_protocol)
    call += ("--checkpoint", checkpoint, "--results", results, *SETTINGS[:-2], "--json")
    done = bench(*call)
    assert done.status == 0, done.stderr
    table = json.loads(done.stdout)
    ((label, folds),) = [(row["method"], row["folds"]) for row in table["rows"]]
    assert (label, folds) == ("released:stnet", 3)
    note = "read from best_0-epoch=07.pt to best_2-epoch=07.pt"
    assert any(note in footnote for footnote in table["footnotes"])
    (run,) = results.glob("runs/*/*/released-stnet-*")
    first = anndata.read_h5ad(run / "fold-0" / "predictions.h5ad").X
    (own,) = trained[0].glob("runs/*/*/stnet-*/fold-0/predictions.h5ad")
    np.testing.assert_array_equal(first, anndata.read_h5ad(own).X)
    biases = [
        load_file(run / f"fold-{fold}" / "model" / "network.safetensors")["classifier.bias"]
        for fold in range(3)
    ]
    for fold, bias in enumerate(biases):
        torch.testing.assert_close(bias, state["classifier.bias"] + fold)
    (folder / "best_1-epoch=07.pt").unlink()
    refused = bench(*call)
    assert_refused(refused, "no checkpoint of fold 1; choose others with --folds")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["best_0.pt", "best_1.pt", "best_2.pt"], [0, 1, 2]),
        (["f2-e10.ckpt", "f0-e10.ckpt", "f1-e11.ckpt", "log.txt"], [0, 1, 2]),
        (["fold1/x.pt"], "holds no checkpoint"),
        (["best_1.pt", "best_2.pt", "best_3.pt"], "do not tell their folds, which are 0 to 2"),
        (["0-1.pt", "1-0.pt"], "do not tell their folds"),
        (["best.pt"], "do not tell their folds"),
    ],
)
def test_folds_are_read_off_the_names_or_refused(tmp_path, names, wanted):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if isinstance(wanted, str):
        with pytest.raises(DataError, match=wanted):
            checkpoints_by_fold(tmp_path, [0, 1, 2])
    else:
        assert sorted(checkpoints_by_fold(tmp_path, [0, 1, 2])) == wanted


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def damaged_checkpoints(state, marker):
    fewer, longer = dict(state), {**state, "classifier.weight": torch.zeros(41, 512)}
    del fewer["classifier.bias"]
    features = state["classifier.weight"].shape[1]
    return {
        "another method": ({"gene_head.1.weight": torch.zeros(40, 4)}, "classifier.weight"),
        "a tensor missing": (fewer, "missing, first 'classifier.bias'"),
        "a tensor too many": ({**state, "extra": torch.zeros(1)}, "unexpected tensors"),
        "another shape": (longer, "'classifier."),
        "another panel": (
            {
                **state,
                "classifier.weight": torch.zeros(41, features),
                "classifier.bias": torch.zeros(41),
            },
            "of 41 genes, the panel of this fold has 40",
        ),
        "code": ({**state, "x": RunsCode(marker)}, "more than tensors"),
        "no tensors": ({"epoch": 3}, "not a tensor"),
        "a claim": (
            {**state, "classifier.bias": torch.zeros(1).expand(10**12)},
            "larger than what the file holds",
        ),
        "not finite": (
            {**state, "classifier.bias": torch.full((40,), float("nan"))},
            "not finite",
        ),
    }


NAMES = list(
    damaged_checkpoints({"classifier.weight": torch.zeros(1, 1), "classifier.bias": 0}, "")
)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "not finite"])
def test_a_damaged_or_foreign_checkpoint_is_refused_in_one_line(
    trained, import_weights, results, tmp_path, name
):
    marker = tmp_path / "ran"
    content, words = damaged_checkpoints(trained[1]["stnet"], marker)[name]
    torch.save(content, tmp_path / "bad.pt")
    assert_refused(import_weights(tmp_path / "bad.pt"), words, lines=None)
    assert not marker.exists()
    assert_nothing_half_written(results)


def test_weights_that_are_not_finite_fail_their_fold(trained, import_weights, tmp_path):
    content, words = damaged_checkpoints(trained[1]["stnet"], "")["not finite"]
    torch.save(content, tmp_path / "bad.pt")
    done = import_weights(tmp_path / "bad.pt")
    assert done.status == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("mean", "no released checkpoints"),
        ("depth", "belongs to a method"),
        ("shuffled:stnet", "belongs to a method"),
        ("stnett", "did you mean stnet"),
    ],
)
def test_what_has_no_checkpoint_is_refused(import_weights, tmp_path, method, words):
    torch.save({"a": torch.zeros(1)}, tmp_path / "some.pt")
    assert_refused(import_weights(tmp_path / "some.pt", method), words, lines=None)


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint", b"\x80\x04."])
def test_a_file_that_is_no_checkpoint_is_refused(import_weights, tmp_path, content):
    path = tmp_path / "some.pt"
    if content is not None:
        path.write_bytes(content)
    assert_refused(import_weights(path), str(path), lines=None)
