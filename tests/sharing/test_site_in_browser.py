"""The site in a browser, opened as files: genes, keyboard, small screens, silence."""

from __future__ import annotations

import shutil

import pytest

from bench.report.site import write_site
from bench.report.site_content import read_ranking
from bench.report.site_genes import gene_matrix
from tests.browser import ENTER, TAB, needs_browser, started

pytestmark = [needs_browser, pytest.mark.slow]

CELLS = (
    "return [...document.querySelectorAll('table.matrix tbody tr')]"
    ".map(e => e.innerText.split(/\\s+/))"
)
ACTIVE = "return document.activeElement.innerText || document.activeElement.className"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def public(shared_results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "public"
    write_site([shared_results], folder)
    return folder


@pytest.fixture
def browser(running):
    """A browser; whatever it complains of fails the test."""
    running.resize(1280)
    yield running
    assert running.complaints() == []


def to(browser, wanted, steps=60):
    for _ in range(steps):
        browser.press(TAB)
        if browser.run(ACTIVE) == wanted:
            return
    pytest.fail(f"the keyboard does not reach {wanted}")


@pytest.mark.parametrize("width", [1280, 380])
def test_no_page_is_wider_than_the_screen_or_asks_outside(browser, public, width):
    browser.resize(width)
    for path in sorted(public.rglob("*.html")):
        browser.open(path)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run("return document.querySelectorAll('h1').length") == 1
        asked = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in asked if not name.startswith("file:")] == []


def test_genes_by_keyboard_alone(browser, public, shared_results):
    browser.open(public / "genes" / "tiny--patients.html")
    rows = browser.until(f"const r = (() => {{ {CELLS} }})(); return r.length && r")
    matrix = gene_matrix(read_ranking([shared_results], "tiny", "patients"))
    assert [row[0] for row in rows] == list(matrix.genes[:25])
    assert [float(row[3]) for row in rows] == [
        pytest.approx(value, abs=6e-4) for value in matrix.pcc[:25, 0]
    ]
    to(browser, "find")
    browser.press(*"NE3")
    names = browser.until(f"const r = (() => {{ {CELLS} }})(); return r.length < 25 && r")
    assert {name for name, *_ in names} == {"GENE3", *(f"GENE{n}" for n in range(30, 40))}
    to(browser, names[0][0])
    browser.press(ENTER)
    bars = browser.until(
        "const d = document.querySelector('section.gene');"
        "return !d.hidden && [...d.querySelectorAll('li')].map(e => e.innerText)"
    )
    assert len(bars) == 3
    assert browser.run("return document.querySelector('section.gene h2').innerText") == names[0][0]


def test_pages_of_genes_turn_and_other_rows_are_added(browser, public):
    browser.open(public / "genes" / "tiny--patients.html")
    first = browser.until(f"const r = (() => {{ {CELLS} }})(); return r.length && r")
    to(browser, "Next genes")
    browser.press(ENTER)
    second = browser.until(
        f"const r = (() => {{ {CELLS} }})(); return r[0][0] !== arguments[0] && r", first[0][0]
    )
    assert not {row[0] for row in first} & {row[0] for row in second}
    assert len(first) + len(second) == 40
    head = "return [...document.querySelectorAll('table.matrix thead th')].map(e => e.innerText)"
    before = browser.run(head)
    browser.choose("select.row", "2")
    assert browser.run(head)[3] == before[5]
    browser.choose("select.order", "name")
    listed = browser.until(f"const r = (() => {{ {CELLS} }})(); return r[0][0] === 'GENE0' && r")
    assert [row[0] for row in listed] == sorted(row[0] for row in listed)


def test_links_lead_from_the_ranking_to_the_method_and_back(browser, public):
    browser.open(public / "index.html")
    to(browser, "coordinates (control)")
    browser.press(ENTER)
    browser.until("return document.querySelector('h1').innerText === 'coordinates'")
    to(browser, "tiny, protocol patients")
    browser.press(ENTER)
    browser.until("return document.querySelector('h1').innerText === 'tiny, protocol patients'")


def test_a_missing_piece_is_said(running, public, tmp_path):
    shutil.copytree(public, tmp_path / "copy")
    (tmp_path / "copy" / "genes" / "tiny--patients" / "0.js").unlink()
    running.open(tmp_path / "copy" / "genes" / "tiny--patients.html")
    running.until("return document.querySelector('.status').innerText.includes('is missing')")
    running.complaints()
