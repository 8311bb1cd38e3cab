"""Pages of the documentation site that are made from the program, its models and its cards."""

import json
import re

import pytest

from bench.registry import built_in_datasets, dataset_card
from bench.study.declaration import Study
from docs.generated_pages import FOLDER, commands, datasets, fields, figures, write_pages
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"


def test_the_page_of_commands_has_every_visible_command_and_option():
    text = commands.page()
    shown = [name for name, *_ in commands.visible_commands()]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == shown
    assert {"bench run", "bench data add", "bench study report"} <= set(shown)
    hidden = {"execute"}
    assert not [name for name in shown if name.split()[-1] in hidden]
    for name, command, _ in commands.visible_commands():
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        options = {option for p in command.params if not p.hidden for option in p.opts}
        assert [
            o for o in options - {"--help", "-h"} if o.startswith("-") and o not in section
        ] == []


def test_a_cell_of_a_table_does_not_end_it():
    for line in commands.page().splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3, line


@pytest.mark.parametrize(
    ("kind", "model"), [(kind, m) for kind, models in fields.FILES.items() for m in models]
)
def test_every_field_of_a_file_has_a_meaning(kind, model):
    said = fields.meanings(model)
    assert [name for name in model.model_fields if not said.get(name)] == []
    table = fields.pages()[kind]
    assert all(f"| `{name}` |" in table for name in model.model_fields)


def test_the_schema_of_a_study_is_that_of_its_model():
    assert json.loads(fields.schemas()["study"]) == Study.model_json_schema()


def test_the_table_of_datasets_has_every_card_with_its_licence():
    lines = datasets.table().splitlines()[2:]
    cards = [dataset_card(name) for name in built_in_datasets()]
    assert len(lines) == len(cards)
    for card in cards:
        (line,) = [line for line in lines if line.startswith(f"| `{card.name}` |")]
        assert " ".join(card.licence.split()) in line


@pytest.mark.slow
def test_what_pages_include_is_written(tmp_path):
    """Each file of the generated folder that a page names; figures and fields alike."""
    write_pages(tmp_path)
    named = {
        name
        for page in DOCS.rglob("*.md")
        if FOLDER not in page.parts
        for name in re.findall(rf"{FOLDER}/([\w.-]+)", page.read_text(encoding="utf-8"))
    }
    assert named == {path.name for path in tmp_path.iterdir()}
    for name in figures.FIGURES:
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_the_same_figure_is_drawn_again(tmp_path):
    for name in ("first", "second"):
        figures.draw_folds(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
