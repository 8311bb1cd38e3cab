"""The whole way on real breast cancer sections."""

import numpy as np
import pytest

import bench
from bench.data.dataset import open_dataset
from bench.data.images.patches import PatchSource
from bench.data.section import load_section
from bench.registry import dataset_card


@pytest.fixture
def her2st(shared_folder):
    return shared_folder / "data" / "her2st"


@pytest.mark.slow
def test_published_protocol_gives_the_known_numbers_on_all_published_sections(her2st, tmp_path):
    table = bench.run(
        ["mean", "depth"],
        "her2st",
        protocol="published",
        data_root=her2st,
        results=tmp_path,
        tracking="none",
    ).set_index("method")
    assert table.loc["mean", "sections"] == 32
    assert table.loc["mean", "mse"] == pytest.approx(0.7115, abs=0.0005)
    assert table.loc["mean", "mae"] == pytest.approx(0.6716, abs=0.0005)
    assert table.loc["depth", "pcc_acg"] == pytest.approx(0.3037, abs=0.0005)
    assert table.loc["depth", "pcc_heg"] == pytest.approx(0.5810, abs=0.0005)
    assert np.isnan(table.loc["depth", "mse"])


def test_a_section_and_its_patches_are_read_once_and_then_mapped(her2st, own_cache, monkeypatch):
    card = dataset_card("her2st")
    section = card.section("C2")
    hashes = {role: file.verify(her2st / file.path) for role, file in section.files.items()}

    def patches():
        loaded = load_section(card, section, her2st, hashes)
        source = PatchSource(
            loaded.image, loaded.image_hash, loaded.max_image_pixels, loaded.spatial
        )
        return source.cut(card.patch_pixels)

    first = patches()
    assert first.shape == (187, 224, 224, 3)
    # Tissue under H&E: neither black nor white, more red and blue than green.
    red, green, blue = first.reshape(-1, 3).mean(axis=0)
    assert 60 < green < min(red, blue) < 250

    def refuse(*_):
        raise AssertionError("the store must spare reading the image")

    monkeypatch.setattr("bench.data.images.patches.open_raster", refuse)
    second = patches()
    assert isinstance(second, np.memmap)
    np.testing.assert_array_equal(first, second)


def test_images_decide_which_sections_a_method_that_looks_at_them_can_use(her2st):
    card = dataset_card("her2st")
    without = open_dataset(card, her2st, images=False)
    assert len(without.hashes) == 36
    assert not without.left_out
    with_images = open_dataset(card, her2st, images=True)
    assert list(with_images.hashes) == ["B4", "C2", "C3", "C4"]
    assert len(with_images.left_out) == 32
    assert with_images.left_out["A1"] == ("image data/ST-imgs/A/A1/9769_C1_HE_small.jpg is missing")


@pytest.mark.slow
def test_mclstexp_runs_on_real_tissue(her2st, tmp_path):
    table = bench.run(
        ["mclstexp", "shuffled", "coordinates"],
        "her2st",
        preset="quick",
        folds=[0],
        settings={"epochs": 1},
        data_root=her2st,
        results=tmp_path,
        tracking="none",
    )
    assert set(table["method"]) == {"mclstexp", "shuffled:mclstexp", "coordinates", "depth"}
    assert table["folds_hash"].nunique() == 1
    assert table["pcc_acg"].notna().all()
    errors = table.set_index("method")["mse"].drop("depth")  # of no scale of ours
    assert errors.between(0.05, 2).all()
