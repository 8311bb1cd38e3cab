"""Which image of a folder is taken, and what is said of the others: by size, place and name."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.datasets import h5ad, hest, space_ranger
from bench.errors import DataError
from bench.fetch.add import add_dataset
from bench.fetch.search import find_sections
from tests.datasets import layouts
from tests.datasets.layouts import SmallSection

SIDE = (2000, 1500)
"""Width and height of the full-resolution image."""


def write_image(path, scale=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = (round(side * scale) for side in SIDE)
    Image.new("RGB", (width, height), "white").save(path)
    return path


@pytest.fixture
def outs(tmp_path):
    """A Space Ranger folder without a full-resolution image; its hires image is a tenth."""
    folder = tmp_path / "S1" / "outs"
    (folder / "spatial").mkdir(parents=True)
    layouts.write_positions(folder / "spatial", 2)
    layouts.write_scalefactors(folder / "spatial")
    layouts.write_10x_h5(folder / "filtered_feature_bc_matrix.h5")
    write_image(folder / "spatial" / "tissue_hires_image.png", 0.1)
    return folder


def found(folder, reader=space_ranger):
    (section,) = reader.discover(folder)
    return section


@pytest.mark.parametrize("place", ["S1/full.tif", "S1/outs/full.tif", "S1/outs/spatial/full.tif"])
def test_an_image_of_the_right_size_is_taken_wherever_it_lies(tmp_path, outs, place):
    image = write_image(tmp_path / place)
    section = found(tmp_path)
    assert (section.files["image"], section.image_scale) == (image, 1)
    assert not section.warnings


@pytest.mark.parametrize("place", ["S1.tif", "images/S1.jpg"])
def test_an_image_elsewhere_is_taken_by_the_name_of_its_section(tmp_path, outs, place):
    write_image(tmp_path / "images" / "S2.tif")
    image = write_image(tmp_path / place)
    assert found(tmp_path).files["image"] == image


@pytest.mark.parametrize("times", [0.5, 1.15, 2, 3.7])
def test_an_image_of_another_size_is_said_and_not_taken(tmp_path, outs, times):
    write_image(tmp_path / "S1" / "image.png", times)
    section = found(tmp_path)
    assert section.files["image"].name == "tissue_hires_image.png"
    assert section.image_scale == 0.1
    (said,) = section.warnings
    assert f"instead of 2000 x 1500, {times:.3g} times as large" in said


def test_the_hires_image_may_be_a_jpeg(tmp_path, outs):
    (outs / "spatial" / "tissue_hires_image.png").unlink()
    image = write_image(outs / "spatial" / "tissue_hires_image.jpg", 0.1)
    section = found(tmp_path)
    assert (section.files["image"], section.image_scale) == (image, 0.1)


@pytest.mark.parametrize("full", [False, True])
def test_a_hires_image_that_was_resized_is_told_by_the_lowres_one(tmp_path, outs, full):
    write_image(outs / "spatial" / "tissue_hires_image.png", 0.2)
    write_image(outs / "spatial" / "tissue_lowres_image.png", 0.03)
    if full:
        write_image(tmp_path / "S1" / "image.png")
    section = found(tmp_path)
    (said,) = section.warnings
    assert "has 4000 x 3000 px, by tissue_lowres_image.png 2000 x 1500" in said
    expected = "image.png" if full else "tissue_hires_image.png"
    assert section.files["image"].name == expected


def test_a_lowres_image_alone_is_not_used(tmp_path, outs):
    (outs / "spatial" / "tissue_hires_image.png").unlink()
    write_image(outs / "spatial" / "tissue_lowres_image.png", 0.03)
    section = found(tmp_path)
    assert "image" not in section.files
    assert "tissue_lowres_image.png is too small" in section.assumed[0]
    write_image(tmp_path / "S1" / "image.png")
    assert found(tmp_path).files["image"].name == "image.png"


def test_a_compressed_hires_image_is_said(tmp_path, outs):
    image = outs / "spatial" / "tissue_hires_image.png"
    image.with_name("tissue_hires_image.png.gz").write_bytes(gzip.compress(image.read_bytes()))
    image.unlink()
    assert "unpack it with gunzip" in found(tmp_path).assumed[0]


def test_a_folder_of_geo_with_a_prefix_is_read(tmp_path, outs):
    (outs / "spatial").rename(tmp_path / "GSM7_A1_spatial")
    matrix = outs / "filtered_feature_bc_matrix.h5"
    matrix.rename(tmp_path / "GSM7_A1_filtered_feature_bc_matrix.h5")
    write_image(tmp_path / "GSM7_A1_image.png")
    write_image(tmp_path / "GSM8_B1_image.png")
    section = found(tmp_path)
    assert (section.name, section.files["image"].name) == ("A1", "GSM7_A1_image.png")
    adata = space_ranger.read({role: section.files[role] for role in ("counts", "positions")})
    np.testing.assert_array_equal(adata.X.toarray(), SmallSection().counts)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("A1.h5ad.gz", "gunzip"),
        ("GSM1_filtered_feature_bc_matrix.h5.gz", "gunzip"),
        ("GSM1_A1_spatial.tar.gz", "unpack it there"),
        ("slides.zip", "unpack it there"),
        ("A1.rds", "write it as .h5ad"),
        ("A1.loom", "write it as .h5ad"),
        ("alignment_table_A1.json", "Loupe"),
    ],
)
def test_other_forms_are_named_with_the_way_out(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"{name} is .*{advice}"):
        find_sections(tmp_path, {})


# AnnData


def spatial(**images):
    """What scanpy keeps of images: uint8 arrays by name, reduced by the factors of their names."""
    factors = {"hires": 0.1, "lowres": 0.03}
    return {
        "L": {
            "images": images,
            "scalefactors": {f"tissue_{name}_scalef": factors[name] for name in images},
        }
    }


def pixels(scale, channels=3):
    width, height = (round(side * scale) for side in SIDE)
    return np.full((height, width, channels), 200, np.uint8)


def write_h5ad(folder, **images):
    adata = layouts.small_anndata()
    adata.uns["spatial"] = spatial(**images)
    adata.write_h5ad(folder / "A1.h5ad")


@pytest.mark.parametrize(("times", "taken"), [(1, "A1.png"), (2, "A1.h5ad")])
def test_an_image_beside_a_file_has_the_size_that_the_one_inside_tells(tmp_path, times, taken):
    write_h5ad(tmp_path, hires=pixels(0.1))
    write_image(tmp_path / "A1.png", times)
    section = found(tmp_path, h5ad)
    assert section.files["image"].name == taken
    assert [f"{times} times as large" in said for said in section.warnings] == [True] * (times > 1)


def test_images_inside_that_disagree_are_said(tmp_path):
    write_h5ad(tmp_path, hires=pixels(0.2), lowres=pixels(0.03))
    (said,) = found(tmp_path, h5ad).warnings
    assert "hires inside A1.h5ad" in said
    assert "4000 x 3000" in said


def test_a_transparent_image_inside_is_white(tmp_path):
    image = pixels(0.1, 4)
    image[:5], image[5:] = (0, 0, 0, 0), (10, 20, 30, 255)
    write_h5ad(tmp_path, hires=image)
    shown, _ = h5ad.embedded_image(tmp_path / "A1.h5ad")
    assert (shown[:5] == 255).all()
    assert (shown[5:] == (10, 20, 30)).all()


@pytest.mark.parametrize(
    "names", [("y", "x"), ("pxl_row_in_fullres", "pxl_col_in_fullres"), ("imagerow", "imagecol")]
)
def test_columns_of_coordinates_go_by_their_names(tmp_path, names):
    adata = layouts.small_anndata()
    x, y = adata.obsm["spatial"].T
    columns = {names[0]: y, names[1]: x}
    adata.obsm["spatial"] = pd.DataFrame(columns, index=adata.obs_names)
    adata.write_h5ad(tmp_path / "A1.h5ad")
    read = h5ad.read({"counts": tmp_path / "A1.h5ad"})
    np.testing.assert_array_equal(read.obsm["spatial"], SmallSection().pixels)


def test_spots_of_no_section_are_counted_and_make_none(tmp_path):
    adata = layouts.small_anndata()
    adata.obs["library_id"] = pd.Categorical([None] * 2 + ["L1"] * 5 + ["L2"] * 5)
    adata.write_h5ad(tmp_path / "A1.h5ad")
    sections = h5ad.discover(tmp_path)
    assert [section.name for section in sections] == ["L1", "L2"]
    read = h5ad.read(sections[0].files, **sections[0].settings)
    assert list(read.obs_names) == list(layouts.BARCODES[2:7])
    assert read.uns["left_out"] == {"spots of the file without a value of library_id": 2}


# HEST


def write_hest(folder, facts):
    for name in ("st", "wsis", "metadata"):
        (folder / name).mkdir()
    layouts.small_anndata().write_h5ad(folder / "st" / "X1.h5ad")
    write_image(folder / "wsis" / "X1.tif")
    (folder / "metadata" / "X1.json").write_text(facts)


@pytest.mark.parametrize(("width", "faults"), [(2000, 0), (4000, 1)])
def test_a_slide_of_another_size_than_its_metadata_state_is_said(tmp_path, width, faults):
    stated = {"fullres_px_width": width, "fullres_px_height": 1500, "dataset_title": "T"}
    write_hest(tmp_path, json.dumps(stated))
    section = found(tmp_path, hest)
    assert len(section.warnings) == faults
    assert all("2000 x 1500 px, its metadata state 4000 x 1500" in w for w in section.warnings)


def test_metadata_that_name_a_patient_twice_are_refused(tmp_path):
    write_hest(tmp_path, '{"patient": "P1", "patient": "P2"}')
    with pytest.raises(DataError, match="'patient' occurs more than once"):
        hest.discover(tmp_path)


@pytest.mark.parametrize(("pixel", "faults"), [(100 / 137, 0), (0.5, 1)])
def test_a_stated_scale_that_the_array_contradicts_is_said(tmp_path, monkeypatch, pixel, faults):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "cache"))
    slides = tmp_path / "slides"
    slides.mkdir()
    write_hest(slides, json.dumps({"dataset_title": "T", "pixel_size_um_estimated": pixel}))
    added = add_dataset(slides, "mine", None, ())
    said = [one for one in added.warnings if "by the stated scale" in one]
    assert len(said) == faults
    assert all("spots are 68.5 um apart instead of 100 um" in one for one in said)


@pytest.mark.parametrize("filled", [False, True])
def test_tissue_that_fills_an_image_is_said_not_to_be_judged(tmp_path, monkeypatch, filled):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "cache"))
    slides = tmp_path / "slides"
    slides.mkdir()
    layouts.small_anndata().write_h5ad(slides / "A1.h5ad")
    noise = np.random.default_rng(0).integers(20, 250, (150, 200, 3)).astype(np.uint8)
    noise = noise.repeat(10, axis=0).repeat(10, axis=1)
    if not filled:
        noise[:, :900] = noise[:700] = 243
    Image.fromarray(noise).save(slides / "A1.png", compress_level=1)
    (tmp_path / "p.csv").write_text("section,patient\nA1,P1\n")
    added = add_dataset(slides, "mine", tmp_path / "p.csv", ())
    said = [one for one in added.assumed if "tissue seems to fill its image" in one]
    assert len(said) == filled
    assert (added.sections[0]["on tissue"] is None) == filled
