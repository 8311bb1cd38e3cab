"""``bench data show`` and ``preview``: what a user is told of a dataset."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.data.folders import (
    shown,
)
from tests.cli.tiny_dataset import SECTIONS, assert_refused


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


@pytest.mark.parametrize("width", ["80", "100"])
def test_headings_of_a_wide_table_are_whole(bench, damaged, own_cache, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    damaged.image("A1").unlink()
    answer = bench("data", "show", damaged.card, "--data-root", damaged.root)
    heading = next(line for line in answer.stdout.splitlines() if "patient" in line)
    assert heading.split()[-1] == "missing"


def test_a_broken_card_hides_no_other_dataset(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "broken.yaml").write_text("name: [\n")
    answer = bench("list", "datasets", "--json")
    assert answer.status == 0
    rows = {row["name"]: row for row in json.loads(answer.stdout)["datasets"]}
    assert rows["broken"]["summary"].startswith("cannot be read")
    assert rows["demo"]["sections / patients"] == "6 / 3"
