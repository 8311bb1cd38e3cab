"""A submission is checked by itself, by the data here, and by the contract of its methods."""

from __future__ import annotations

import io
import json

import anndata
import pandas as pd
import pytest

from bench.protocol.rules import STRICT
from tests.cli.tiny_dataset import assert_refused, call, write_tiny_dataset
from tests.sharing.archives import edited, members, sealed, written


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """Results of a control under the strict protocol, with predictions, and their dataset."""
    folder = tmp_path_factory.mktemp("submission")
    tiny = write_tiny_dataset(folder / "tiny")
    where = ("--tracking", "none", "--results", folder / "results")
    answer = call("run", "--method", "coordinates", *tiny.options, *where)
    assert answer.status == 0, answer.stderr
    out = folder / "mine.spotbench.zip"
    exported = call("export", "--results", folder / "results", "--with-predictions", "--out", out)
    assert exported.status == 0, exported.stderr
    return tiny, out


def check(path, tiny, *more):
    answer = call("submission", "check", path, *tiny.where, "--no-contract", *more)
    assert answer.stderr == ""
    lines = [line.partition("  ")[::2] for line in answer.stdout.splitlines()]
    told = {line[1].strip().partition(":")[0]: line[0].strip() for line in lines}
    return answer, told


def test_a_sound_submission_passes(strict):
    tiny, path = strict
    answer, told = check(path, tiny)
    assert answer.status == 0, answer.stdout
    assert told == {
        **dict.fromkeys(("file", "protocol", "folds", "data", "audit"), "passed"),
        **dict.fromkeys(("isolation", "scores"), "passed"),
        "contract": "not run",
    }
    assert "PCC(ACG) of 6 sections follows from the predictions" in answer.stdout
    claims = json.loads(call("submission", "check", path, "--no-contract", "--json").stdout)
    by_name = {claim["name"]: claim for claim in claims}
    assert by_name["data"]["outcome"] == "not run"
    assert "the dataset is not known here" in by_name["data"]["reason"]


@pytest.mark.slow  # the contract takes long
def test_the_contract_of_an_installed_method_is_run(strict):
    tiny, path = strict
    answer = call("submission", "check", path, *tiny.where)
    assert answer.status == 0, answer.stdout
    assert "passed   contract of coordinates: " in answer.stdout


def test_a_method_that_is_not_installed_is_said(strict, tmp_path):
    tiny, path = strict
    weird = edited(path, tmp_path / "x.spotbench.zip", "run.json", lambda f: {**f, "method": "wei"})
    answer = call("submission", "check", weird, *tiny.where)
    assert answer.status == 0, answer.stdout
    assert "not run  contract of wei: the method is not installed here" in answer.stdout


def test_what_is_wrong_fails_its_own_check(strict, tmp_path):
    tiny, path = strict
    out = tmp_path / "x.spotbench.zip"
    leak = {"kind": "patient", "message": "P1 is on both sides", "folds": [0], "forbidden": True}
    for ending, change, name, word in (
        ("run.json", {"audit": [leak]}, "audit", "P1 is on both sides"),
        ("fold.json", {"isolation": "none"}, "isolation", "fold 0"),
        ("run.json", {"dataset_hash": "0" * 64}, "data", "its files (000000000000)"),
    ):
        changed = edited(path, out, ending, lambda facts, change=change: {**facts, **change})
        answer, told = check(changed, tiny)
        assert answer.status == 1
        assert [of for of, outcome in told.items() if outcome == "failed"] == [name]
        assert word in answer.stdout
    content = members(path)
    fewer = sealed(out, {name: text for name, text in content.items() if "/fold-1/" not in name})
    answer, told = check(fewer, tiny)
    assert answer.status == 1
    assert told["folds"] == "failed"
    assert "coordinates (2 of 3)" in answer.stdout


def test_scores_that_do_not_follow_from_the_predictions(strict, tmp_path):
    tiny, path = strict
    content = members(path)
    name = next(name for name in content if name.endswith("fold-2/scores.parquet"))
    scores = pd.read_parquet(io.BytesIO(content[name]))
    scores.loc[(scores["section"] == "C1") & (scores["score"] == "pcc_acg"), "value"] = 0.9
    changed = {**content, name: scores.to_parquet(index=False)}
    answer, told = check(sealed(tmp_path / "x.spotbench.zip", changed), tiny)
    assert (answer.status, told["scores"]) == (1, "failed")
    assert "fold 2: PCC(ACG) of section C1 is" in answer.stdout
    stored = anndata.AnnData(obs=pd.DataFrame(index=["a"]))
    stored.write_h5ad(tmp_path / "x.h5ad")
    name = name.replace("scores.parquet", "predictions.h5ad")
    changed = {**content, name: (tmp_path / "x.h5ad").read_bytes()}
    answer, told = check(sealed(tmp_path / "x.spotbench.zip", changed), tiny)
    assert answer.status == 1


def test_another_protocol_is_no_submission(archive, shared_tiny):
    answer, told = check(archive, shared_tiny)
    assert answer.status == 1
    assert told["protocol"] == "failed"
    assert f"not under protocol {STRICT.name}" in answer.stdout
    assert told["scores"] == "not run"


def test_a_damaged_file_fails_in_one_line_and_no_file_is_refused(strict, tmp_path):
    tiny, path = strict
    cut = tmp_path / "cut.spotbench.zip"
    cut.write_bytes(path.read_bytes()[:-100])
    answer, told = check(cut, tiny)
    assert answer.status == 1
    assert [of for of, outcome in told.items() if outcome == "failed"] == ["file"]
    content = members(path)
    name = next(name for name in content if name.endswith("genes.parquet"))
    changed = {**content, name: content[name][:-1] + b"x"}
    answer, _ = check(written(tmp_path / "y.spotbench.zip", changed), tiny)
    assert answer.status == 1
    assert "failed   file: " in answer.stdout
    refused = call("submission", "check", tmp_path / "none.spotbench.zip")
    assert_refused(refused, "no such file")
