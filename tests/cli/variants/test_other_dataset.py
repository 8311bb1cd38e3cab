"""Runs that are tested on another dataset, from the command line."""

from __future__ import annotations

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from scipy.stats import pearsonr

from bench.data.dataset import open_dataset
from bench.evaluate.ceiling import noise_ceiling
from bench.registry import dataset_card
from tests.cli.tiny_dataset import (
    SECTIONS,
    assert_refused,
    fold_folders,
    scores_of,
    write_plugin,
    write_tiny_dataset,
)
from tests.cli.variants.made import make_other, rows_of


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
