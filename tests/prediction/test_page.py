"""The page of a prediction: what it holds, and that it stands alone."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from bench.prediction import page as room
from bench.prediction.outputs import write_prediction
from tests.prediction.made import made_prediction
from tests.report.test_page import HOSTILE, Parsed


def written(adata, tmp_path):
    answer = write_prediction(adata, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Parsed(text)
    (data,) = page.of("script", id="data")
    return page, json.loads(data["text"]), answer


def numbers(text, kind):
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_the_page_holds_every_value_to_half_a_step(tmp_path):
    adata = made_prediction(30, 7)
    _, data, answer = written(adata, tmp_path)
    assert answer.notes == []
    genes = [gene["name"] for gene in data["genes"]]
    assert sorted(genes) == sorted(adata.var_names)
    low, high = (numbers(data["map"][end], "<f4") for end in ("low", "high"))
    steps = numbers(data["map"]["values"], "u1").reshape(len(genes), 30)
    values = low[:, None] + (high - low)[:, None] * steps / 255
    bound = (high - low).max() / 255 / 2
    np.testing.assert_allclose(values.T, adata[:, genes].X, atol=bound * 1.001)
    np.testing.assert_array_equal(numbers(data["x"], "<f4"), adata.obsm["spatial"][:, 0])
    np.testing.assert_array_equal(numbers(data["y"], "<f4"), adata.obsm["spatial"][:, 1])
    np.testing.assert_allclose(numbers(data["ood"], "<f4"), adata.obs["ood_score"], rtol=1e-6)
    assert data["spots"] == list(adata.obs_names)
    assert (data["pitch"], data["um"]) == (100, 2)


def test_genes_come_best_first_with_their_scores(tmp_path):
    adata = made_prediction(30, 7)
    _, data, _ = written(adata, tmp_path)
    pcc = [gene["pcc"] for gene in data["genes"]]
    defined = [value for value in pcc if value is not None]
    assert defined == sorted(defined, reverse=True)
    assert pcc[len(defined) :] == [None] * int(adata.var["pcc"].isna().sum())
    for gene in data["genes"]:
        row = adata.var.loc[gene["name"]]
        assert gene["predictable"] == row["predictable"]
        for name in ("pcc", "pcc_low", "pcc_high", "share_of_ceiling"):
            given = np.nan if gene[name] is None else gene[name]
            assert given == pytest.approx(row[name], abs=1e-4, nan_ok=True)


def test_the_image_covers_the_pixels_of_the_spots(tmp_path):
    adata = made_prediction(30, 2)
    _, data, _ = written(adata, tmp_path)
    kind, _, content = data["image"]["source"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == (120, 120)
    assert (data["image"]["width"], data["image"]["height"]) == (600, 600)


def test_the_page_says_what_is_known_of_the_prediction(tmp_path):
    page, data, _ = written(made_prediction(30, 3, notes="one\nanother"), tmp_path)
    notes = [element["text"] for element in page.of("li")]
    assert notes == ["one", "another"]
    facts = dict(
        zip(*([each["text"] for each in page.of(tag)] for tag in ("dt", "dd")), strict=True)
    )
    assert facts["Model"] == "ridge, fold 0, fold 1"
    assert facts["Scale of values"] == "ln(1 + 10,000 × count / total of the spot)"
    assert facts["Pixel size"] == "2 µm"
    page, data, _ = written(made_prediction(30, 3, um=None), tmp_path)
    assert data["um"] is None
    assert "not known" in [element["text"] for element in page.of("dd")]


def test_without_an_out_of_distribution_score_its_layer_cannot_be_chosen(tmp_path):
    adata = made_prediction(30, 3)
    (option,) = written(adata, tmp_path)[0].of("option", value="ood")
    assert "disabled" not in option
    adata.obs["ood_score"] = np.nan
    (option,) = written(adata, tmp_path)[0].of("option", value="ood")
    assert "disabled" in option
    assert "not computed" in option["text"]


def test_names_are_text_and_nothing_else(tmp_path):
    genes = [HOSTILE, "\u202eB", "G\udcff", "{{ 7 * 7 }}"]
    adata = made_prediction(30, genes, name=HOSTILE, notes=f"{HOSTILE}\n\x1b[31mred")
    adata.obs_names = [f"{HOSTILE}{number}" for number in range(30)]
    plain, _, _ = written(made_prediction(30, 4, notes="a\nb"), tmp_path)
    page, data, _ = written(adata, tmp_path)
    assert {gene["name"] for gene in data["genes"]} == set(genes)
    assert data["spots"][3] == f"{HOSTILE}3"
    assert len(page.elements) == len(plain.elements)
    assert page.of("h1")[0]["text"] == f"{HOSTILE}: predicted expression"
    assert page.of("li")[1]["text"] == r"\x1b[31mred"


def test_no_address_leads_out_of_the_page(tmp_path):
    page, _, _ = written(made_prediction(30, 3), tmp_path)
    for element in page.elements:
        assert not {"src", "href", "action"} & set(element), element["tag"]
    (policy,) = page.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none';")


def test_ten_thousand_spots_with_a_thousand_genes_fit(tmp_path):
    adata = made_prediction(10_000, 1_000)
    _, data, answer = written(adata, tmp_path)
    assert len(data["genes"]) == 1_000
    assert answer.notes == []
    assert (tmp_path / "page.html").stat().st_size < 25_000_000


def test_a_larger_prediction_keeps_the_best_predicted_genes(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MAP_BYTES", 30 * 4 * 4 / 3 + 1)
    adata = made_prediction(30, 9)
    page, data, answer = written(adata, tmp_path)
    best = list(adata.var["pcc"].nlargest(4).index)
    assert [gene["name"] for gene in data["genes"]] == best
    assert "holds the 4 of 9 genes" in answer.notes[0]
    assert any("holds the 4 of 9 predicted genes" in each["text"] for each in page.of("p"))


def test_an_image_that_is_too_large_is_reduced(tmp_path, monkeypatch):
    adata = made_prediction(30, 2)
    noise = np.random.default_rng(0).integers(0, 255, (1700, 1700, 3), dtype=np.uint8)
    adata.uns["spatial"]["slide"]["images"]["hires"] = noise
    monkeypatch.setattr(room, "IMAGE_BYTES", 1_500_000)
    _, data, _ = written(adata, tmp_path)
    assert len(data["image"]["source"]) <= 1_500_000
    assert data["image"]["width"] == 1700 / 0.2


def test_the_same_prediction_gives_the_same_bytes(tmp_path):
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    for path in (first, second):
        write_prediction(made_prediction(30, 3), path)
    assert first.read_bytes() == second.read_bytes()
