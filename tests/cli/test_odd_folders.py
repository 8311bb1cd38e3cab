"""Folders as they lie on disks, made by the scripts of odd cases beside the repository."""

from __future__ import annotations

import functools
import importlib
import json

import numpy as np
import pytest

from bench.data.dataset import open_dataset
from bench.data.images.image import open_raster
from bench.registry import dataset_card

PLAIN = {"S1": 305, "S2": 294}


@pytest.fixture(scope="module")
def make(shared_folder, tmp_path_factory):
    """Folder that a script makes for a case, made once; no test changes it."""
    folders = tmp_path_factory.mktemp("cases")

    def write(script, case):
        folder = folders / script / case
        if not folder.exists():
            folder.mkdir(parents=True)
            getattr(importlib.import_module(script), case)(folder)
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(shared_folder / "cases"))
        tissue = importlib.import_module("tissue")
        patch.setattr(tissue, "make", drawn_once(tissue.make))
        yield write


def drawn_once(draw):
    """`tissue.make` that draws each section once; whoever changes its arrays is told."""

    @functools.cache
    def draw_once(*args, **options):
        section = draw(*args, **options)
        for value in vars(section).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        return section

    return draw_once


@pytest.fixture
def add(make, tmp_path, monkeypatch, bench):
    """Makes a case and adds it; gives status, what was added and what was complained of."""
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))

    def call(script, case, *options, patients="patients.csv"):
        folder = make(script, case)
        table = ("--patients", folder / patients) if patients else ()
        done = bench("data", "add", folder / "data", "--name", "own", *table, *options, "--json")
        return done.status, json.loads(done.stdout) if done.status == 0 else None, done.stderr

    return call


def spots_of(added):
    return {line["section"]: line["spots"] for line in added["sections"]}


SPACE_RANGER = [
    *("plain", "plot_beside", "raw_matrix_only", "gzipped_tables", "flat_prefixes", "genes_tsv"),
    *("two_positions_files", "aggregated", "antibodies"),
]
H5AD = [
    *("nullable_text", "categories_of_0_7", "cut_from_both", "spatial_data_frame", "other_key"),
    *("in_tissue_as_text", "counts_in_another_layer", "no_array_columns", "picture_of_hest"),
]
FOLDERS = [
    *("leftovers_of_macos", "checkpoints_of_jupyter", "linked_files", "linked_sections"),
    "linked_image",
]
IMAGES = [
    *("transparent_png", "transparent_tif", "exif_upside_down", "exif_sideways"),
    *("grey_of_16_bits", "twelve_of_16_bits", "channels_first", "four_inks"),
]
CASES = [
    (script, case)
    for script, cases in {
        "make_space_ranger": SPACE_RANGER,
        "make_h5ad": H5AD,
        "make_folders": FOLDERS,
        "make_images": IMAGES,
    }.items()
    for case in cases
]


@pytest.mark.parametrize(("script", "case"), CASES)
def test_odd_folders_are_read_as_plain_ones(add, script, case):
    status, added, said = add(script, case)
    assert status == 0, said
    assert spots_of(added) == PLAIN
    for line in added["sections"]:
        assert line["um/px"] == pytest.approx(2.5, rel=2e-3)
        assert line["on tissue"] > 0.98
        assert line["genes"] == {"antibodies": 58}.get(case, 60)
    if script == "make_images":
        assert_glass_is_bright_and_tissue_darker()
    if case == "categories_of_0_7":
        (section, *_) = open_dataset(dataset_card("own"), images=False)
        assert set(section.adata.obs["label"]) == {"stroma", "tumour"}


def assert_glass_is_bright_and_tissue_darker():
    (section, *_) = open_dataset(dataset_card("own"))
    with open_raster(section.image, section.max_image_pixels) as raster:
        glass = raster.crop(0, 0, 20, 20)
        x, y = section.spatial.mean(axis=0).astype(int)
        tissue = raster.crop(x - 10, y - 10, 20, 20)
    assert glass.min() >= 220
    assert tissue.mean() < glass.mean() - 40


def test_other_features_are_left_out_and_counted(add):
    _, added, _ = add("make_h5ad", "antibodies")
    assert [line["counts"] for line in added["sections"]] == [155, 154]
    (line, _) = added["sections"]
    assert line["left out"] == {"features of type 'Antibody Capture'": 10}


@pytest.mark.parametrize("case", ["image_doubled", "image_slightly_larger", "image_padded"])
def test_an_image_of_another_size_is_named_and_not_used(add, case):
    status, added, _ = add("make_space_ranger", case)
    assert status == 0
    for name, said in zip(("S1", "S2"), added["warnings"], strict=True):
        assert said.startswith(f"{name}: image.tif is not the image that the spots were placed in")
        assert "turned" not in said
    card = dataset_card("own")
    assert {s.files["image"].path.rpartition("/")[2] for s in card.sections} == {
        "tissue_hires_image.png"
    }


def test_barcodes_without_a_position_are_counted_and_said(add):
    _, added, _ = add("make_space_ranger", "positions_cut_off")
    lost = [line["left out"]["barcodes without a position"] for line in added["sections"]]
    assert lost == [218, 224]
    assert [said.partition(" of the matrix")[0] for said in added["warnings"]] == [
        "S1: 218 of 305 barcodes",
        "S2: 224 of 294 barcodes",
    ]


def test_visium_hd_has_the_stated_scale_and_one_section_a_sample(add):
    _, added, _ = add("make_space_ranger", "hd_two_samples")
    assert spots_of(added) == {"S1": 415, "S2": 407}
    assert {line["um/px"] for line in added["sections"]} == {0.5}


@pytest.mark.parametrize(("options", "spots"), [((), 415), (("--bin", "8um"), 1650)])
def test_bins_of_one_size_are_read(add, options, spots):
    _, added, _ = add("make_space_ranger", "hd_two_bin_sizes", *options)
    assert spots_of(added) == {"S1": spots}


@pytest.mark.parametrize(
    ("script", "case", "options", "said"),
    [
        ("make_space_ranger", "hd_two_bin_sizes", ("--bin", "2um"), "bins of 8 um, 16 um"),
        ("make_space_ranger", "hd_two_bin_sizes", ("--bin", "fine"), "--bin"),
        ("make_space_ranger", "scale_not_a_number", (), "microns_per_pixel"),
        ("make_h5ad", "coordinates_as_text", (), "obsm/spatial"),
        ("make_space_ranger", "plain", ("--sections", "S9"), "unknown section 'S9'"),
        ("make_space_ranger", "plain", ("--genome", "mm10"), "mm10"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(add, tmp_path, script, case, options, said):
    status, _, err = add(script, case, *options)
    assert status == 2
    assert said in err
    assert "Traceback" not in err
    assert not list((tmp_path / "own").rglob("*.yaml"))


def test_a_hest_folder_states_patients_scale_and_images(add):
    status, added, _ = add("make_folders", "hest", patients=None)
    assert status == 0
    assert spots_of(added) == {"INT10": 304, "TENX99": 301}
    card = dataset_card("own")
    assert card.layout == "hest"
    assert {s.files["image"].path for s in card.sections} == {"wsis/INT10.tif", "wsis/TENX99.tif"}
    assert {line["patient"] for line in added["sections"]} == {"patient-0", "patient-9"}


def test_spots_that_are_not_selected_are_left_out(add):
    _, added, _ = add("make_folders", "selected_spots")
    assert spots_of(added) == {"A1": 208, "B1": 211}
    assert [line["left out"] for line in added["sections"]] == [
        {"spots not selected": 251},
        {"spots not selected": 248},
    ]
    assert np.all([line["on tissue"] > 0.99 for line in added["sections"]])


@pytest.mark.parametrize(
    "table",
    [
        *("byte_order_mark", "semicolons", "blank_rows", "blanks", "further_column"),
        "windows_lines",
    ],
)
def test_tables_of_patients_as_spreadsheets_write_them(add, table):
    status, added, _ = add("make_folders", "tables_of_patients", patients=f"{table}.csv")
    assert status == 0
    assert [line["patient"] for line in added["sections"]] == ["P1", "P2"]


def test_an_image_without_tissue_is_said(add):
    _, added, err = add("make_images", "blank")
    assert [line["on tissue"] for line in added["sections"]] == [None, None]
    assert all("no tissue" in said for said in added["warnings"])
    assert "nan" not in err
