"""Names of patients as a table gives them, and as a card holds them."""

import pytest

from bench.data.card import read_card
from bench.errors import DataError, UnknownNameError
from bench.fetch.add import add_dataset
from tests.datasets import layouts


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Adds two sections, A1 and B1, of the patients that are named."""
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "cache"))
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("A1", "B1"):
        layouts.small_anndata().write_h5ad(slides / f"{name}.h5ad")

    def call(first, second, **options):
        table = tmp_path / "patients.csv"
        table.write_text(f'section,patient\nA1,"{first}"\nB1,"{second}"\n', encoding="utf-8")
        return add_dataset(slides, "mine", table, (), replace=True, **options)

    return call


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("P1", "P1"),
        ("patient 1", "patient-1"),
        ("=cmd [/x] <b>", "cmd-x-b"),
        ("-7-", "7"),
        ("Müller", "M-ller"),
    ],
)
def test_a_patient_goes_by_a_short_name_which_is_said(add, name, short):
    added = add(name, "P2")
    assert [section.patient for section in read_card(added.path).sections] == [short, "P2"]
    said = [one for one in added.assumed if one.startswith("patient")]
    assert said == ([] if name == short else [f"patient '{name}' is called {short}"])


@pytest.mark.parametrize(("first", "second"), [("Müller", "Möller"), ("P 1", "P-1")])
def test_two_patients_never_become_one(add, first, second):
    with pytest.raises(DataError, match=f"patients '{first}' and '{second}' would both be called"):
        add(first, second)


def test_a_name_without_letters_is_refused_with_its_section(add):
    with pytest.raises(DataError, match="section B1: patient '日本'"):
        add("P1", "日本")


def test_a_table_of_all_sections_serves_for_some_of_them(add):
    added = add("P1", "P2", sections=["B1"])
    assert [(s.name, s.patient) for s in read_card(added.path).sections] == [("B1", "P2")]
    with pytest.raises(UnknownNameError, match="unknown section 'C1'"):
        add("P1", "P2", sections=["C1"])
