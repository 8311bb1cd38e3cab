"""The page in a browser: sorting, maps, keyboard, small and dark screens, silence."""

from __future__ import annotations

import base64

import anndata
import numpy as np
import pytest
from matplotlib import colormaps

from bench.report.page import stored_comparisons, write_page
from tests.browser import DOWN, ENTER, SPACE, TAB, needs_browser, started
from tests.report.test_page import (  # noqa: F401 - fixtures
    HOSTILE,
    change,
    change_fold,
    finished,
    results,
    rewrite,
    runs_of,
)

pytestmark = [needs_browser, pytest.mark.slow]

METHODS = (
    "return [...document.querySelector('table').tBodies[0].rows].map(e => e.cells[0].textContent)"
)
NAMES = "return [...document.querySelectorAll('.maps .name')].map(e => e.textContent)"
PICTURES = "return [...document.querySelectorAll('canvas')].map(e => e.toDataURL())"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("written") / "report.html"
    return write_page(finished, path, stored_comparisons(finished))


@pytest.fixture
def browser(running, written):
    """A browser that has just opened the page; whatever it complains of fails the test."""
    running.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    running.resize(1400)
    running.open(written)
    yield running
    assert running.complaints() == []


def heading(text):
    return (
        "[...document.querySelector('table').tHead.rows[0].cells]"
        f".find(e => e.textContent.trim() === '{text}')"
    )


def sort_state(browser, text):
    return browser.run(f"return {heading(text)}.getAttribute('aria-sort')")


def column(browser, text):
    return browser.run(
        f"const at = {heading(text)}.cellIndex;"
        "const rows = [...document.querySelector('table').tBodies[0].rows];"
        "return rows.map(row => row.cells[at].innerText)"
    )


def numbers(cells):
    return [float(cell.split()[0]) for cell in cells if cell != "–"]


# ---------------------------------------------------------------------------------- tables


def test_a_press_on_a_heading_sorts_and_another_turns_round(browser):
    before = browser.run(METHODS)
    browser.run(f"{heading('MSE')}.querySelector('button').click()")
    assert sort_state(browser, "MSE") == "ascending"
    cells = column(browser, "MSE")
    assert numbers(cells) == sorted(numbers(cells))
    assert len(numbers(cells)) == 3
    assert cells[-1] == "–"
    up = browser.run(METHODS)
    browser.run(f"{heading('MSE')}.querySelector('button').click()")
    assert sort_state(browser, "MSE") == "descending"
    cells = column(browser, "MSE")
    assert numbers(cells) == sorted(numbers(cells), reverse=True)
    assert cells[-1] == "–", "what is missing stays last"
    down = browser.run(METHODS)
    assert up != down
    assert sorted(before) == sorted(up) == sorted(down)
    browser.run(f"{heading('method')}.querySelector('button').click()")
    assert sort_state(browser, "MSE") is None
    assert sort_state(browser, "method") == "ascending"
    assert browser.run(METHODS) == sorted(before)


def test_a_correlation_sorts_its_best_to_the_top_first(browser):
    browser.click("table th:nth-child(2) button")
    assert sort_state(browser, "PCC(ACG)") == "descending"
    cells = numbers(column(browser, "PCC(ACG)"))
    assert len(cells) == 3
    assert cells == sorted(cells, reverse=True)


def test_the_keyboard_reaches_a_heading_and_sorts(browser):
    active = "return [document.activeElement.tagName, document.activeElement.innerText]"
    for _ in range(10):
        browser.press(TAB)
        if browser.run(active) == ["BUTTON", "method"]:
            break
    else:
        pytest.fail("no heading within ten steps of the keyboard")
    assert sort_state(browser, "method") is None
    before = browser.run(METHODS)
    browser.press(ENTER)
    assert sort_state(browser, "method") == "ascending"
    browser.press(SPACE)
    assert sort_state(browser, "method") == "descending"
    assert browser.run(METHODS) == sorted(before, reverse=True)


HEADINGS = (
    "return [...document.querySelector('table').tHead.rows[0].cells]"
    ".filter(e => e.getBoundingClientRect().right <= arguments[0] && e.offsetParent)"
    ".map(e => e.innerText.trim())"
)
USUAL = ["method", "PCC(ACG)", "PCC(HEG)", "MSE", "MAE", "preset"]


@pytest.mark.parametrize(("width", "seen"), [(1280, USUAL), (380, USUAL[:3])])
def test_scores_are_seen_before_anything_else(browser, width, seen):
    browser.resize(width)
    assert browser.run(HEADINGS, width) == seen
    cells = "return document.querySelector('tbody td').innerText"
    assert ("±" in browser.run(cells)) == (width > 640)


def test_other_columns_are_shown_by_the_keyboard(browser):
    browser.run("document.querySelector('details.columns summary').focus()")
    browser.press(ENTER)
    for _ in range(6):
        browser.press(TAB)
    label = "return document.activeElement.parentElement.innerText.trim()"
    assert browser.run(label) == "folds"
    browser.press(SPACE)
    assert browser.run(HEADINGS, 1e4) == [*USUAL, "folds"]
    assert column(browser, "folds")[0] == "3/3"
    browser.press(SPACE)
    assert browser.run(HEADINGS, 1e4) == USUAL
    browser.click("details.columns button.all")
    assert len(browser.run(HEADINGS, 1e4)) == 17


# ------------------------------------------------------------------------------------ maps


def colours(browser, canvas):
    """Colour in the middle of every spot of a map, and whether a corner is painted."""
    return browser.run(
        """
        const data = JSON.parse(document.getElementById('maps-0').textContent);
        const section = data.sections[document.querySelector('select.section').value];
        const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
        const floats = text => new Float32Array(bytes(text).buffer);
        const x = floats(section.x), y = floats(section.y), m = section.pitch;
        const left = Math.min(...x) - m, top = Math.min(...y) - m;
        const canvas = document.querySelectorAll('canvas')[arguments[0]];
        const scale = canvas.width / (Math.max(...x) + m - left);
        // Reading from the canvas itself would change how the browser draws on it.
        const copy = document.createElement('canvas');
        [copy.width, copy.height] = [canvas.width, canvas.height];
        const pen = copy.getContext('2d', { willReadFrequently: true });
        pen.drawImage(canvas, 0, 0);
        return {
          spots: [...x].map((_, i) => [...pen.getImageData(
            Math.round((x[i] - left) * scale), Math.round((y[i] - top) * scale), 1, 1).data]),
          corner: [...pen.getImageData(0, 0, 1, 1).data],
        };
        """,
        canvas,
    )


def test_a_map_shows_the_stored_values_in_viridis(browser, finished):  # noqa: F811
    browser.choose("select.section", "2")
    gene = browser.run("return document.querySelector('select.gene').value")
    names = browser.run(NAMES)
    runs = runs_of(finished)
    assert names[0] == "measured"
    assert set(names[1:]) == set(runs)
    for number, name in enumerate(names):
        fold = runs["mean" if name == "measured" else name].folder.fold(1)
        adata = anndata.read_h5ad(fold.path / "predictions.h5ad")
        part = adata[adata.obs["section"] == "B1", [gene]]
        values = np.asarray(part.layers["truth"] if name == "measured" else part.X).ravel()
        span = np.ptp(values) or 1.0
        steps = np.rint((values - values.min()) / span * 255).astype(int)
        wanted = colormaps["viridis"](steps, bytes=True)
        found = colours(browser, number)
        np.testing.assert_array_equal(found["spots"], wanted)
        assert found["corner"] == [0, 0, 0, 0]


def test_captions_give_the_correlation_of_gene_and_method(browser, finished):  # noqa: F811
    gene = browser.run("return document.querySelector('select.gene').value")
    lines = "return [...document.querySelectorAll('.maps figcaption')].map(e => e.innerText)"
    captions = [text.split("\n") for text in browser.run(lines)]
    for name, said, *_ in captions[1:]:
        genes = runs_of(finished)[name].genes().set_index(["section", "gene"]).loc["A1", gene]
        pcc, ceiling = genes["pcc"], genes["ceiling"]
        if np.isnan(pcc):
            assert said == "PCC undefined, one value everywhere"
        else:
            share = f", {round(100 * pcc / ceiling)} % of ceiling" if pcc > 0 < ceiling else ""
            assert said == f"PCC {pcc:.2f}{share}"
    assert captions[0][1] == f"PCC ceiling {ceiling:.2f}"


def test_another_gene_is_another_picture_by_mouse_and_by_keyboard(browser):
    gene = "return document.querySelector('select.gene').value"
    seen = [browser.run(PICTURES)]
    first = browser.run(gene)
    assert len(seen[0]) == 5
    browser.choose("select.gene", "GENE20" if first != "GENE20" else "GENE21")
    seen.append(browser.run(PICTURES))
    browser.run("document.querySelector('select.gene').focus()")
    before = browser.run(gene)
    browser.press(DOWN)
    assert browser.run(gene) != before
    seen.append(browser.run(PICTURES))
    browser.run("document.querySelector('input.find').focus()")
    browser.press(*"gene17", ENTER)
    assert browser.run(gene) == "GENE17"
    seen.append(browser.run(PICTURES))
    assert "GENE17 in section A1" in browser.run(
        "return document.querySelector('.status').innerText"
    )
    measured = [pictures[0] for pictures in seen]
    assert len(set(measured)) == 4


def test_the_text_filter_narrows_the_list_of_genes(browser):
    listed = "return [...document.querySelector('select.gene').options].map(e => e.value)"
    assert len(browser.run(listed)) == 40
    assert len(browser.run("return [...document.querySelectorAll('datalist option')]")) == 40
    browser.run("document.querySelector('input.find').focus()")
    browser.press(*"NE3")
    assert set(browser.run(listed)) == {"GENE3", *(f"GENE{number}" for number in range(30, 40))}
    browser.press(*"xyz")
    assert len(browser.run(listed)) == 40
    said = browser.run("return document.querySelector('.status').innerText")
    assert "No gene of this section has “NE3xyz” in its name" in said
    browser.choose("select.order", "name")
    names = browser.run(listed)
    assert names == sorted(names)


def test_one_colour_range_for_all_leaves_the_oracle_its_own(browser):
    ranges = (
        "return [...document.querySelectorAll('.maps .range')].map(e => e.innerText.split('\\n'))"
    )
    names = browser.run(NAMES)
    oracle = names.index("depth")
    own, pictures = browser.run(ranges), browser.run(PICTURES)
    assert len({tuple(each) for each in own}) == 5
    browser.click("input.shared")
    common = browser.run(ranges)
    assert common[oracle] == own[oracle]
    rest = [each for number, each in enumerate(common) if number != oracle]
    lows, highs = zip(*(map(float, e) for n, e in enumerate(own) if n != oracle), strict=True)
    assert rest == [[f"{min(lows):.2f}", f"{max(highs):.2f}"]] * 4
    changed = browser.run(PICTURES)
    assert changed[oracle] == pictures[oracle]
    assert sum(new != old for new, old in zip(changed, pictures, strict=True)) >= 3


def test_the_image_lies_under_the_spots_when_asked_for(browser):
    plain = colours(browser, 0)
    browser.click("input.image")
    for _ in range(50):
        with_image = colours(browser, 0)
        if with_image["corner"][3] == 255:
            break
    assert with_image["corner"][3] == 255
    assert min(with_image["corner"][:3]) > 150, "the corner of the image is bright"
    assert with_image["spots"] != plain["spots"]
    browser.click("input.image")
    assert colours(browser, 0) == plain


def test_a_section_without_a_stored_image_offers_none(running, results, tmp_path):  # noqa: F811
    for run in runs_of(results).values():
        change_fold(run, 1, images={})
    running.open(write_page(results, tmp_path / "page.html", stored_comparisons(results)))
    disabled = "return document.querySelector('input.image').disabled"
    assert running.run(disabled) is False
    running.choose("select.section", "2")
    assert running.run(disabled) is True
    running.choose("select.section", "4")
    assert running.run(disabled) is False
    assert running.complaints() == []


def test_a_section_that_a_run_lacks_says_so(running, results, tmp_path):  # noqa: F811
    runs_of(results)["looks"].folder.fold(0).clear()
    running.open(write_page(results, tmp_path / "page.html", stored_comparisons(results)))
    empty = (
        "return [...document.querySelectorAll('.maps .none')].map(e => e.parentElement.innerText)"
    )
    (said,) = running.run(empty)
    assert "no prediction of this section is stored" in said
    assert "looks" in said
    running.choose("select.section", "2")
    assert running.run(empty) == []
    assert running.complaints() == []


# ------------------------------------------------------------------ screens, silence, strangers


@pytest.mark.parametrize("width", [320, 380, 800])
def test_the_page_is_never_wider_than_the_screen(browser, width):
    browser.resize(width)
    browser.run("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    browser.click("details.columns button.all")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    table = "const e = document.querySelector('.scroll'); return [e.clientWidth, e.scrollWidth]"
    shown, whole = browser.run(table)
    assert shown < whole, "the table scrolls inside of its own frame"
    maps = browser.run("return [...document.querySelectorAll('canvas')].map(e => e.clientWidth)")
    assert min(maps) > 80


def test_maps_are_drawn_anew_for_another_width(browser):
    sizes = "return [...document.querySelectorAll('canvas')].map(e => [e.width, e.clientWidth])"
    before = browser.run(sizes)
    browser.resize(380)
    for _ in range(50):
        after = browser.run(sizes)
        if after != before and all(width == shown for width, shown in after):
            break
    assert all(width == shown for width, shown in after)
    assert after != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(browser, scheme):
    browser.prefer(prefers_color_scheme=scheme)
    ratios = browser.run(
        """
        const light = text => {
          const [r, g, b] = text.match(/[\\d.]+/g).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = e => {
          const found = getComputedStyle(e).backgroundColor;
          return found === 'rgba(0, 0, 0, 0)' ? ground(e.parentElement) : found;
        };
        const wanted = 'h1, h2, h3, td, tbody th, thead button, li, p, dt, dd, summary, label,'
          + ' figcaption, .name, select';
        return [...document.querySelectorAll(wanted)].filter(e => !e.closest('.off')).map(e => {
          const both = [light(getComputedStyle(e).color), light(ground(e))];
          const [a, b] = both.sort((p, q) => q - p);
          return [(a + 0.05) / (b + 0.05), e.tagName + ': ' + e.textContent.slice(0, 30)];
        });
        """
    )
    assert len(ratios) > 100
    assert [(ratio, what) for ratio, what in ratios if ratio < 4.5] == []
    dark = (
        browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    )
    assert dark == (scheme == "dark")


def test_nothing_moves_for_who_wants_no_motion(browser):
    scroll = "return getComputedStyle(document.documentElement).scrollBehavior"
    assert browser.run(scroll) == "auto"
    browser.prefer(prefers_reduced_motion="no-preference")
    assert browser.run(scroll) == "smooth"


def test_no_request_leaves_the_file_even_when_one_is_made(browser):
    browser.click("input.image")
    resources = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert [name for name in browser.run(resources) if not name.startswith("data:")] == []
    refused = browser.run(
        """
        return new Promise(done => {
          document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));
          fetch('http://127.0.0.1:9/').catch(() => {});
          setTimeout(() => done('nothing was refused'), 5000);
        });
        """
    )
    assert refused == "connect-src"
    assert any("Content Security Policy" in said for said in browser.complaints())


def test_hostile_names_are_shown_and_not_carried_out(running, results, tmp_path):  # noqa: F811
    runs = runs_of(results)
    change(runs["looks"], label=HOSTILE, footnotes=[HOSTILE])
    for run in runs.values():
        rewrite(run, 0, genes={"GENE7": HOSTILE})
    running.open(write_page(results, tmp_path / "page.html", stored_comparisons(results)))
    # An open alert would make every further call an error.
    names = running.run(NAMES)
    assert HOSTILE in names
    running.choose("select.gene", HOSTILE)
    assert HOSTILE in running.run("return document.querySelector('.status').textContent")
    assert running.run("return document.querySelectorAll('[onerror], img[src=x]').length") == 0
    picture = running.run(PICTURES)[0]
    assert len(base64.b64decode(picture.split(",")[1])) > 500
    assert running.complaints() == []
