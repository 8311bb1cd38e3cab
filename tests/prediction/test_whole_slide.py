"""Slides without spots: a grid over the tissue, tiles read stripe by stripe."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import bench
from bench.data.images import slide_patches
from bench.data.inputs import Slide
from bench.files import file_hash
from bench.prediction import averaging, comparing, predicting
from bench.prediction import new_image as module
from bench.prediction.training_images import same_file
from bench.registry import find_methods, method_class
from tests.cli.tiny_dataset import assert_refused, call
from tests.data.images.made_slides import tissue_like, write_svs

UM = 2.0
SIDE = 640


@pytest.fixture(scope="module")
def svs(tmp_path_factory):
    """A slide whose tissue fills the middle, of the scale of the tiny dataset."""
    path = tmp_path_factory.mktemp("slide") / "slide.svs"
    pixels = tissue_like(SIDE, SIDE, left=160, top=96, right=544, bottom=480)
    write_svs(path, pixels, mpp=f"{UM:.4f}")
    return path


def predict(of, image, tmp_path, *more, out="out.h5ad"):
    model = (*of.model, "--method", "ridge")
    return call("predict", image, *model, "--out", tmp_path / out, *more)


def test_a_grid_covers_the_tissue_at_the_scale_of_the_metadata(ridge, svs, tmp_path):
    done = predict(ridge, svs, tmp_path, "--grid", "64um", "--mask", tmp_path / "mask.png")
    assert done.status == 0, done.stderr
    assert "the pixel size, 2 um, is that of the image's metadata" in done.stderr
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    # Tiles of 32 px: the tissue covers columns 5 to 16 and rows 3 to 14, up to its soft border.
    columns, rows = found.obs["array_col"], found.obs["array_row"]
    assert {6, 15} <= set(columns) <= set(range(4, 18))
    assert {4, 13} <= set(rows) <= set(range(2, 16))
    array = np.column_stack([columns, rows])
    np.testing.assert_allclose(found.obsm["spatial"], (array + 0.5) * 64 / UM)
    assert found.obs_names[0] == f"r{rows.iloc[0]:04d}c{columns.iloc[0]:04d}"
    assert np.isfinite(np.asarray(found.X)).all()
    assert found.uns["spotbench"]["micrometres_per_pixel"] == UM
    (spatial,) = found.uns["spatial"].values()
    assert spatial["scalefactors"]["microns_per_pixel"] == UM
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == (SIDE, SIDE)


@pytest.fixture
def in_tiles(monkeypatch):
    """Every image is read in tiles, a few rows of them at a time."""
    ranges = slide_patches.stripe_ranges
    monkeypatch.setattr(predicting, "LARGE_IMAGE", 100 * 100)
    monkeypatch.setattr(module, "stripe_ranges", lambda bands: ranges(bands, 30))
    monkeypatch.setattr(module, "_BAND_PATCHES", 1)
    seen = []
    stripes = module.stripes

    def watched(slide, reads_section):
        for rows, part in stripes(slide, reads_section):
            seen.append(len(rows))
            yield rows, part

    for user in (averaging, comparing):
        monkeypatch.setattr(user, "stripes", watched)
    return seen


def test_stripes_of_tiles_give_what_the_whole_image_gives(ridge, svs, tmp_path, request):
    card = ridge.dataset.edit_card()
    assert card["max_image_pixels"] < SIDE * SIDE
    spots = pd.DataFrame(
        np.random.default_rng(0).uniform(100, 540, (100, 2)), columns=["x", "y"]
    ).rename(index="s{}".format)
    given = {
        "dataset": str(ridge.dataset.card), "method": "ridge", "results": ridge.results,
        "data_root": ridge.dataset.root, "device": "cpu", "spots": spots,
    }  # fmt: skip
    whole = bench.predict(svs, **given)
    seen = request.getfixturevalue("in_tiles")
    striped = bench.predict(svs, **given)
    assert max(seen) <= 30
    assert len(seen) >= 8
    assert sum(seen) == 200, "predicted, and compared with the training"
    assert list(striped.obs_names) == list(whole.obs_names)
    np.testing.assert_allclose(striped.X, whole.X, atol=1e-6)
    np.testing.assert_allclose(striped.obs["ood_score"], whole.obs["ood_score"], atol=1e-6)
    again = len(seen)
    bench.predict(svs, **{**given, "spots": spots.iloc[::-1]})
    assert len(seen) == 2 * again


def test_a_method_that_reads_the_section_is_given_all_of_it(tmp_path, svs, in_tiles):
    with module.open_slide(svs) as slide:
        source = slide_patches.slide_patches(slide, np.full((50, 2), 300.0))
    whole = Slide("s", np.zeros((50, 2), np.int64), source.centres, 32, source)
    assert [len(part) for _, part in module.stripes(whole, reads_section=True)] == [50]
    shapes = [part.patches(32).shape for _, part in module.stripes(whole, reads_section=False)]
    assert shapes == [(30, 32, 32, 3), (20, 32, 32, 3)]


def test_only_methods_that_look_at_one_patch_a_spot_say_so():
    built_in = [name for name, found in find_methods().items() if found.source == "built-in"]
    kinds = {name: method_class(name) for name in built_in}
    local = {name for name, kind in kinds.items() if not kind.reads_section}
    assert local == {"ridge", "knn", "mlp", "boosting", "stnet", "bleep", "mclstexp"}


@pytest.mark.parametrize(
    ("name", "preset"), [("ridge", "tiny"), ("knn", "tiny"), ("stnet", "tiny"), ("bleep", "tiny")]
)
def test_methods_that_say_so_predict_a_spot_the_same_without_its_neighbours(
    data, slide, name, preset
):
    kind = method_class(name)
    method = kind(kind.configure("any", preset))
    context = bench.method.Context(seed=1)
    method.fit(data, context)
    (whole,) = method.predict([slide], context)
    rows = np.arange(len(slide))[::2]
    some = replace(
        slide,
        array_xy=slide.array_xy[rows],
        spatial=slide.spatial[rows],
        patch_source=replace(slide.patch_source, centres=slide.patch_source.centres[rows]),
    )
    np.testing.assert_allclose(method.predict([some], context)[0], whole[rows], atol=1e-5)


def blank(tmp_path):
    path = tmp_path / "blank.png"
    Image.new("RGB", (300, 300), (244, 243, 244)).save(path)
    return path


@pytest.mark.parametrize(
    ("image", "more", "words"),
    [
        (blank, ("--grid", "50um", "--um-per-px", "2"), ["no tissue"]),
        (blank, ("--grid", "50um"), ["its pixel size is not known", "--um-per-px"]),
        (None, ("--grid", "3000um"), ["tiles of 3000 micrometres", "at least 3"]),
        (None, ("--grid", "0.1um"), ["finer than the slide's pixels"]),
        (None, ("--grid", "wide"), ["write a pitch such as 100um"]),
        (None, ("--grid", "-5um"), ["--grid -5.0", "above 0"]),
        (None, ("--grid", "64um", "--spots", "spots.csv"), ["ask for one"]),
        (None, ("--mask", "mask.png"), ["ask for a grid too"]),
        (None, ("--grid", "64um", "--um-per-px", "9", "--mask", "mask.png"), ["beyond 4 times"]),
        (None, (), ["its spots are not known", "--grid"]),
    ],
)
def test_a_grid_that_cannot_be_laid_is_refused(
    ridge, svs, tmp_path, monkeypatch, image, more, words
):
    monkeypatch.chdir(tmp_path)
    answer = predict(ridge, image(tmp_path) if image else svs, tmp_path, *more)
    assert_refused(answer, *words)
    assert not (tmp_path / "out.h5ad").exists()
    assert not (tmp_path / "mask.png").exists()


def test_a_training_image_is_known_by_whatever_hash_its_card_has(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"pixels")
    for algorithm in ("sha256", "git-blob", "md5"):
        own = f"{algorithm}:{file_hash(path, algorithm)}"
        assert same_file(path, {"A": "sha256:0", "B": "md5:0", "C": own}) == "C"
    assert same_file(path, {"A": "sha256:0"}) is None
    assert same_file(path, {}) is None
