"""Tiles for QuPath: the fields that it reads, and files that it can open."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal
from uuid import UUID

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from bench.errors import DataError
from bench.prediction import geojson as room
from bench.prediction.outputs import write_prediction
from tests.prediction.made import made_prediction

Point = tuple[FiniteFloat, FiniteFloat]
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


class Strict(BaseModel):
    """An object without other fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Polygon(Strict):
    type: Literal["Polygon"]
    coordinates: list[Annotated[list[Point], Field(min_length=4)]] = Field(min_length=1)

    @field_validator("coordinates", mode="before")
    @classmethod
    def as_points(cls, rings: list[list[list[float]]]) -> list[list[tuple[float, ...]]]:
        return [[tuple(point) for point in ring] for ring in rings]

    @field_validator("coordinates")
    @classmethod
    def closed(cls, rings: list[list[Point]]) -> list[list[Point]]:
        assert all(ring[0] == ring[-1] for ring in rings)
        return rings


class Classification(Strict):
    """Written by ``GsonTools.PathClassTypeAdapter``; a colon would make a derived class."""

    name: str = Field(min_length=1, pattern="^[^:]+$")
    color: Colour


class Properties(Strict):
    """Read by ``QuPathTypeAdapters.PathObjectTypeAdapter``."""

    object_type: Literal["annotation", "detection", "tile", "cell", "tmaCore"] = Field(
        alias="objectType"
    )
    name: str | None = None
    color: Colour | None = None
    classification: Classification | None = None
    measurements: dict[str, FiniteFloat] = {}
    is_locked: bool | None = Field(default=None, alias="isLocked")


class Feature(Strict):
    type: Literal["Feature"]
    id: UUID = Field(strict=False)
    geometry: Polygon
    properties: Properties


class FeatureCollection(Strict):
    type: Literal["FeatureCollection"]
    features: list[Feature]


def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def read(text: str) -> FeatureCollection:
    """A file as QuPath reads it, strictly."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no number of JSON")

    plain = json.loads(text, object_pairs_hook=no_repeats, parse_constant=refuse)
    return FeatureCollection.model_validate(plain)


def test_the_file_has_the_fields_that_qupath_reads(tmp_path):
    adata = made_prediction(30, 6)
    adata.obs.loc["spot-3", "ood_score"] = np.nan
    written = write_prediction(adata, tmp_path / "tiles.geojson")
    assert written.notes == []
    collection = read((tmp_path / "tiles.geojson").read_text())
    assert len(collection.features) == 30
    assert len({feature.id for feature in collection.features}) == 30
    for feature, name, values, centre, score in zip(
        *(collection.features, adata.obs_names, adata.X, adata.obsm["spatial"]),
        adata.obs["ood_score"],
        strict=True,
    ):
        told = feature.properties
        assert told.object_type == "tile"
        assert told.name == name
        expected = dict(zip(adata.var_names, values, strict=True))
        if np.isfinite(score):
            expected["ood_score"] = score
        assert told.measurements == pytest.approx(expected, abs=1e-5)
        (ring,) = feature.geometry.coordinates
        assert set(ring) == {
            (centre[0] + x, centre[1] + y) for x in (-50, 50) for y in (-50, 50)
        }  # neighbours share an edge
        assert (told.classification is not None) == (score > 1)


def test_a_large_file_holds_the_best_predicted_genes(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MEASUREMENTS", 30 * 4 + 5)
    adata = made_prediction(30, 12)
    written = write_prediction(adata, tmp_path / "tiles.geojson")
    best = set(adata.var["pcc"].nlargest(4).index)
    for feature in read((tmp_path / "tiles.geojson").read_text()).features:
        assert set(feature.properties.measurements) == {*best, "ood_score"}
    (note,) = written.notes
    assert "tiles.geojson holds the 4 of 12 genes" in note


def test_a_gene_may_not_pass_for_another_value(tmp_path):
    adata = made_prediction(30, 2)
    adata.var_names = ["ood_score", "B"]
    for name in ("tiles.geojson", "table.csv"):
        with pytest.raises(DataError, match="gene 'ood_score' has the name of a value"):
            write_prediction(adata, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
