"""The page of a prediction in a browser: genes, zoom, spots, keyboard, small screens, silence."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps

from bench.prediction.gene_reliability import best_first
from bench.prediction.outputs import write_prediction
from tests.browser import DOWN, ENTER, needs_browser, started
from tests.prediction.made import made_prediction
from tests.report.test_page import HOSTILE

pytestmark = [needs_browser, pytest.mark.slow]

RIGHT, END = "\ue014", "\ue010"
DRAWN = "return document.querySelector('canvas').toDataURL()"
TITLE = "return document.querySelector('.title').textContent"
SPOT = "return document.querySelector('.spot').textContent"
CHOSEN = "return document.querySelector('[role=option][aria-selected=true] .gene').textContent"
VIEW = "return [view.x, view.y, view.scale, view.fit]"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def adata():
    return made_prediction(100, 300)


@pytest.fixture(scope="module")
def written(adata, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "page.html"
    return write_prediction(adata, path).paths[0]


@pytest.fixture
def browser(running, written):
    """A browser that has just opened the page; whatever it complains of fails the test."""
    running.resize(1280, 900)
    running.open(written)
    running.until("return picture.complete && !waiting")
    yield running
    assert running.complaints() == []


def drawn(browser):
    """The canvas, once it shows what was asked for."""
    browser.until("return !waiting")
    return browser.run(DRAWN)


def at(browser, spot):
    """Where a spot lies on the canvas, and on the screen."""
    return browser.run(
        "document.querySelector('canvas').scrollIntoView({block: 'center'});"
        "const f = canvas.getBoundingClientRect(), s = arguments[0];"
        "const l = (x[s] - view.x) * view.scale, t = (y[s] - view.y) * view.scale;"
        "return [l, t, l + f.left, t + f.top]",
        spot,
    )


def mouse(browser, kind, place, **more):
    browser.devtools("Input.dispatchMouseEvent", type=kind, x=place[2], y=place[3], **more)


def test_spots_have_the_colours_of_their_values(browser, adata):
    browser.run("opacity.value = 100; redraw()")
    drawn(browser)
    gene = browser.run(CHOSEN)
    assert gene == best_first(adata.var)[0]
    values = np.asarray(adata[:, gene].X).ravel()
    steps = np.rint((values - values.min()) / np.ptp(values) * 255).astype(int)
    found = browser.run(
        "const copy = document.createElement('canvas');"
        "[copy.width, copy.height] = [canvas.width, canvas.height];"
        "const pen = copy.getContext('2d', { willReadFrequently: true });"
        "pen.drawImage(canvas, 0, 0);"
        "return [...x].map((_, i) => [...pen.getImageData((x[i] - view.x) * view.scale,"
        "(y[i] - view.y) * view.scale, 1, 1).data])"
    )
    hidden = (1, 2, 9, 19)  # under the scale bar or a button, in corners of the canvas
    wanted = colormaps["viridis"](steps, bytes=True)
    same = (np.asarray(found) == wanted).all(axis=1)
    assert set(np.flatnonzero(~same)) <= set(hidden)
    ends = browser.run("return [...ticks].map(e => e.textContent)")
    assert ends == [
        f"{v:.2f}" for v in (values.min(), np.mean([values.min(), values.max()]), values.max())
    ]


def test_the_keyboard_picks_a_gene_and_another_map_is_drawn(browser, adata):
    ranked = best_first(adata.var)
    before = drawn(browser)
    browser.run("document.querySelector('[role=listbox]').focus()")
    browser.press(DOWN)
    assert browser.run(TITLE) == browser.run(CHOSEN) == ranked[1]
    second = drawn(browser)
    assert second != before
    active = "return document.activeElement.getAttribute('aria-activedescendant')"
    assert browser.run(active) == "gene-1"
    browser.press(END)
    assert browser.run(CHOSEN) == ranked[-1]
    assert browser.run(
        "const [row, all] = [rows[gene], list].map(e => e.getBoundingClientRect());"
        "return row.top >= all.top && row.bottom <= all.bottom"
    )
    assert "Not predictable" in browser.run("return document.querySelector('.said').textContent")
    assert drawn(browser) not in {before, second}


def test_a_search_narrows_the_list(browser):
    browser.run("document.querySelector('#find').focus()")
    browser.press(*"g3")
    listed = "return [...list.children].filter(e => !e.hidden).map(e => e.firstChild.textContent)"
    wanted = {f"G{number}" for number in range(300) if str(number).startswith("3")}
    assert set(browser.run(listed)) == wanted
    assert "11 of 300 genes" in browser.run("return count.textContent")
    before = drawn(browser)
    browser.press(ENTER)
    assert browser.run(CHOSEN) in wanted
    first = browser.run(CHOSEN)
    browser.press(DOWN)
    assert browser.run(CHOSEN) in wanted - {first}
    assert drawn(browser) != before
    browser.press(*"xyz")
    assert browser.run(listed) == []
    assert "no gene has “g3xyz” in its name" in browser.run("return count.textContent")


def test_scores_stand_beside_the_names(browser, adata):
    rows = browser.run("return [...list.children].map(e => e.innerText.split('\\n'))")
    for gene, row in zip(best_first(adata.var), rows, strict=True):
        scores = adata.var.loc[gene]
        assert row[0] == gene
        if np.isnan(scores["pcc"]):
            assert row[1:] == ["–", "–", "–", "not predictable"]
        else:
            assert float(row[1]) == pytest.approx(scores["pcc"], abs=0.0051)
            share, sign = row[3].split()
            assert sign == "%"
            assert int(share) == pytest.approx(100 * scores["share_of_ceiling"], abs=0.51)
            assert (row[4:] == ["not predictable"]) == (not scores["predictable"])


def test_wheel_buttons_and_keys_zoom_and_move(browser):
    _, _, scale, fit = browser.run(VIEW)
    assert scale == fit
    place = at(browser, 44)
    mouse(browser, "mouseWheel", place, deltaX=0, deltaY=-300)
    browser.until("return view.scale > view.fit && !waiting")
    assert at(browser, 44)[:2] == pytest.approx(place[:2], abs=1), "the spot stays in its place"
    zoomed = browser.run(VIEW)[2]
    browser.click(".zoom .in")
    assert browser.run(VIEW)[2] == pytest.approx(zoomed * 1.4)
    browser.run("document.querySelector('canvas').focus()")
    left = browser.run(VIEW)[0]
    browser.press(RIGHT)
    assert browser.run(VIEW)[0] > left
    assert browser.run(SPOT).startswith("spot-")
    browser.press("-", "-", "0")
    assert browser.run(VIEW)[2] == fit
    for _ in range(40):
        browser.press("+")
    x, y, largest, _ = browser.run(VIEW)
    assert largest > fit
    assert np.isfinite([x, y, largest]).all()


def test_a_drag_moves_the_image(browser):
    browser.click(".zoom .in")
    before = browser.run(VIEW)
    place = at(browser, 44)
    mouse(browser, "mousePressed", place, button="left", buttons=1, clickCount=1)
    there = [0, 0, place[2] - 80, place[3] - 30]
    mouse(browser, "mouseMoved", there, button="left", buttons=1)
    mouse(browser, "mouseReleased", there, button="left", clickCount=1)
    after = browser.run(VIEW)
    assert (after[0] - before[0]) * before[2] == pytest.approx(80, abs=1)
    assert (after[1] - before[1]) * before[2] == pytest.approx(30, abs=1)


def test_two_fingers_zoom(browser):
    place = at(browser, 44)

    def touch(kind, *offsets):
        points = [{"x": place[2] + o, "y": place[3], "id": n} for n, o in enumerate(offsets)]
        browser.devtools("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", -40, 40)
    touch("touchMove", -60, 60)
    touch("touchMove", -80, 80)
    touch("touchEnd")
    browser.until("return !waiting")
    scale, fit = browser.run(VIEW)[2:]
    assert scale / fit == pytest.approx(2, rel=0.1)
    assert at(browser, 44)[0] == pytest.approx(place[0], abs=12)


def test_a_spot_is_read_where_the_mouse_is_or_a_finger_taps(browser, adata):
    gene = browser.run(CHOSEN)
    mouse(browser, "mouseMoved", at(browser, 44))
    browser.until("return document.querySelector('.spot').textContent.startsWith('spot-44: ')")
    value, score = float(adata[44, gene].X.item()), adata.obs["ood_score"].iloc[44]
    told = browser.run(SPOT)
    assert told.startswith(f"spot-44: {gene} ")
    assert float(told.split()[2].rstrip(";")) == pytest.approx(value, abs=0.02)
    assert f"out-of-distribution score {score:.2f}, unlike the training images" in told
    assert told.endswith("pixel 450, 450")
    mouse(browser, "mouseMoved", [0, 0, 2, 2])
    browser.until("return document.querySelector('.spot').textContent.startsWith('Point at')")
    place = at(browser, 45)
    touched = [{"x": place[2], "y": place[3]}]
    browser.devtools("Input.dispatchTouchEvent", type="touchStart", touchPoints=touched)
    browser.devtools("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.until("return document.querySelector('.spot').textContent.startsWith('spot-45: ')")


def test_layers_and_opacity_change_the_picture(browser):
    pictures = [drawn(browser)]
    browser.choose("select.layer", "ood")
    pictures.append(drawn(browser))
    assert browser.run(TITLE) == "Out-of-distribution score"
    assert browser.run("return ticks[0].textContent") == "0.00"
    browser.choose("select.layer", "gene")
    assert drawn(browser) == pictures[0]
    browser.click("input.outline")
    pictures.append(drawn(browser))
    browser.click("input.image")
    pictures.append(drawn(browser))
    browser.run("opacity.value = 10; opacity.dispatchEvent(new Event('input', { bubbles: true }))")
    pictures.append(drawn(browser))
    assert len(set(pictures)) == 5


@pytest.mark.parametrize("width", [1280, 380, 320])
def test_the_page_is_never_wider_than_the_screen(browser, width):
    browser.resize(width, 800)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.until("return !waiting && canvas.width === canvas.clientWidth")
    assert browser.run("return canvas.clientWidth") > width * 0.5
    assert browser.run("return view.scale === view.fit")


def test_a_scale_bar_is_drawn_where_the_scale_is_known(browser, running, tmp_path):
    corner = "return [...canvas.getContext('2d').getImageData(20, canvas.height - 18, 1, 1).data]"
    browser.until("return !waiting")
    assert browser.run(corner)[:3] == [17, 17, 17]
    running.open(write_prediction(made_prediction(100, 3, um=None), tmp_path / "p.html").paths[0])
    running.until("return picture.complete && !waiting")
    assert running.run(corner)[:3] != [17, 17, 17]


def test_hostile_names_are_shown_and_not_carried_out(running, tmp_path):
    adata = made_prediction(30, [HOSTILE, "B", "C"], name=HOSTILE, notes=HOSTILE)
    adata.obs_names = [f"{HOSTILE}{number}" for number in range(30)]
    adata.var["pcc"] = [0.5, 0.4, 0.3]
    running.resize(380)
    running.open(write_prediction(adata, tmp_path / "page.html").paths[0])
    running.until("return picture.complete && !waiting")
    # An open alert would make every further call an error.
    assert running.run(TITLE) == HOSTILE
    assert running.run(CHOSEN) == HOSTILE
    assert running.run("return document.querySelectorAll('[onerror], img').length") == 0
    assert running.run("return document.documentElement.scrollWidth") <= 380
    running.run("document.querySelector('canvas').focus()")
    running.press("+")
    assert running.run(SPOT).startswith(HOSTILE)
    assert running.complaints() == []


def test_no_request_leaves_the_page(browser):
    names = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in names if not name.startswith("data:")] == []
