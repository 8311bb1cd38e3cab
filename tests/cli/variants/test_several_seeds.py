"""Runs over several seeds, from the command line; keys of all variants."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bench.execute.keys import run_key
from bench.execute.plan import make_plan
from bench.execute.request import Request
from tests.cli.tiny_dataset import (
    assert_refused,
    fold_folders,
    write_plugin,
)
from tests.cli.variants.made import facts_of, rows_of


def test_each_seed_is_a_run_as_seed_would_make_it(run, results, tmp_path):
    (row,) = rows_of(run("--seeds", "0-1,4", "--folds", "0", "--json"))
    assert (row["seed"], row["seeds"], row["folds"], row["n_folds"]) == ("0,1,4", 3, 3, 9)
    assert sorted(facts["seed"] for facts in facts_of(results)) == [0, 1, 4]
    assert all("train_patients" not in facts for facts in facts_of(results))
    single = tmp_path / "single"
    assert run("--seed", "4", "--folds", "0", folder=single).status == 0
    (facts,) = facts_of(single)
    assert facts["key"] in {other["key"] for other in facts_of(results)}
    again = run("--seed", "4", "--folds", "0")
    assert again.stderr.count("kept") == 1


def test_the_call_resumes_and_adds_seeds(run, bench, results):
    assert run("--seeds", "0,1", "--folds", "0").status == 0
    before = {path: (path / "manifest.json").read_bytes() for path in fold_folders(results)}
    added = run("--seeds", "0-2", "--folds", "0")
    assert added.stderr.count("kept") == 2
    assert added.stderr.count(": done in") == 1
    assert all((path / "manifest.json").read_bytes() == of for path, of in before.items())
    printed = bench("tables", "--dataset", "tiny", "--results", results).stdout
    assert "sd over seeds" in printed.splitlines()[2]
    assert re.search(r"mean \(control\) +- +3/9 +3 ", printed)


def test_a_failed_seed_is_named_and_leaves_the_others(run, plugins, results):
    write_plugin(plugins, "unlucky", fit="if context.seed == 1: raise RuntimeError('out of luck')")
    answer = run("--seeds", "0,1", "--folds", "0", method="unlucky")
    assert answer.status == 1
    (told,) = [line for line in answer.stderr.splitlines() if line.startswith("bench: ")]
    assert told.startswith("bench: unlucky, seed 1, fold 0 failed: RuntimeError: out of luck")
    path = re.search(r"\(see (.+)\)", told)[1]
    assert "out of luck" in Path(path).read_text()
    assert "unlucky, seed 1: only 0 of 3 folds are done" in " ".join(answer.stdout.split())


def test_oracles_are_run_once(run, tiny, results):
    rows = rows_of(run("--seeds", "0-1", "--folds", "0", "--json", options=tiny.where))
    assert {row["method"]: row["seeds"] for row in rows} == {"mean": 2, "depth": 1}


def test_the_plan_counts_the_fits_and_runs_nothing(run, results, larger):
    call = ("--seeds", "0-2", "--train-patients", "1,all", "--plan")
    planned = run(*call, method="mean,coordinates", options=larger.options)
    assert planned.status == 0, planned.stderr
    text = " ".join(planned.stdout.split())
    assert text.startswith("larger: 5 sections, 5 patients, 5 folds")
    assert "mean 1 0-2 3 15 0 " in text
    assert "coordinates all 0-2 3 15 0 " in text
    assert "In total 60 fits of 12 runs; 0 folds are stored" in text
    assert not list(results.glob("runs/*"))
    assert run("--folds", "0", options=larger.options).status == 0
    rows = json.loads(run(*call, "--json", options=larger.options).stdout)["rows"]
    assert {row["train patients"]: row["stored"] for row in rows} == {"1": 0, "all": 1}


def test_a_settings_file_has_the_options(run, results, larger, other, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("seeds: 0-1\ntrain_patients: [1, all]\nfolds: [0]\n")
    answer = run("--config", path, "--json", options=larger.options)
    assert [(row["seeds"], row["folds"]) for row in rows_of(answer)] == [(2, 2), (2, 2)]
    refused = run("--config", path, "--seeds", "0-4", options=larger.options)
    assert_refused(refused, "--seeds 0,1,2,3,4", "has seeds 0,1")
    path.write_text(f"test_dataset: {other.card}\ntest_data_root: {other.root}\n")
    (row,) = rows_of(run("--config", path, "--json"))
    assert (row["protocol"], row["sections"]) == ("strict-to-other", 2)
    for text in ("seeds: 4-0", "seeds: [a]", "train_patients: [0.5]", "test_dataset: [a]"):
        path.write_text(text)
        assert_refused(run("--config", path))


def test_keys_have_the_new_options_only_where_they_are_used(tiny, larger, other, results):
    def plan(dataset=tiny, **changes):
        return make_plan(
            Request(
                methods=("mean",),
                dataset=str(dataset.card),
                data_root=dataset.root,
                results=results,
                oracles=False,
                **changes,
            )
        )

    def key(of, run, **more):
        """Key from the facts that runs have always had, and `more`."""
        shared = {
            "dataset": of.dataset.card.name,
            "protocol": of.protocol.name,
            "protocol_hash": of.protocol.hash,
            "folds_hash": of.folds.hash,
            "compile": False,
            "seed": 0,
            "dataset_hash": of.dataset.hash_without_images,
            "precision": "float32",
        }
        return run_key(run.method_spec, {**shared, **more})

    plain = plan()
    (run,) = plain.runs
    assert run.folder.key == key(plain, run)
    seeded = plan(seeds=(0, 7))
    assert [run.folder.key for run in seeded.runs] == [
        key(seeded, run, seed=seed) for run, seed in zip(seeded.runs, (0, 7), strict=True)
    ]
    fewer = plan(larger, train_patients=(None, 2))
    whole, two = fewer.runs
    assert whole.folder.key == plan(larger).runs[0].folder.key == key(fewer, whole)
    assert two.folder.key == key(fewer, two, train_patients=2)
    assert plan(larger, train_patients=(3,)).runs[0].folder.key == whole.folder.key
    moved = plan(test_dataset=str(other.card), test_data_root=other.root)
    assert moved.runs[0].folder.key != run.folder.key
    assert plan(test_dataset="").runs[0].folder.key == run.folder.key
