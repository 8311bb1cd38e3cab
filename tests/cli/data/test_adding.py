"""``bench data add``: folders of one's own become datasets, or are refused."""

from __future__ import annotations

import shutil

import pytest
import yaml

from tests.cli.data.folders import (
    added,
    image,
    one_section,
    patients,
    shown,
    two_files,
    visium,
)
from tests.cli.tiny_dataset import SECTIONS, assert_refused
from tests.datasets import layouts


@pytest.mark.slow
@pytest.mark.parametrize("counts", ["h5", "mtx"])
def test_a_folder_of_space_ranger_becomes_a_dataset_that_runs(
    bench, home, tmp_path, results, counts
):
    folder = visium(tmp_path / "slides", counts=counts)
    table = patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P 2"})
    made = added(bench, folder, table, "mine", "--pitch", "137")
    assert [line["section"] for line in made["sections"]] == ["S1", "S2"]
    assert all(line["um/px"] == pytest.approx(1) for line in made["sections"])
    assert all(line["on tissue"] == 1.0 for line in made["sections"])
    assert made["warnings"] == []
    card = yaml.safe_load((home / "cards" / "mine.yaml").read_text())
    assert card["patch_pixels"] == 112
    assert [section["patient"] for section in card["sections"]] == ["P1", "P-2"]
    assert "mine" in bench("list", "datasets").stdout
    answer = bench(
        *("run", "--method", "mean", "--dataset", "mine", "--results", results),
        *("--tracking", "none", "--panel", "expressed:5", "--folds", "0", "--no-oracles"),
    )
    assert answer.status == 0, answer.stderr


def test_a_reduced_image_is_used_with_its_scale(bench, home, tmp_path):
    folder = visium(tmp_path / "slides", hires=True)
    table = patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P2"})
    made = added(bench, folder, table)
    assert all(line["on tissue"] == 1.0 for line in made["sections"])
    assert any("10.0 times smaller" in line for line in made["assumed"])
    card = yaml.safe_load((home / "cards" / "mine.yaml").read_text())
    assert [section["image_scale"] for section in card["sections"]] == [0.1, 0.1]


def test_files_of_anndata_become_a_dataset(bench, home, tmp_path):
    folder = tmp_path / "files"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        layouts.write_h5ad(folder / name)["counts"].rename(folder / f"{name}.h5ad")
        image(folder / f"{name}.png")
    table = patients(tmp_path / "map.csv", {"one": "P1", "two": "P2"})
    made = added(bench, folder, table)
    assert [line["spots"] for line in made["sections"]] == [12, 12]
    assert all(line["on tissue"] == 1.0 for line in made["sections"])


def test_a_legacy_folder_becomes_a_dataset(bench, home, tmp_path, tiny):
    folder = tmp_path / "legacy"
    for name in SECTIONS[:4]:
        (folder / "imgs" / name).mkdir(parents=True)
        (folder / "cnts").mkdir(exist_ok=True)
        shutil.copy(tiny.counts(name), folder / "cnts" / f"{name}.tsv.gz")
        shutil.copy(tiny.spots(name), folder / f"{name}_selection.tsv")
        shutil.copy(tiny.image(name), folder / "imgs" / name / "scan_7.jpg")
    table = patients(tmp_path / "map.csv", {name: name[0] for name in SECTIONS[:4]})
    made = added(bench, folder, table, "mine", "--patch", "200")
    assert [line["section"] for line in made["sections"]] == list(SECTIONS[:4])
    card = yaml.safe_load((home / "cards" / "mine.yaml").read_text())
    assert card["sections"][0]["files"]["image"]["path"] == "imgs/A1/scan_7.jpg"


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({"S1": "P1"}, "names no patient of section S2"),
        ({"S1": "P1", "S2": ""}, "names no patient of section S2"),
        ({"S1": "P1", "S2": "P2", "S3": "P3"}, "names section S3, which was not found"),
    ],
)
def test_every_section_needs_a_patient(bench, home, tmp_path, pairs, said):
    folder = visium(tmp_path / "slides")
    table = patients(tmp_path / "map.csv", pairs)
    answer = bench("data", "add", folder, "--name", "mine", "--patients", table)
    assert_refused(answer, said, "map.csv")
    assert not (home / "cards").exists()


def test_a_section_that_cannot_be_read_leaves_no_card(bench, home, tmp_path):
    folder = visium(tmp_path / "slides")
    path = folder / "S2" / "outs" / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:2000])
    table = patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P2"})
    answer = bench("data", "add", folder, "--name", "mine", "--patients", table)
    assert_refused(answer, "filtered_feature_bc_matrix.h5")
    assert not (home / "cards").exists()


@pytest.mark.parametrize("name", ["her2st", "a b", "../x", ""])
def test_a_name_that_cannot_be_had_is_refused(bench, home, tmp_path, name):
    folder = visium(tmp_path / "slides")
    table = patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P2"})
    answer = bench("data", "add", folder, "--name", name, "--patients", table)
    assert_refused(answer)
    assert not (home / "cards").exists()


def test_a_dataset_is_written_over_only_when_asked(bench, home, tmp_path):
    folder = visium(tmp_path / "slides")
    table = patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P2"})
    added(bench, folder, table)
    answer = bench("data", "add", folder, "--name", "mine", "--patients", table)
    assert_refused(answer, "--replace")
    added(bench, folder, table, "mine", "--replace")


def test_a_changed_file_of_an_added_dataset_is_refused(bench, home, tmp_path, results):
    folder = visium(tmp_path / "slides")
    added(bench, folder, patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P2"}))
    path = folder / "S1" / "outs" / "spatial" / "tissue_positions_list.csv"
    path.write_text(path.read_text().replace("1000", "1001"))
    answer = bench("run", "-m", "mean", "-d", "mine", "--results", results, "--tracking", "none")
    assert_refused(answer, "tissue_positions_list.csv", "hash")


def test_one_section_is_divided_into_blocks_as_it_is_told_and_runs(bench, home, tmp_path, results):
    folder = tmp_path / "files"
    folder.mkdir()
    table = one_section(folder)
    add = ("data", "add", folder, "--name", "mine", "--patients", table)
    whole = bench(*add)
    assert whole.status == 0, whole.stderr
    assert "add it again with --blocks 4 --replace" in whole.stderr
    assert "bench run" not in whole.stdout
    divided = bench(*add, "--blocks", "4", "--replace")
    assert divided.status == 0, divided.stderr
    card = yaml.safe_load((home / "cards" / "mine.yaml").read_text())
    assert [s["name"] for s in card["sections"]] == ["one-b1", "one-b2", "one-b3", "one-b4"]
    assert [s["block"] for s in card["sections"]] == [[1, 4], [2, 4], [3, 4], [4, 4]]
    rows = {row["section"]: row for row in shown(bench, "mine")["sections"]}
    assert [rows[f"one-b{n}"]["spots"] for n in (1, 2, 3, 4)] == [30, 30, 30, 30]

    advice = divided.stdout.split("run a method:")[1].split()
    assert advice[:2] == ["bench", "run"]
    assert advice[-2:] == ["--protocol", "by-section"]
    advice[advice.index("--method") + 1] = "coordinates"  # any method that takes no time
    answer = bench(*advice[1:], "--results", results, "--tracking", "none", "--panel", "hvg:20")
    assert answer.status == 0, answer.stderr
    assert "4 folds" in answer.stderr + answer.stdout
    # A patch is 112 um, 56 px: at each border, the last column of six spots and the first.
    told = " ".join(answer.stdout.split())
    assert "Blocks of one section: training and test spots are of one section" in told
    assert "36 test spots lie within a patch width" in told
    assert_refused(bench("run", "-m", "mean", "-d", "mine", "--results", results), "by-section")


def test_sections_of_two_patients_are_divided_and_run_under_strict(bench, home, tmp_path, results):
    folder = visium(tmp_path / "slides")
    table = patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P2"})
    made = added(bench, folder, table, "mine", "--blocks", "2")
    assert [line["section"] for line in made["sections"]] == ["S1-b1", "S1-b2", "S2-b1", "S2-b2"]
    assert [line["spots"] for line in made["sections"]] == [6, 6, 6, 6]
    answer = bench(
        *("run", "--method", "mean", "--dataset", "mine", "--results", results),
        *("--tracking", "none", "--panel", "expressed:5"),
    )
    assert answer.status == 0, answer.stderr
    assert "Blocks of one section" not in answer.stdout


@pytest.mark.parametrize("blocks", ["1", "17", "x", "0", "-2"])
def test_a_number_of_blocks_that_cannot_be_is_refused(bench, home, tmp_path, blocks):
    table = one_section(tmp_path)
    add = ("data", "add", tmp_path, "--name", "mine", "--patients", table, "--blocks", blocks)
    assert_refused(bench(*add), "--blocks")
    assert not (home / "cards").exists()


def test_more_blocks_than_the_spots_of_a_section_allow_are_refused(bench, home, tmp_path):
    folder = visium(tmp_path / "slides", names=("S1",))
    table = patients(tmp_path / "map.csv", {"S1": "P1"})
    add = ("data", "add", folder, "--name", "mine", "--patients", table, "--blocks", "5")
    assert_refused(bench(*add), "12 spots cannot be divided into 5 blocks")
    assert not (home / "cards").exists()


def test_an_empty_folder_says_what_is_looked_for(bench, home, tmp_path):
    (tmp_path / "empty").mkdir()
    table = patients(tmp_path / "map.csv", {"S1": "P1"})
    answer = bench("data", "add", tmp_path / "empty", "--name", "mine", "--patients", table)
    assert_refused(answer, "no section found", "Space Ranger")


def test_a_file_that_changed_is_not_told_to_be_fetched(bench, home, tmp_path, results):
    table = two_files(tmp_path / "files")
    added(bench, tmp_path / "files", table)
    with open(tmp_path / "files" / "one.h5ad", "ab") as stream:
        stream.write(b"more")
    run = bench("run", "-m", "mean", "-d", "mine", "--results", results, "--tracking", "none")
    for answer in (run, bench("data", "verify", "mine")):
        assert answer.status == 2
        assert "has changed since it was added; if that was intended, repeat" in answer.stderr
        assert "--replace" in answer.stderr
        assert "fetch" not in answer.stderr


def test_one_section_has_a_singular(bench, home, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    added(bench, folder, one_section(folder))
    card = yaml.safe_load((home / "cards" / "mine.yaml").read_text())
    assert card["title"] == "1 section of 1 patient"
