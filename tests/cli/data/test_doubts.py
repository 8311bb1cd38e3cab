"""``bench data add``: choices that were made for the user, and what looks wrong."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from bench import load_dataset
from bench.cli.data_adding import _together
from tests.cli.data.folders import (
    IDS,
    added,
    patients,
    two_files,
    visium,
)
from tests.cli.tiny_dataset import assert_refused
from tests.datasets import layouts


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


SYMBOL_LIKE = {
    "text": ([f"GENE{number}" for number in range(30)], True),
    "categories": (pd.Categorical([f"GENE{number}" for number in range(30)]), True),
    "some missing": (pd.Categorical([f"GENE{number}" for number in range(20)] + [None] * 10), True),
    "none": ([np.nan] * 30, False),
    "numbers": (np.arange(30), False),
    "ids again": (IDS, False),
}
"""Columns named ``gene_symbol``, and whether they hold symbols."""


@pytest.mark.parametrize("kind", SYMBOL_LIKE)
def test_a_column_is_offered_where_it_holds_symbols(bench, home, tmp_path, kind):
    column, offered = SYMBOL_LIKE[kind]
    table = two_files(tmp_path / "files", symbols=column)
    made = added(bench, tmp_path / "files", table)
    told = [line for line in made["warnings"] if "look like Ensembl ids" in line]
    assert len(told) == 2
    assert all(("--gene-column gene_symbol" in line) is offered for line in told)


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
