"""A second dataset, and what is read from runs, for tests of variants."""

from __future__ import annotations

import json

import yaml

from tests.cli.tiny_dataset import (
    SECTIONS,
    write_tiny_dataset,
)


def make_other(folder, name="other"):
    made = write_tiny_dataset(folder, name, (*SECTIONS, "X1", "Y1"))
    sections = yaml.safe_load(made.card.read_text())["sections"][len(SECTIONS) :]
    made.edit_card(sections=sections, published_order=["X1", "Y1"])
    return made


def rows_of(answer):
    assert answer.status == 0, answer.stderr
    return json.loads(answer.stdout)["rows"]


def facts_of(results):
    return [json.loads(path.read_text()) for path in sorted(results.glob("runs/*/*/*/run.json"))]
