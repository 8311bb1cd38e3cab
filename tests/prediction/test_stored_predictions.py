"""Stored predictions of a run in one file: values, truth, images, scores, refusals."""

from __future__ import annotations

import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.prediction.gene_reliability import gene_reliability
from bench.prediction.stored_models import find_run
from tests.cli.tiny_dataset import SECTIONS, assert_refused, call
from tests.conftest import REPOSITORY


def export(of, path, *more, method="ridge"):
    return call("export", *of.model, "--method", method, "--out", path, *more)


@pytest.fixture(scope="module")
def exported(ridge, tmp_path_factory):
    """All test sections of ridge."""
    path = tmp_path_factory.mktemp("exported") / "predictions.h5ad"
    done = export(ridge, path)
    assert done.status == 0, done.stderr
    assert done.stdout.splitlines() == [str(path)]
    assert done.stderr == ""
    return anndata.read_h5ad(path)


def run_of(of, method="ridge"):
    return find_run(of.results, "tiny", method, with_model=False)


def test_every_fold_is_in_it_as_it_is_stored(ridge, exported):
    run = run_of(ridge)
    for index in run.done:
        stored = anndata.read_h5ad(run.folder.fold(index).path / "predictions.h5ad")
        part = exported[exported.obs["fold"] == index]
        assert list(part.obs_names) == list(stored.obs_names)
        genes = list(stored.var_names)
        np.testing.assert_array_equal(part[:, genes].X, stored.X)
        np.testing.assert_array_equal(part[:, genes].layers["truth"], stored.layers["truth"])
        np.testing.assert_array_equal(part.obsm["spatial"], stored.obsm["spatial"])
        for column in ("section", "patient", "total_counts", "label"):
            assert list(part.obs[column]) == list(stored.obs[column])
        others = part[:, ~part.var_names.isin(genes)]
        assert np.isnan(np.asarray(others.X)).all()
        for section in stored.obs["section"].unique():
            heg = f"heg_{section}"
            np.testing.assert_array_equal(exported.var.loc[genes, heg], stored.var[heg])
    assert set(exported.obs["section"]) == set(SECTIONS)


def test_genes_carry_their_scores(ridge, exported):
    expected = gene_reliability(run_of(ridge), list(exported.var_names))
    pd.testing.assert_frame_equal(
        exported.var[list(expected)], expected, check_names=False, check_index_type=False
    )


def test_every_section_has_its_image_in_the_pixels_of_its_spots(ridge, exported):
    assert set(exported.uns["spatial"]) == set(exported.obs["library_id"]) == set(SECTIONS)
    for section, library in exported.uns["spatial"].items():
        with Image.open(ridge.image(section)) as image:
            assert library["images"]["hires"].shape == (image.height, image.width, 3)
            own = np.asarray(image.convert("RGB")).astype(int)
        apart = np.abs(library["images"]["hires"].astype(int) - own).mean()
        assert apart < 5  # the small copy is a JPEG of its own
        factors = library["scalefactors"]
        assert factors["tissue_hires_scalef"] == 1
        assert factors["microns_per_pixel"] == pytest.approx(ridge.scale(section))
        assert factors["spot_diameter_fullres"] > 0


def test_the_file_says_what_it_is_of(ridge, exported):
    about = exported.uns["spotbench"]
    assert about["run"] == run_of(ridge).facts["key"]
    assert (about["method"], about["dataset"]) == ("ridge", "tiny")
    assert about["fits"] == "fold 0, fold 1, fold 2"
    assert about["notes"] == ""


def test_one_fold_has_its_test_sections_alone(ridge, tmp_path):
    assert export(ridge, tmp_path / "one.h5ad", "--fold", 1).status == 0
    adata = anndata.read_h5ad(tmp_path / "one.h5ad")
    assert set(adata.obs["fold"]) == {1}
    assert set(adata.obs["section"]) == set(adata.uns["spatial"]) < set(SECTIONS)


def test_rows_without_a_model_are_exported_with_the_images_of_other_runs(ridge, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(ridge.results, results)
    done = call(
        *("run", *ridge.dataset.where, "--preset", "tiny", "--device", "cpu", "--no-oracles"),
        *("--results", results, "--tracking", "none", "--method", "mean,depth"),
    )
    assert done.status == 0, done.stderr
    done = export(ridge, tmp_path / "oracle.h5ad", "--results", results, method="depth")
    assert done.status == 0, done.stderr
    assert done.stderr == (
        "note: an oracle, which reads the truth; its values have a scale of their own\n"
    )
    assert export(ridge, tmp_path / "a.h5ad", "--results", results, method="mean").status == 0
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert all("hires" in library["images"] for library in adata.uns["spatial"].values())
    shutil.rmtree(results / "images")
    done = export(ridge, tmp_path / "b.h5ad", "--results", results, method="mean")
    assert done.status == 0, done.stderr
    assert f"note: no image is stored of {', '.join(sorted(SECTIONS))}" in done.stderr
    adata = anndata.read_h5ad(tmp_path / "b.h5ad")
    assert not any("hires" in library["images"] for library in adata.uns["spatial"].values())


def test_what_cannot_be_exported_is_refused(ridge, tmp_path):
    path = tmp_path / "out.h5ad"
    assert_refused(export(ridge, path, "--refit"), "--refit", "no test sections")
    assert_refused(export(ridge, path, "--fold", 7), "fold 7 is not finished")
    assert_refused(export(ridge, path, method="rigde"), "method with runs on tiny 'rigde'", "ridge")
    assert_refused(export(ridge, tmp_path / "out.xls"), "must end in .spotbench or .h5ad")
    (tmp_path / "folder.h5ad").mkdir()
    assert_refused(export(ridge, tmp_path / "folder.h5ad"), "folder.h5ad: is a folder")
    assert [item.name for item in tmp_path.iterdir()] == ["folder.h5ad"]


def test_a_changed_file_is_no_finished_fold(ridge, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(ridge.results, results)
    for path in results.glob("runs/*/*/ridge-*/fold-*/predictions.h5ad"):
        path.write_bytes(path.read_bytes()[:-1])
    done = export(ridge, tmp_path / "out.h5ad", "--results", results)
    assert_refused(done, "no finished fold", "predictions.h5ad")
    assert not (tmp_path / "out.h5ad").exists()


def test_results_of_the_first_layout_are_exported(tmp_path):
    results = REPOSITORY / "tests" / "fixtures" / "results-layout-1"
    path = tmp_path / "out.h5ad"
    done = call(
        *("export", "--dataset", "demo", "--method", "mean", "--results", results, "--out", path)
    )
    assert done.status == 0, done.stderr
    adata = anndata.read_h5ad(path)
    assert set(adata.obs["fold"]) == {0, 1, 2}
    assert len(adata.uns["spatial"]) == 6
    assert np.isfinite(adata.layers["truth"]).sum() == np.isfinite(adata.X).sum() > 0
