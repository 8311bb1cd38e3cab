"""What is wrong with a file or a setting, in one line."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.faults import first_fault


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Part(Strict):
    name: Annotated[str, Field(pattern="^[a-z]+$")]
    kind: Literal["table", "figure"] = "table"
    rows: tuple[str, ...]


class File(Strict):
    parts: list[Part]
    level: Literal["all"] | float = 1.0


WHOLE = {"parts": [{"name": "main", "rows": ["a"]}]}


def fault(content, named=True):
    with pytest.raises(ValidationError) as caught:
        File.model_validate(content)
    return first_fault(caught.value, content if named else None)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"name": "main"}, "part main: rows: Field required"),
        ({"name": "main", "rowz": ["a"]}, "part main: rowz: unknown field"),
        ({"name": "main", "rows": [3]}, "part main: rows.0: Input should be a valid string"),
        ({"name": "1", "rows": []}, "part number 1: name: String should match pattern"),
        (
            {"name": "main", "rows": [], "kind": "tabel"},
            "part main: kind: Input should be 'table' or 'figure', not 'tabel'",
        ),
    ],
)
def test_the_part_and_the_value_are_named(part, told):
    assert fault({"parts": [part]}).startswith(told)


def test_without_the_content_parts_are_numbered():
    assert fault({"parts": [{"name": "main"}]}, named=False) == "parts.0.rows: Field required"


def test_every_type_that_a_value_may_have_is_named():
    assert fault({**WHOLE, "level": "some"}) == (
        "level: Input should be 'all', or a valid number, unable to parse string as a number"
    )


def test_a_value_of_the_user_cannot_break_the_line():
    told = fault({"parts": [{"name": "main", "rows": [], "kind": "a\nb" + "x" * 500}]})
    assert "\n" not in told
    assert len(told) < 200
