"""``bench predict``: files, ensemble, refit, refusals."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import bench
from tests.cli.tiny_dataset import PLUGIN, assert_refused, call

SECTION = "A1"


def predict(of, tmp_path, *more, method="ridge", out="out.h5ad", image=None, spots=True, um=None):
    """Call the command on a section; `more` are further options."""
    if spots:
        of.spots(SECTION, tmp_path / "spots.csv")
        more = ("--spots", tmp_path / "spots.csv", *more)
    scale = of.scale(SECTION) if um is None else um
    return call(
        "predict",
        image or of.image(SECTION),
        *of.model,
        *("--method", method, "--out", tmp_path / out, "--um-per-px", scale),
        *more,
    )


@pytest.fixture(scope="module")
def ensemble(ridge, tmp_path_factory):
    """The prediction of all folds, by the command."""
    folder = tmp_path_factory.mktemp("ensemble")
    done = predict(ridge, folder, "--out", folder / "out.csv", "--out", folder / "out.geojson")
    assert done.status == 0, done.stderr
    return folder, done


def test_the_ensemble_is_the_mean_of_the_folds(ridge, ensemble, tmp_path):
    folds = []
    for fold in range(3):
        done = predict(ridge, tmp_path, "--fold", fold, out=f"{fold}.h5ad")
        assert done.status == 0, done.stderr
        adata = anndata.read_h5ad(tmp_path / f"{fold}.h5ad")
        assert "fold_sd" not in adata.layers
        folds.append(pd.DataFrame(np.asarray(adata.X), columns=list(adata.var_names)))
    together = anndata.read_h5ad(ensemble[0] / "out.h5ad")
    for number, gene in enumerate(together.var_names):
        have = np.stack([fold[gene] for fold in folds if gene in fold], axis=1)
        assert together.var["folds"].iloc[number] == have.shape[1]
        np.testing.assert_allclose(together.X[:, number], have.mean(axis=1), atol=1e-5)
        spread = have.std(axis=1, ddof=1) if have.shape[1] > 1 else np.full(len(have), np.nan)
        np.testing.assert_allclose(together.layers["fold_sd"][:, number], spread, atol=1e-5)


def test_a_gene_is_averaged_over_the_folds_that_chose_it(ridge, tmp_path):
    results = tmp_path / "results"
    done = call(
        *("run", *ridge.dataset.where, "--preset", "tiny", "--device", "cpu", "--no-oracles"),
        *("--results", results, "--tracking", "none", "--method", "ridge", "--panel", "hvg:15"),
    )
    assert done.status == 0, done.stderr
    assert predict(ridge, tmp_path, "--results", results).status == 0
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    panels = [
        json.loads(path.read_text())["panel"]
        for path in results.glob("runs/*/*/*/fold-*/fold.json")
    ]
    chosen = pd.Series([gene for panel in panels for gene in panel]).value_counts()
    assert set(adata.var_names) == set(chosen.index)
    np.testing.assert_array_equal(adata.var["folds"], chosen[list(adata.var_names)])
    assert chosen.min() < 3
    once = np.isnan(adata.layers["fold_sd"]).all(axis=0)
    np.testing.assert_array_equal(once, adata.var["folds"] == 1)
    assert np.isfinite(np.asarray(adata.X)).all()


def test_genes_carry_the_scores_of_the_run(ridge, ensemble):
    adata = anndata.read_h5ad(ensemble[0] / "out.h5ad")
    (folder,) = ridge.results.glob("runs/*/*/ridge-*")
    genes = pd.concat(
        [pd.read_parquet(path) for path in folder.glob("fold-*/genes.parquet")]
    ).groupby("gene")
    expected = genes["pcc"].mean().reindex(adata.var_names)
    np.testing.assert_allclose(adata.var["pcc"], expected)
    np.testing.assert_array_equal(adata.var["predictable"], expected >= 0.1)
    defined = adata.var.dropna(subset="pcc_low")
    assert len(defined)
    assert (defined["pcc_low"] <= defined["pcc"]).all()
    assert (defined["pcc"] <= defined["pcc_high"]).all()
    share = adata.var["pcc"] / adata.var["ceiling"]
    np.testing.assert_allclose(adata.var["share_of_ceiling"], share.where(adata.var["ceiling"] > 0))


def test_the_file_holds_what_scanpy_and_squidpy_draw(ensemble):
    adata = anndata.read_h5ad(ensemble[0] / "out.h5ad")
    library = adata.uns["spatial"][SECTION]
    height, width, channels = library["images"]["hires"].shape
    assert channels == 3
    assert {"tissue_hires_scalef", "spot_diameter_fullres"} <= set(library["scalefactors"])
    hires = adata.obsm["spatial"] * library["scalefactors"]["tissue_hires_scalef"]
    assert (hires >= 0).all()
    assert (hires < [width, height]).all()


@pytest.mark.filterwarnings("ignore:Use `squidpy:FutureWarning")
def test_scanpy_draws_the_file_unasked(ensemble):
    import scanpy as sc
    from matplotlib import pyplot as plt

    adata = anndata.read_h5ad(ensemble[0] / "out.h5ad")
    (axes,) = sc.pl.spatial(adata, color="GENE1", show=False)
    assert axes.images[0].get_array().shape == (200, 200, 3)
    drawn = np.concatenate([np.asarray(part.get_array()) for part in axes.collections])
    np.testing.assert_allclose(np.sort(drawn), np.sort(adata[:, "GENE1"].X.ravel()), rtol=1e-5)
    plt.close("all")


def test_tables_and_tiles_hold_the_same_values(ensemble):
    folder, done = ensemble
    written = ["out.h5ad", "out.csv", "out.genes.csv", "out.geojson"]
    assert done.stdout.splitlines() == [str(folder / name) for name in written]
    adata = anndata.read_h5ad(folder / "out.h5ad")
    table = pd.read_csv(folder / "out.csv", index_col="barcode")
    genes = list(adata.var_names)
    np.testing.assert_allclose(table[genes], adata.X, atol=1e-5)
    np.testing.assert_allclose(table[["x", "y"]], adata.obsm["spatial"])
    listed = pd.read_csv(folder / "out.genes.csv", index_col="gene")
    np.testing.assert_allclose(listed["pcc"], adata.var["pcc"])
    tiles = json.loads((folder / "out.geojson").read_text())
    assert tiles["type"] == "FeatureCollection"
    for feature, values, centre in zip(
        tiles["features"], np.asarray(adata.X), adata.obsm["spatial"], strict=True
    ):
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "tile"
        (ring,) = feature["geometry"]["coordinates"]
        assert feature["geometry"]["type"] == "Polygon"
        assert ring[0] == ring[-1]
        assert len(ring) == 5
        np.testing.assert_allclose(np.mean(ring[:4], axis=0), centre)
        measured = feature["properties"]["measurements"]
        np.testing.assert_allclose([measured[gene] for gene in genes], values, atol=1e-5)


def test_maps_are_drawn_of_the_best_genes(ridge, tmp_path):
    done = predict(ridge, tmp_path, "--out", tmp_path / "out.pdf", out="out.png")
    assert done.status == 0, done.stderr
    with Image.open(tmp_path / "out.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF")


METHOD_FILE = PLUGIN.format(
    summary="Tilted mean", name="own", needs_image=True, before="", fit="pass", predict="pass"
)


def test_a_method_of_a_file_predicts_unless_it_needs_no_image(ridge, tmp_path):
    for name, text in (
        ("looks", METHOD_FILE),
        ("blind", METHOD_FILE.replace("needs_image = True", "needs_image = False")),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text(text.replace('"own"', f'"{name}"').strip() + "\n")
        done = call(
            *("run", *ridge.dataset.where, "--device", "cpu", "--folds", "0", "--no-oracles"),
            *("--results", tmp_path / "results", "--tracking", "none", "--method", path),
        )
        assert done.status == 0, done.stderr
    more = ("--results", tmp_path / "results")
    refused(ridge, tmp_path, "needs no image", method=tmp_path / "blind.py", more=more)
    done = predict(ridge, tmp_path, *more, method=tmp_path / "looks.py")
    assert done.status == 0, done.stderr


def test_chosen_genes_come_in_the_order_that_was_asked_for(ridge, tmp_path):
    assert predict(ridge, tmp_path, "--genes", "GENE3,GENE1").status == 0
    assert list(anndata.read_h5ad(tmp_path / "out.h5ad").var_names) == ["GENE3", "GENE1"]


def test_a_refit_learns_from_all_sections_and_is_kept(ridge, tmp_path):
    first = predict(ridge, tmp_path, "--refit", out="first.h5ad")
    assert first.status == 0, first.stderr
    assert "fitting ridge on all 6 sections" in first.stderr
    second = predict(ridge, tmp_path, "--refit", out="second.h5ad")
    assert "fitting" not in second.stderr
    one, two = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("first", "second"))
    np.testing.assert_array_equal(one.X, two.X)
    assert one.uns["spotbench"]["fits"] == "final"
    (record,) = ridge.results.glob("runs/*/*/ridge-*/final/final.json")
    facts = json.loads(record.read_text())
    assert len(facts["train"]) + len(facts["validation"]) == 6
    assert not list(record.parents[1].glob(".final*"))


def test_a_damaged_refit_is_made_again(ridge, tmp_path):
    assert predict(ridge, tmp_path, "--refit", out="first.h5ad").status == 0
    (model,) = ridge.results.glob("runs/*/*/ridge-*/final/model")
    path = next(path for path in model.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    again = predict(ridge, tmp_path, "--refit", out="again.h5ad")
    assert again.status == 0, again.stderr
    assert "fitting ridge" in again.stderr


def test_array_coordinates_are_made_where_there_are_none(ridge, tmp_path):
    table = ridge.spots(SECTION, tmp_path / "plain.csv", array=False)
    done = predict(ridge, tmp_path, "--spots", tmp_path / "plain.csv", spots=False)
    assert done.status == 0, done.stderr
    assert "array coordinates were made from the pixel coordinates" in done.stderr
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert len(adata.obs[["array_row", "array_col"]].drop_duplicates()) == len(table)


def test_a_training_image_is_named(ridge, tmp_path):
    done = predict(ridge, tmp_path)
    assert f"the image is that of training section {SECTION}" in done.stderr


def test_an_image_of_another_scale_is_resampled_to_the_training_scale(ridge, ensemble, tmp_path):
    small = Image.open(ridge.image(SECTION)).resize((400, 400), Image.Resampling.BICUBIC)
    small.save(tmp_path / "large.png")
    table = ridge.spots(SECTION, tmp_path / "own.csv")
    table[["x", "y"]] *= 2
    table.to_csv(tmp_path / "own.csv", index_label="barcode")
    done = predict(
        ridge,
        tmp_path,
        "--spots",
        tmp_path / "own.csv",
        image=tmp_path / "large.png",
        spots=False,
        um=ridge.scale(SECTION) / 2,
    )
    assert done.status == 0, done.stderr
    assert "scale mismatch" in done.stderr
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(adata.obsm["spatial"], table[["x", "y"]])
    same = anndata.read_h5ad(ensemble[0] / "out.h5ad")
    r = np.corrcoef(np.asarray(adata.X).ravel(), np.asarray(same.X).ravel())[0, 1]
    assert r > 0.95


def test_an_image_unlike_the_training_is_told(ridge, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    noise[..., 0] = 255
    Image.fromarray(noise).save(tmp_path / "noise.png")
    done = predict(ridge, tmp_path, image=tmp_path / "noise.png")
    assert done.status == 0, done.stderr
    assert "stain mismatch" in done.stderr
    assert "unlike the training's" in done.stderr
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert adata.obs["ood"].mean() > 0.5
    familiar = predict(ridge, tmp_path, out="same.h5ad")
    assert "unlike" not in familiar.stderr
    assert not anndata.read_h5ad(tmp_path / "same.h5ad").obs["ood"].any()


def test_the_function_gives_what_the_command_writes(ridge, ensemble, tmp_path):
    adata = bench.predict(
        ridge.image(SECTION),
        str(ridge.dataset.card),
        "ridge",
        spots=ridge.spots(SECTION, tmp_path / "spots.csv"),
        um_per_px=ridge.scale(SECTION),
        results=ridge.results,
        data_root=ridge.dataset.root,
        device="cpu",
    )
    np.testing.assert_array_equal(adata.X, anndata.read_h5ad(ensemble[0] / "out.h5ad").X)


def test_spots_come_from_the_files_that_the_field_writes(ridge, ensemble, tmp_path):
    table = ridge.spots(SECTION, tmp_path / "spots.csv")
    positions = pd.DataFrame(
        {
            "barcode": table.index,
            "in_tissue": 1,
            "array_row": table["array_row"],
            "array_col": table["array_col"],
            "pxl_row_in_fullres": table["y"],
            "pxl_col_in_fullres": table["x"],
        }
    )
    positions.to_csv(tmp_path / "tissue_positions.csv", index=False)
    positions.to_csv(tmp_path / "tissue_positions_list.csv", index=False, header=False)
    positions.to_parquet(tmp_path / "tissue_positions.parquet", index=False)
    obs = table[["array_row", "array_col"]]
    known = anndata.AnnData(obs=obs, obsm={"spatial": table[["x", "y"]].to_numpy()})
    known.write_h5ad(tmp_path / "known.h5ad")
    expected = anndata.read_h5ad(ensemble[0] / "out.h5ad")
    for name in (
        *("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet"),
        "known.h5ad",
    ):
        done = predict(ridge, tmp_path, "--spots", tmp_path / name, spots=False)
        assert done.status == 0, (name, done.stderr)
        adata = anndata.read_h5ad(tmp_path / "out.h5ad")
        np.testing.assert_array_equal(adata.X, expected.X)
        assert list(adata.obs_names) == list(expected.obs_names)


def refused(of, tmp_path, *words, **how):
    """The command is refused in one line, and leaves no file."""
    assert_refused(predict(of, tmp_path, *how.pop("more", ()), **how), *words)
    assert not list(tmp_path.glob("out*"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_bad_images_are_refused(ridge, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    refused(ridge, tmp_path, "text.png", "image cannot be read", image=tmp_path / "text.png")
    refused(ridge, tmp_path, "image is missing", image=tmp_path / "absent.png")
    refused(ridge, tmp_path, "beyond 4 times", um=ridge.scale(SECTION) / 4.2)
    refused(ridge, tmp_path, "above 0", um=0)
    refused(ridge, tmp_path, "above 0", um="nan")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("barcode,x,y\na,1,1\nb,2,2\n", ("2 spots", "at least 3")),
        ("barcode,x,y\na,1,1\nb,2,2\nc,900,3\n", ("1 of 3 spots lie outside", "'c'")),
        ("barcode,x,y\na,1,1\nb,2,2\nc,-1,3\n", ("1 of 3 spots lie outside", "'c'")),
        ("barcode,x,y\na,1,1\na,2,2\nc,4,3\n", ("'a' occurs more than once",)),
        ("barcode,x,y\na,1,1\nb,nan,2\nc,4,3\n", ("not finite",)),
        ("barcode,x,y\na,5,5\nb,5,5\nc,5,5\n", ("share their pixel coordinates",)),
        ("barcode,x,why\na,1,1\n", ("no column 'y'",)),
        ("barcode,x,y\na,1,one\nb,2,2\nc,4,3\n", ("not numeric",)),
        ("", ("no column 'barcode'",)),
    ],
)
def test_bad_spots_are_refused(ridge, tmp_path, text, words):
    (tmp_path / "bad.csv").write_text(text)
    refused(ridge, tmp_path, *words, spots=False, more=("--spots", tmp_path / "bad.csv"))


def test_a_damaged_h5ad_of_spots_is_refused(ridge, tmp_path):
    (tmp_path / "bad.h5ad").write_bytes(b"\x89HDF\r\n\x1a\nnothing")
    more = ("--spots", tmp_path / "bad.h5ad")
    refused(ridge, tmp_path, "bad.h5ad", spots=False, more=more)


def test_bad_requests_are_refused(ridge, tmp_path):
    refused(ridge, tmp_path, "name a file with --spots", spots=False)
    refused(ridge, tmp_path, "gene of ridge 'GENE99'", more=("--genes", "GENE99"))
    refused(ridge, tmp_path, "ending must be one of", out="out.xls")
    refused(ridge, tmp_path, "fold 7 is not finished", more=("--fold", 7))
    refused(ridge, tmp_path, "ask for one", more=("--fold", 0, "--refit"))
    refused(ridge, tmp_path, "PCC lies between", more=("--min-pcc", 2))
    refused(ridge, tmp_path, "no run has a key", more=("--run", "zzz"))
    refused(ridge, tmp_path, "method with runs on tiny 'rigde'", "ridge", method="rigde")
    refused(ridge, tmp_path, "protocol with runs", more=("--protocol", "published"))


def test_rows_without_a_model_are_refused(ridge, tmp_path):
    other = ridge.results.parent / "rows"
    done = call(
        *("run", *ridge.dataset.where, "--preset", "tiny", "--device", "cpu", "--folds", "0"),
        *("--results", other, "--tracking", "none"),
        *("--method", "mean,ridge,knn,shuffled:ridge,mean:ridge+knn"),
    )
    assert done.status == 0, done.stderr
    # The last of equal options counts.
    for method, word in (
        ("mean", "is a control"),
        ("shuffled:ridge", "is a control"),
        ("depth", "is an oracle"),
        ("mean:ridge+knn", "ridge or knn"),
    ):
        refused(ridge, tmp_path, word, method=method, more=("--results", other))


def test_a_run_without_a_finished_fold_is_refused(ridge, tmp_path):
    other = tmp_path / "unfinished"
    done = call(
        *("run", *ridge.dataset.where, "--preset", "tiny", "--device", "cpu", "--folds", "0"),
        *("--results", other, "--tracking", "none", "--no-oracles", "--method", "ridge"),
    )
    assert done.status == 0, done.stderr
    (manifest,) = other.glob("runs/*/*/*/fold-0/manifest.json")
    manifest.unlink()
    refused(ridge, tmp_path, "no finished fold", more=("--results", other))


def test_the_help_names_the_files_and_every_ending():
    from bench.prediction.outputs import WRITERS

    help_text = " ".join(call("predict", "--help").stdout.replace("│", " ").split())
    assert "Usage: bench predict [OPTIONS] [MODEL] IMAGE Predict" in help_text
    assert all(ending in help_text for ending in WRITERS)


def test_micrometres_need_a_pixel_size(ridge, tmp_path):
    other = tmp_path / "micrometres"
    done = call(
        *("run", *ridge.dataset.where, "--preset", "tiny", "--device", "cpu", "--folds", "0"),
        *("--results", other, "--tracking", "none", "--no-oracles", "--method", "ridge"),
        *("--set", "patch_size=60um"),
    )
    assert done.status == 0, done.stderr
    ridge.spots(SECTION, tmp_path / "spots.csv")
    call_without = call(
        *("predict", ridge.image(SECTION), *ridge.model, "--results", other),
        *("--method", "ridge", "--spots", tmp_path / "spots.csv", "--out", tmp_path / "out.h5ad"),
    )
    assert_refused(call_without, "pixel size is not known", "--um-per-px")
    assert predict(ridge, tmp_path, "--results", other).status == 0
