"""Runs over seeds, on another dataset, and on fewer training patients, from the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from scipy.stats import pearsonr

from bench.data.dataset import open_dataset
from bench.evaluate.ceiling import noise_ceiling
from bench.execute.keys import run_key
from bench.execute.plan import make_plan
from bench.execute.request import Request
from bench.registry import dataset_card
from tests.cli.tiny_dataset import (
    SECTIONS,
    assert_nothing_half_written,
    assert_refused,
    fold_folders,
    scores_of,
    write_plugin,
    write_tiny_dataset,
)


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """A second dataset, of patients X and Y; not to be changed."""
    return make_other(tmp_path_factory.mktemp("other"))


def make_other(folder, name="other"):
    made = write_tiny_dataset(folder, name, (*SECTIONS, "X1", "Y1"))
    sections = yaml.safe_load(made.card.read_text())["sections"][len(SECTIONS) :]
    made.edit_card(sections=sections, published_order=["X1", "Y1"])
    return made


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


def rows_of(answer):
    assert answer.status == 0, answer.stderr
    return json.loads(answer.stdout)["rows"]


def facts_of(results):
    return [json.loads(path.read_text()) for path in sorted(results.glob("runs/*/*/*/run.json"))]


# ------------------------------------------------------------------------------- seeds


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


# ------------------------------------------------------------------- training patients


def test_each_number_of_patients_is_a_run_of_the_same_folds(run, results, tiny):
    rows = rows_of(run("--train-patients", "1,all", "--folds", "0", "--json"))
    assert [row["train_patients"] for row in rows] == [None]  # one patient is all of them here


@pytest.fixture(scope="session")
def larger(tmp_path_factory):
    """A dataset of five patients with a section each; not to be changed."""
    return write_tiny_dataset(tmp_path_factory.mktemp("larger"), "larger", list("ABCDE"))


def test_subsets_are_nested_and_scores_are_on_the_same_genes(run, results, larger):
    call = ("--train-patients", "2,1,all", "--folds", "0,3", "--json")
    rows = rows_of(run(*call, options=larger.options))
    assert sorted(str(row["train_patients"]) for row in rows) == ["1.0", "2.0", "None"]
    assert len({row["folds_hash"] for row in rows}) == 1
    folds = {}
    for facts, folder in zip(
        facts_of(results), sorted(results.glob("runs/*/*/*/run.json")), strict=True
    ):
        for path in folder.parent.glob("fold-*/fold.json"):
            folds[facts.get("train_patients"), path.parent.name] = json.loads(path.read_text())
    for number in (0, 3):
        one, two, every = (folds[size, f"fold-{number}"] for size in (1, 2, None))
        assert len(one["train"]) == 1
        assert len(two["train"]) == 2
        assert len(every["train"]) == 3
        assert set(one["train"]) < set(two["train"]) < set(every["train"])
        assert one["validation"] == two["validation"] == every["validation"]
        assert one["panel"] == two["panel"] == every["panel"]
        assert one["test"] == every["test"]
    errors = {row["train_patients"]: row["mse"] for row in rows}
    assert len(set(errors.values())) == 3
    plain = run("--folds", "0,3", options=larger.options)
    assert plain.stderr.count("kept") == 2


@pytest.mark.slow
def test_seeds_and_patients_go_together(run, results, larger, bench, tmp_path):
    call = ("--train-patients", "1,2,all", "--seeds", "0-1", "--folds", "0,1")
    answer = run(*call, "--json", options=larger.options)
    assert [row["seeds"] for row in rows_of(answer)] == [2, 2, 2]
    assert "; 12 jobs" in answer.stderr
    assert answer.stdout  # the JSON
    page = bench("report", "--results", results)
    assert page.status == 0, page.stderr
    text = (results / "report.html").read_text()
    assert "mean, 1 training patient, seed 1" in text


# ------------------------------------------------------------------- another dataset


def test_a_run_on_another_dataset_has_one_fold_and_a_table_of_its_own(
    run, on_other, bench, results
):
    assert run("--folds", "0").status == 0
    answer = on_other()
    assert answer.status == 0, answer.stderr
    assert answer.stdout.splitlines()[1].startswith("fitted on tiny, tested on other, protocol")
    assert "genes that both measured, of 40 and 40" in " ".join(answer.stdout.split())
    (fold,) = [path for path in fold_folders(results) if "strict-to-other" in str(path)]
    facts = json.loads((fold / "fold.json").read_text())
    assert facts["train"] == ["A1", "A2", "C1", "C2"]
    assert facts["validation"] == ["B1", "B2"]
    assert facts["test"] == ["X1", "Y1"]
    printed = bench("tables", "--dataset", "tiny", "--results", results).stdout
    assert "tiny, protocol strict\n" in printed
    assert "fitted on tiny, tested on other, protocol strict\n" in printed
    assert on_other().stderr.count("kept") == 1
    page = bench("report", "--results", results)
    text = (results / "report.html").read_text()
    assert page.status == 0
    assert "fitted on tiny, tested on other, protocol strict" in text


def test_methods_are_given_no_expression_of_the_test_dataset(on_other, plugins, results):
    write_plugin(
        plugins,
        "looks_at_all",
        needs_image=True,
        fit="assert {s.name[0] for s in data.sections} == set('ABC')",
        predict="""
        assert [s.name for s in slides] == ["X1", "Y1"]
        for s in slides:
            assert not {"expression", "target", "counts"} & set(dir(s))
            assert s.patches().shape == (30, 32, 32, 3)
        """,
    )
    (row,) = rows_of(on_other("--json", method="looks_at_all"))
    assert (row["sections"], row["folds"]) == (2, 1)


def test_images_of_another_scale_are_brought_to_that_of_the_training(
    run, plugins, tmp_path, results
):
    coarse = make_other(tmp_path / "coarse")
    coarse.edit_card(micrometres_per_pixel=3.0, patch_pixels=21, platform="another")
    write_plugin(
        plugins,
        "scaled",
        needs_image=True,
        predict="""
        for s in slides:
            assert (s.micrometres_per_pixel, s.patch_pixels) == (2.0, 32)
            assert np.allclose(s.spatial[0], (28 * 1.5, 32 * 1.5))
        """,
    )
    where = ("--test-dataset", coarse.card, "--test-data-root", coarse.root)
    answer = run(*where, method="scaled")
    assert answer.status == 0, answer.stderr
    text = " ".join(answer.stdout.split())
    assert "Other scale: 2 um a pixel (tiny), 3 um a pixel (other); test patches are" in text
    assert "Other platform: simulated (tiny), another (other)." in text


@pytest.mark.slow
def test_the_model_of_a_transfer_predicts_new_images(
    on_other, bench, results, tiny, other, tmp_path
):
    assert on_other("--preset", "quick", method="knn").status == 0
    spots = tmp_path / "spots.csv"
    spots.write_text("barcode,x,y\n" + "".join(f"s{n},{28 * n},64\n" for n in range(1, 6)))
    call = (
        *("predict", other.image("X1"), "--method", "knn", "--results", results, "--spots", spots),
        *("--um-per-px", "2", *tiny.where, "--out", tmp_path / "out.h5ad"),
    )
    answer = bench(*call)
    assert answer.status == 0, answer.stderr
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert adata.shape == (5, 40)
    assert_refused(bench(*call, "--refit"), "fitted on all patients already", lines=None)


def test_sections_of_one_name_are_kept_apart(run, results, tmp_path):
    twin = write_tiny_dataset(tmp_path / "twin", "twin", (*SECTIONS, "A3", "B3"))
    sections = yaml.safe_load(twin.card.read_text())["sections"][len(SECTIONS) :]
    for section, name in zip(sections, ("A1", "B1"), strict=True):
        section["name"] = name
    twin.edit_card(sections=sections, published_order=["A1", "B1"])
    (row,) = rows_of(run("--test-dataset", twin.card, "--test-data-root", twin.root, "--json"))
    assert row["sections"] == 2
    (fold,) = fold_folders(results)
    scores = pd.read_parquet(fold / "scores.parquet")
    assert set(scores["section"]) == {"A1@twin", "B1@twin", ""}


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "a-b"), ("--seeds 'a-b'", "0-4 or 0,1,7")),
        (("--seeds", "4-0"), ("4-0 ends before it begins",)),
        (("--seeds", "0-999999"), ("1,000,000 seeds", "at most 1,000")),
        (("--seeds", "0-999999999999999999"), ("seeds are asked for",)),
        (("--seeds", "-1"), ("--seeds '-1'",)),
        (("--seeds", "0,-3"), ("--seeds '0,-3'",)),
        (("--seeds", ""), ("--seeds ''",)),
        (("--seeds", "1.5"), ("--seeds '1.5'",)),
        (("--seeds", "٣"), ("write seeds",)),
        (("--seeds", "0-1", "--seed", "3"), ("--seed is one seed and --seeds are several",)),
        (("--train-patients", "0"), ("--train-patients '0'", "numbers from 1 on")),
        (("--train-patients", "-2"), ("--train-patients '-2'",)),
        (("--train-patients", "1,two"), ("1,2,4,all",)),
        (("--train-patients", ""), ("--train-patients ''",)),
        (("--train-patients", "7"), ("have 1 training patients", "or all")),
        (("--train-patients", "1", "--protocol", "by-section"), ("split by patient",)),
        (("--test-dataset", "nowhere"), ("unknown dataset 'nowhere'",)),
        (("--test-dataset", "hest"), ("hest stands for",)),
        (("--test-dataset", "demo", "--protocol", "published"), ("published cannot be tested",)),
        (("--test-dataset", "demo", "--protocol", "by-section"), ("by-section cannot be tested",)),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(run, results, options, words):
    assert_refused(run(*options), *words)
    assert not list(results.glob("runs/*"))
    assert_nothing_half_written(results)


def test_the_training_dataset_is_no_test_dataset(run, tiny, results):
    refused = run("--test-dataset", tiny.card, "--test-data-root", tiny.root)
    assert_refused(refused, "--test-dataset tiny is the training dataset itself")
    assert not list(results.glob("runs/*"))


def test_datasets_that_share_patients_are_refused(run, tmp_path, results):
    known = make_other(tmp_path / "known")
    known.edit_card(shares_patients_with={"tiny": "patients X and A are one"})
    refused = run("--test-dataset", known.card, "--test-data-root", known.root)
    assert_refused(refused, "other holds patients of tiny: patients X and A are one")
    assert not list(results.glob("runs/*"))


def test_nothing_is_downloaded_for_datasets_that_share_patients(bench, results):
    call = ("run", "--dataset", "her2st", "--test-dataset", "stnet", "--method", "mean")
    assert_refused(bench(*call, "--results", results), "stnet holds patients of her2st")
    assert not results.exists()


def test_counts_that_both_hold_are_refused(run, tmp_path, results):
    same = write_tiny_dataset(tmp_path / "same", "same", ("X1", "Y1"))
    refused = run("--test-dataset", same.card, "--test-data-root", same.root)
    assert_refused(refused, "protocol strict-to-same forbids", "have the same counts on both sides")
    assert not list(results.glob("runs/*"))


def test_too_different_a_scale_is_refused(run, tmp_path, results):
    far = make_other(tmp_path / "far")
    far.edit_card(micrometres_per_pixel=0.25)
    where = ("--test-dataset", far.card, "--test-data-root", far.root)
    assert_refused(run(*where), "a section of other has 0.25 um a pixel", "beyond 4 times")
    assert not list(results.glob("runs/*"))


def test_tuning_and_released_weights_take_one_run(bench, tiny, results):
    for command in ("tune", "import-weights"):
        refused = bench(command, "--method", "mean", "--seeds", "0-1", *tiny.where)
        assert refused.status == 2
        assert f"unknown option --seeds of 'bench {command}'" in refused.stderr


def test_datasets_without_a_common_gene_are_refused(run, tmp_path, results):
    foreign = make_other(tmp_path / "foreign")
    for section in ("X1", "Y1"):
        heading, *rows = foreign.read_counts(section)
        foreign.write_counts(section, [[name.replace("GENE", "ENSG") for name in heading], *rows])
    refused = run("--test-dataset", foreign.card, "--test-data-root", foreign.root)
    assert_refused(refused, "tiny and other have no gene in common", "see --aliases")
    assert not list(results.glob("runs/*"))


def test_there_is_one_fold(on_other, results):
    assert_refused(on_other("--folds", "1"), "no fold 1; folds are 0 to 0")
    assert not list(results.glob("runs/*"))


def test_a_missing_test_folder_is_named(run, other, tmp_path, results):
    refused = run("--test-dataset", other.card, "--test-data-root", tmp_path / "nowhere")
    assert_refused(refused, "data folder", "nowhere of other is missing")


# ------------------------------------------------------------------- numbers, on the demo


@pytest.fixture(scope="module")
def transferred(tmp_path_factory, bench):
    """Results folder and answer of methods fitted on the demo and tested on the external one."""
    results = tmp_path_factory.mktemp("transferred") / "results"
    answer = bench(
        *("run", "--dataset", "demo", "--test-dataset", "demo-external"),
        *("--method", "mean,knn", "--preset", "quick", "--tracking", "none"),
        *("--results", results, "--no-oracles", "--json"),
    )
    assert answer.status == 0, answer.stderr
    return results, {row["method"]: row for row in json.loads(answer.stdout)["rows"]}


@pytest.mark.slow
def test_scores_on_another_dataset_are_those_of_plain_recomputation(transferred):
    results, rows = transferred
    (fold,) = [path for path in fold_folders(results) if "/knn" in str(path)]
    adata = anndata.read_h5ad(fold / "predictions.h5ad")
    assert adata.n_vars == 228
    assert "EXT01" not in adata.var_names
    sections = {}
    for name in adata.obs["section"].cat.categories:
        part = adata[adata.obs["section"] == name]
        truth, predicted = (np.asarray(a, dtype=float) for a in (part.layers["truth"], part.X))
        r = [pearsonr(t, p)[0] for t, p in zip(truth.T, predicted.T, strict=True)]
        sections[name] = (np.mean(r), np.mean((truth - predicted) ** 2))
    assert list(sections) == ["E1a", "E2a", "E3a"]
    for place, score in enumerate(("pcc_acg", "mse")):
        values = [of[place] for of in sections.values()]
        assert rows["knn"][score] == pytest.approx(np.mean(values), rel=1e-5)
        assert rows["knn"][f"{score}_sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-4)
    # What was learned in the demo holds in other patients, stain and scale.
    assert rows["knn"]["pcc_acg"] > 0.3
    assert rows["knn"]["mse"] < rows["mean"]["mse"]


@pytest.mark.slow
def test_the_ceiling_beside_them_is_that_of_the_test_dataset(transferred):
    results, rows = transferred
    (fold,) = [path for path in fold_folders(results) if "/knn" in str(path)]
    panel = json.loads((fold / "fold.json").read_text())["panel"]
    means = []
    for section in open_dataset(dataset_card("demo-external"), images=False):
        counts = section.adata.X.toarray().astype(float)
        chosen = counts[:, section.adata.var_names.get_indexer(panel)]
        others = counts.sum(axis=1) - chosen.sum(axis=1)

        def scaled(half):
            half = half.toarray()
            return np.log1p(1e4 * half[:, :-1] / half.sum(axis=1, keepdims=True))

        whole = sp.csr_matrix(np.column_stack([chosen, others]))
        means.append(np.nanmean(noise_ceiling(whole, scaled)))
    assert rows["knn"]["ceiling_acg"] == pytest.approx(np.mean(means), abs=1e-6)


def test_workers_and_isolation_change_no_score_of_a_transfer(on_other, results, tmp_path):
    assert on_other(method="mean,coordinates").status == 0
    one = scores_of(results)
    shutil.rmtree(results)
    assert on_other("--jobs", "2", method="mean,coordinates").status == 0
    assert scores_of(results) == one


# -------------------------------------------------------------------------------- keys


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
