"""``bench data show, preview, add``: what a user is told of a dataset; own datasets."""

from __future__ import annotations

import json
import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from bench import load_dataset
from bench.cache import cache_folder
from bench.cli.data_adding import _together
from tests.cli.tiny_dataset import SECTIONS, assert_refused
from tests.datasets import layouts


@pytest.fixture
def home(tmp_path, monkeypatch, own_cache):
    """A data home of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SPOTBENCH_DATA", str(folder))
    return folder


def shown(bench, *arguments):
    answer = bench("data", "show", *arguments, "--json")
    assert answer.status == 0, answer.stderr
    return json.loads(answer.stdout)


def test_show_measures_what_is_here(bench, tiny, own_cache):
    content = shown(bench, tiny.card, "--data-root", tiny.root)
    assert [s["section"] for s in content["sections"]] == list(SECTIONS)
    first = content["sections"][0]
    assert (first["patient"], first["spots"], first["genes"]) == ("A", 30, 40)
    assert first["pitch_pixels"] == pytest.approx(30)  # 28 px across, 32 px down
    assert first["micrometres_per_pixel"] == 2.0
    counts = np.loadtxt(tiny.counts("A1"), delimiter="\t", skiprows=1, usecols=range(1, 41))
    assert first["median_counts"] == np.median(counts.sum(axis=1))


def test_show_reads_a_file_again_when_it_has_changed(bench, damaged, own_cache):
    where = (damaged.card, "--data-root", damaged.root)
    assert shown(bench, *where)["sections"][0]["spots"] == 30
    lines = damaged.spots("A1").read_text().splitlines()
    damaged.spots("A1").write_text("\n".join(lines[:-4]) + "\n")
    assert shown(bench, *where)["sections"][0]["spots"] == 26


def test_show_names_what_is_missing_and_what_is_broken(bench, damaged, own_cache):
    damaged.image("A1").unlink()
    damaged.counts("A2").unlink()
    damaged.spots("B1").write_text("nothing\n")
    answer = bench("data", "show", damaged.card, "--data-root", damaged.root)
    assert answer.status == 2
    rows = {line.split()[0]: line for line in answer.stdout.splitlines() if line.strip()}
    assert rows["A1"].rstrip().endswith("image")
    assert rows["A2"].rstrip().endswith("counts")
    assert "B1.tsv" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert rows["C1"].rstrip().endswith("-")


def test_a_table_of_numbers_breaks_no_word(bench, tiny, own_cache):
    answer = bench("data", "show", tiny.card, "--data-root", tiny.root)
    lines = answer.stdout.splitlines()
    heading = next(number for number, line in enumerate(lines) if "patient" in line)
    assert lines[heading - 1].split() == ["pitch", "um"]
    words = "section patient spots genes counts px per px"
    assert lines[heading].split()[:8] == words.split()
    assert max(map(len, answer.stdout.splitlines()[-12:])) <= 80


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_show_draws_the_spots_over_the_images(bench, tiny, tmp_path, ending):
    path = tmp_path / f"spots.{ending}"
    chosen = ("--sections", "A1,B2", "--data-root", tiny.root)
    answer = bench("data", "show", tiny.card, *chosen, "--plot", path)
    assert answer.status == 0, answer.stderr
    assert f"wrote {path}" in answer.stdout
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")
    if ending == "png":
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        green = (pixels[..., 1] > pixels[..., 0] + 60) & (pixels[..., 1] > pixels[..., 2] + 60)
        assert 200 < green.sum() < green.size / 4  # rings, and no more than rings


def test_a_picture_of_another_kind_is_refused(bench, tiny, tmp_path):
    where = ("--data-root", tiny.root, "--plot", tmp_path / "spots.bmp")
    assert_refused(bench("data", "show", tiny.card, *where), "spots.bmp", ".png")
    assert list(tmp_path.glob("*.bmp")) == []


def test_an_unknown_section_is_refused_with_the_nearest(bench, tiny):
    where = ("--data-root", tiny.root)
    assert_refused(bench("data", "show", tiny.card, "--sections", "A3", *where), "'A3'", "A1")
    assert_refused(bench("data", "preview", tiny.card, "A3", "-g", "GENE1", *where), "'A3'", "A1")


def test_preview_draws_a_gene_and_says_its_counts(bench, tiny, tmp_path):
    path = tmp_path / "gene.png"
    answer = bench(
        "data", "preview", tiny.card, "A1", "--gene", "GENE7", "--data-root", tiny.root, "-o", path
    )
    assert answer.status == 0, answer.stderr
    assert "GENE7 in A1: detected in" in answer.stdout
    with Image.open(path) as image:
        assert image.width > 800


def test_preview_works_without_the_image(bench, damaged, tmp_path):
    damaged.image("A1").unlink()
    path = tmp_path / "gene.png"
    where = ("--data-root", damaged.root, "-o", path)
    assert bench("data", "preview", damaged.card, "A1", "-g", "GENE7", *where).status == 0
    assert path.is_file()


def test_preview_of_an_unknown_gene_offers_the_nearest(bench, tiny, tmp_path):
    where = ("--data-root", tiny.root, "-o", tmp_path / "gene.png")
    answer = bench("data", "preview", tiny.card, "A1", "-g", "GENE77", *where)
    assert_refused(answer, "'GENE77'", "GENE7")
    assert not (tmp_path / "gene.png").exists()


def image(path, side=2000, scale=1.0):
    """A slide with tissue under the small section's spots."""
    pixels = np.full((side, side, 3), 240, dtype=np.uint8)
    left, top = int(930 * scale), int(730 * scale)
    pixels[top : top + int(420 * scale), left : left + int(560 * scale)] = (150, 70, 140)
    Image.fromarray(pixels).save(path)


def visium(folder, names=("S1", "S2"), *, hires=False, counts="h5"):
    for number, name in enumerate(names):
        # No two sections hold the same counts: those would be taken for one.
        other = layouts.SmallSection(counts=layouts.SmallSection().counts + 1000 * number)
        spatial = folder / name / "outs" / "spatial"
        spatial.mkdir(parents=True)
        files = layouts.write_space_ranger(spatial.parent, counts=counts)
        for role in ("positions", "scalefactors"):
            files[role].rename(spatial / files[role].name)
        files["labels"].unlink()
        if counts == "h5":
            layouts.write_10x_h5(files["counts"], section=other)
        if counts == "mtx":
            files |= layouts.write_matrix_market(spatial.parent, section=other)
            matrix = spatial.parent / "filtered_feature_bc_matrix"
            matrix.mkdir()
            for role in ("counts", "barcodes", "features"):
                files[role].rename(matrix / files[role].name)
        if hires:
            image(spatial / "tissue_hires_image.png", 200, 0.1)
        else:
            image(folder / name / "slide.tif")
    return folder


def patients(path, pairs):
    path.write_text("section,patient\n" + "".join(f"{s},{p}\n" for s, p in pairs.items()))
    return path


def added(bench, folder, table, name="mine", *options):
    answer = bench("data", "add", folder, "--name", name, "--patients", table, *options, "--json")
    assert answer.status == 0, answer.stderr
    return json.loads(answer.stdout)


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


def test_spots_that_are_mirrored_are_told_when_a_folder_is_added(bench, home, tmp_path):
    row, column = np.divmod(np.arange(100), 10)
    section = layouts.SmallSection(
        names=tuple(f"spot{number}" for number in range(100)),
        counts=np.arange(100)[:, None] + np.arange(8) + 1,
        row=row,
        col=column,
    )
    folder = tmp_path / "files"
    folder.mkdir()
    adata = anndata.AnnData(
        X=section.counts.astype(np.float32),
        obs=pd.DataFrame({"array_row": row, "array_col": column}, index=list(section.names)),
        var=pd.DataFrame(index=list(section.genes)),
        obsm={"spatial": np.column_stack([2900 - 137.0 * column, 800 + 137.0 * row])},
    )
    adata.write_h5ad(folder / "one.h5ad")
    pixels = np.full((3000, 3000, 3), 240, dtype=np.uint8)
    pixels[700:2200, :1400] = (150, 70, 140)
    Image.fromarray(pixels).save(folder / "one.png")
    made = added(bench, folder, patients(tmp_path / "map.csv", {"one": "P1"}))
    (warning,) = [line for line in made["warnings"] if "tissue" in line]
    assert "mirrored left-right" in warning
    assert "(width - x, y)" in warning


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


def one_section(folder):
    """A section of 20 x 6 spots, 50 px apart, whose tissue fills its image; its table."""
    row, column = np.divmod(np.arange(120), 20)
    rng = np.random.default_rng(0)
    anndata.AnnData(
        X=rng.poisson(4 + column[:, None] % 5, (120, 30)).astype(np.float32),
        obs=pd.DataFrame(
            {"array_row": row, "array_col": column}, index=[f"spot{i}" for i in range(120)]
        ),
        var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)]),
        obsm={"spatial": np.column_stack([100 + 50.0 * column, 100 + 50.0 * row])},
    ).write_h5ad(folder / "one.h5ad")
    pixels = rng.integers(100, 180, (460, 1160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    return patients(folder / "map.csv", {"one": "P1"})


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


def test_a_broken_card_hides_no_other_dataset(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "broken.yaml").write_text("name: [\n")
    answer = bench("list", "datasets", "--json")
    assert answer.status == 0
    rows = {row["name"]: row for row in json.loads(answer.stdout)["datasets"]}
    assert rows["broken"]["summary"].startswith("cannot be read")
    assert rows["demo"]["sections / patients"] == "6 / 3"


def test_what_holds_for_many_sections_is_said_once():
    sections = [f"S{number}" for number in range(12)]
    lines = [f"{name}: a reduced image" for name in sections]
    lines += ["S3: alone: so", "a patch is 112 um: 50 px"]
    assert _together(lines, sections) == [
        "12 sections (S0, S1, S2, S3, S4, S5, S6, ..., S11): a reduced image",
        "S3: alone: so",
        "a patch is 112 um: 50 px",
    ]
    assert _together(lines[:1], sections) == lines[:1]
    assert _together([], sections) == []


IDS = [f"ENSG{number:011d}" for number in range(30)]


def two_files(folder, *, pictured=("one", "two"), layer=None, symbols=None):
    """Files of two patients with Ensembl ids as names where `symbols` are given; their table."""
    folder.mkdir()
    row, column = np.divmod(np.arange(60), 10)
    for number, name in enumerate(("one", "two")):
        rng = np.random.default_rng(number)
        counts = rng.poisson(4, (60, 30)).astype(np.float32)
        genes = IDS if symbols else [f"GENE{i}" for i in range(30)]
        adata = anndata.AnnData(
            X=counts / 3 + 0.1 if layer else counts,
            obs=pd.DataFrame(
                {"array_row": row, "array_col": column}, index=[f"spot{i}" for i in range(60)]
            ),
            var=pd.DataFrame({"gene_symbol": symbols} if symbols else {}, index=genes),
            obsm={"spatial": np.column_stack([100 + 50.0 * column, 100 + 50.0 * row])},
        )
        if layer:
            adata.layers[layer] = counts
        adata.write_h5ad(folder / f"{name}.h5ad")
        if name in pictured:
            pixels = rng.integers(100, 180, (460, 660, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
    return patients(folder / "map.csv", {"one": "P1", "two": "P2"})


def test_a_section_without_an_image_is_told_and_named_by_a_run(bench, home, tmp_path, results):
    table = two_files(tmp_path / "files", pictured=("two",))
    answer = bench("data", "add", tmp_path / "files", "--name", "mine", "--patients", table)
    assert answer.status == 0, answer.stderr
    assert "look at this: one: no image was found" in answer.stderr
    assert "no image" not in answer.stdout
    run = ("run", "-d", "mine", "--results", results, "--tracking", "none", "--preset", "quick")
    answer = bench(*run, "-m", "ridge,mean")
    assert_refused(answer, "strict", "one has no image, which ridge needs")
    assert "--blocks" not in answer.stderr


def test_an_assumed_pitch_is_told_with_the_option_that_corrects_it(bench, home, tmp_path):
    table = two_files(tmp_path / "files")
    add = ("data", "add", tmp_path / "files", "--name", "mine", "--patients", table)
    assert "100 um from spot to spot was taken; give --pitch" in bench(*add).stderr
    answer = bench(*add, "--pitch", "200", "--replace")
    assert "was taken" not in answer.stderr
    assert yaml.safe_load((home / "cards" / "mine.yaml").read_text())["title"] == (
        "2 sections of 2 patients"
    )


def test_ensembl_ids_are_told_and_a_column_gives_the_symbols(bench, home, tmp_path):
    symbols = [f"GENE{max(1, number)}" for number in range(29)] + [""]
    table = two_files(tmp_path / "files", symbols=symbols)
    made = added(bench, tmp_path / "files", table)
    told = "one: gene names look like Ensembl ids; var column 'gene_symbol' has symbols"
    assert any(line.startswith(told) for line in made["warnings"])
    kept = yaml.safe_load((home / "cards" / "mine.yaml").read_text())
    assert (kept["layout"], "settings" in kept["sections"][0]) == ("h5ad", False)

    options = ("--gene-column", "gene_symbol", "--replace")
    made = added(bench, tmp_path / "files", table, "mine", *options)
    assert not any("Ensembl" in line for line in made["warnings"])
    repeated = "1 gene name occurs more than once (GENE1); repeats are called GENE1-1 and so on"
    assert f"one: {repeated}" in made["assumed"]
    kept = yaml.safe_load((home / "cards" / "mine.yaml").read_text())
    assert kept["sections"][0]["settings"] == {"gene_column": "gene_symbol"}
    genes = list(load_dataset("mine")["one"].var_names)
    assert genes == ["GENE1", "GENE1-1", *symbols[2:29], IDS[29]]


@pytest.mark.parametrize("column", ["nope", "../var/gene_symbol", "_index/.."])
def test_a_column_of_symbols_that_is_not_there_is_refused(bench, home, tmp_path, column):
    table = two_files(tmp_path / "files", symbols=[f"GENE{number}" for number in range(30)])
    add = ("data", "add", tmp_path / "files", "--name", "mine", "--patients", table)
    assert_refused(bench(*add, "--gene-column", column), "var has no column", "gene_symbol")
    assert not (home / "cards").exists()


def test_a_column_of_symbols_is_for_anndata_files_alone(bench, home, tmp_path):
    folder = visium(tmp_path / "slides")
    table = patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P2"})
    add = ("data", "add", folder, "--name", "mine", "--patients", table)
    assert_refused(bench(*add, "--gene-column", "symbol"), "--gene-column", "space_ranger")


def test_genes_in_common_are_missed_with_names_of_both_sides(bench, home, tmp_path):
    table = two_files(tmp_path / "files")
    path = tmp_path / "files" / "two.h5ad"
    adata = anndata.read_h5ad(path)
    adata.var_names = IDS
    adata.write_h5ad(path)
    answer = bench("data", "add", tmp_path / "files", "--name", "mine", "--patients", table)
    assert_refused(answer, "no gene in common", "one: GENE0, GENE1", f"two: {IDS[0]}, {IDS[1]}")


def test_counts_of_another_layer_are_told(bench, home, tmp_path):
    made = added(bench, tmp_path / "a", two_files(tmp_path / "a", layer="raw_counts"))
    assert "one: counts are layers['raw_counts']" in made["assumed"]
    made = added(bench, tmp_path / "b", two_files(tmp_path / "b", layer="counts"), "other")
    assert not any("layers" in line for line in made["assumed"])


def test_counts_that_are_nowhere_are_refused_with_all_places(bench, home, tmp_path):
    table = two_files(tmp_path / "files", layer="mine")
    answer = bench("data", "add", tmp_path / "files", "--name", "mine", "--patients", table)
    places = ("layers['counts'], X or raw.X", "layers['raw_counts']", "layers in the file: mine")
    assert_refused(answer, *places)
    assert not (home / "cards").exists()


def test_a_file_that_cannot_be_used_is_named_with_the_reason(bench, home, tmp_path):
    table = two_files(tmp_path / "files")
    path = tmp_path / "files" / "two.h5ad"
    adata = anndata.read_h5ad(path)
    del adata.obsm["spatial"]
    adata.write_h5ad(path)
    answer = bench("data", "add", tmp_path / "files", "--name", "mine", "--patients", table)
    assert_refused(answer, "two, which is there but cannot be read", "no obsm['spatial']")


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


def test_an_added_dataset_is_removed_and_the_files_stay(bench, home, tmp_path):
    table = two_files(tmp_path / "files")
    before = {path: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    for name in ("mine", "mine2"):
        added(bench, tmp_path / "files", table, name)
        shown(bench, name)
    assert_refused(bench("data", "remove", "mine"), "--yes")
    assert (home / "cards" / "mine.yaml").is_file()
    answer = bench("data", "remove", "mine", "--yes")
    assert answer.status == 0, answer.stderr
    assert "stay" in answer.stdout
    assert [path.name for path in (home / "cards").iterdir()] == ["mine2.yaml"]
    cached = [path.name for kind in ("sections", "overviews") for path in cached_files(kind)]
    assert cached
    assert all(name.startswith("mine2-") for name in cached)
    assert {path: path.read_bytes() for path in (tmp_path / "files").iterdir()} == before
    assert_refused(bench("data", "remove", "mine", "--yes"), "unknown added dataset", "mine2")


def cached_files(kind):
    return [path for path in (cache_folder() / kind).iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("name", ["demo", "nothing", "../mine", "a/b", "", "x" * 5000])
def test_what_was_not_added_is_not_removed(bench, home, tmp_path, name):
    (home / "cards").mkdir(parents=True)
    (home / "mine.yaml").write_text("name: mine\n")
    answer = bench("data", "remove", name, "--yes")
    assert_refused(answer)
    assert (home / "mine.yaml").is_file()


def test_a_broken_card_is_removed(bench, home):
    (home / "cards").mkdir(parents=True)
    (home / "cards" / "broken.yaml").write_text("name: [\n")
    answer = bench("data", "remove", "broken", "--yes")
    assert answer.status == 0, answer.stderr
    assert list((home / "cards").iterdir()) == []


@pytest.mark.parametrize("width", ["80", "100"])
def test_headings_of_a_wide_table_are_whole(bench, damaged, own_cache, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    damaged.image("A1").unlink()
    answer = bench("data", "show", damaged.card, "--data-root", damaged.root)
    heading = next(line for line in answer.stdout.splitlines() if "patient" in line)
    assert heading.split()[-1] == "missing"


@pytest.mark.parametrize(("devices", "quick"), [(["cpu"], True), (["cuda", "cpu"], False)])
def test_a_run_is_proposed_that_the_machine_can_do(
    bench, home, tmp_path, monkeypatch, devices, quick
):
    monkeypatch.setattr("bench.devices.available_devices", lambda: devices)
    table = two_files(tmp_path / "files")
    answer = bench("data", "add", tmp_path / "files", "--name", "mine", "--patients", table)
    assert answer.status == 0, answer.stderr
    assert ("--preset quick" in answer.stdout) is quick
    assert "pitch px" not in answer.stdout
    heading = next(line for line in answer.stdout.splitlines() if "pitch" in line)
    assert heading.split() == ["pitch", "um"]


def test_one_section_has_a_singular(bench, home, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    added(bench, folder, one_section(folder))
    card = yaml.safe_load((home / "cards" / "mine.yaml").read_text())
    assert card["title"] == "1 section of 1 patient"


def test_repeated_gene_names_are_told(bench, home, tmp_path):
    folder = visium(tmp_path / "slides")
    table = patients(tmp_path / "map.csv", {"S1": "P1", "S2": "P2"})
    assert not any("more than once" in line for line in added(bench, folder, table)["assumed"])
    for name in ("S1", "S2"):
        with h5py.File(folder / name / "outs" / "filtered_feature_bc_matrix.h5", "r+") as file:
            names = file["matrix/features/name"][()]
            names[1] = names[0]
            file["matrix/features/name"][...] = names
    made = added(bench, folder, table, "twice")
    symbol = layouts.SYMBOLS[0]
    told = f"S1: 1 gene name occurs more than once ({symbol}); repeats are called {symbol}-1"
    assert any(line.startswith(told) for line in made["assumed"])
