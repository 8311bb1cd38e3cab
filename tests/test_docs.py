"""What the documentation shows does work."""

import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from bench.fetch.patients import read_patients
from bench.protocol.rules import PROTOCOLS, find_protocol
from bench.registry import built_in_datasets, collection, dataset_card
from tests.conftest import REPOSITORY
from tests.documented_commands import PAGES

DOCS = REPOSITORY / "docs"


def block(page: Path, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{page.name} shows no {language}"
    return found[1]


def test_the_protocol_of_the_page_is_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(block(DOCS / "protocols.md", "yaml"))
    protocol = find_protocol(str(path))
    assert protocol.split == "patient"
    assert protocol.hash not in {known.hash for known in PROTOCOLS.values()}


def test_every_link_between_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            # What is generated for the site is looked for when it is built.
            if "_generated" not in target:
                assert (page.parent / target).is_file(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", DOCS / "datasets.md"])
def test_the_datasets_of_the_page_are_those_of_the_cards(page):
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) / (\d+) \|", page.read_text(), re.MULTILINE)
    listed = {name: (int(sections), int(patients)) for name, sections, patients in rows}
    wanted: Counter[tuple[str, str]] = Counter()
    for card in map(dataset_card, built_in_datasets()):
        name = card.collection or card.name
        wanted[name, "sections"] += len(card.sections)
        wanted[name, "patients"] += len(card.patients)
    names = {name for name, _ in wanted}
    assert listed == {n: (wanted[n, "sections"], wanted[n, "patients"]) for n in names}


def test_the_tasks_of_the_page_are_those_of_the_cards():
    page = (DOCS / "hest.md").read_text()
    rows = re.findall(r"^\| `(hest-[\w-]+)` \| (\d+) / (\d+) \| (\w+)", page, re.MULTILINE)
    listed = {name: (int(sections), int(patients), of) for name, sections, patients, of in rows}
    cards = {name: dataset_card(name) for name in collection("hest")}
    assert listed == {
        n: (len(c.sections), len(c.patients), c.platform.split()[0]) for n, c in cards.items()
    }


def test_the_table_of_patients_of_the_page_is_read(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text(textwrap.dedent(block(DOCS / "your-own-data.md", "csv")))
    patients = read_patients(path, ["V10A-123_A1", "V10A-123_B1", "V10A-124_A1"])
    assert patients == {"V10A-123_A1": "P1", "V10A-123_B1": "P1", "V10A-124_A1": "P2"}


def test_what_is_said_to_be_shared_is_on_the_cards():
    images = {s.patient: s.files["image"].path for s in dataset_card("her2st").sections}
    shared = {"E": "23567", "F": "23810", "G": "23903", "H": "24044"}
    for patient, number in shared.items():
        assert number in images[patient]
        assert f"BC{number}" in dataset_card("stnet").patients
        assert f"BC{number}" in dataset_card("stnet").shares_patients_with["her2st"]
