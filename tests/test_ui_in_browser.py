"""MLflow's pages on our runs, in a browser: the questions that a comparison asks are answered.

Pictures of what was seen lie in ``build/screenshots``.
"""
# ruff: noqa: F811 - fixtures of tests.tracked

from __future__ import annotations

import re
import shutil

import pytest

from tests.browser import needs_browser, started
from tests.cli.tiny_dataset import start, write_plugin
from tests.conftest import REPOSITORY
from tests.mlflow_server import QUIET, free_port, stop, wait_for
from tests.tracked import (  # noqa: F401 - fixtures
    client_of,
    empty_database,
    no_server_from_outside,
    run,
    runs_of,
    tiny,
)

pytestmark = [needs_browser, pytest.mark.slow]

NAMES = (
    "return [...document.querySelectorAll('.ag-row')].filter(e => e.querySelector('a'))"
    ".sort((a, b) => a.getAttribute('row-index') - b.getAttribute('row-index'))"
    ".map(e => e.querySelector('a').innerText)"
)
ORDERED = f"return (() => {{ {NAMES} }})().join() === arguments[0].join()"
HEADINGS = (
    "return [...document.querySelectorAll('.ag-header-cell')]"
    ".sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)"
    ".map(e => e.innerText.trim()).filter(e => e)"
)
SHOWN = (
    "[...document.querySelectorAll('img')]"
    ".filter(e => e.naturalWidth >= 100 && /artifact|^blob/.test(e.src))"
    ".map(e => [e.naturalWidth, e.naturalHeight])"
)


FIT = "context.curves += [{'epoch': n, 'train_loss': 1 / (n + len(data.train))} for n in range(5)]"
LOOKS = """
tones = [s.patches().mean(axis=(1, 2, 3))[:, None] / 255 for s in slides]
sign = np.linspace(-1, 1, len(self.mean))
predictions = [(self.mean - sign * tone).astype(np.float32) for tone in tones]
"""
"""A method that predicts from the colour of patches, with curves as of a network."""


@pytest.fixture(scope="module")
def results(tiny, empty_database, tmp_path_factory):
    """Runs of three methods; one of them has curves."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copy(empty_database, folder / "mlflow.db")
    plugin = tmp_path_factory.mktemp("plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(
            write_plugin(plugin, "looks", fit=FIT, predict=LOOKS, needs_image=True)
        )
        done = run(tiny, folder, *tiny.quick_protocol, methods="looks,coordinates,mean")
        assert done.status == 0
    return folder


@pytest.fixture(scope="module")
def pages(results):
    """``bench ui`` on these runs, and the address of the page that it names."""
    port = free_port()
    process = start("ui", "--results", results, "--port", port, env=QUIET)
    try:
        first, second = process.stdout.readline(), process.stdout.readline()
        assert f"http://127.0.0.1:{port} (Ctrl-C stops it)" in first
        address = re.fullmatch(r"Newest runs, best first: (http://\S+)\n", second)[1]
        assert address.startswith(f"http://127.0.0.1:{port}/#/experiments/")
        wait_for(f"http://127.0.0.1:{port}", process)
        yield address
    finally:
        stop(process)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory, pages):
    """A browser in which the pages have been opened for the first time."""
    with started(tmp_path_factory.mktemp("chromium")) as browser:
        browser.resize(1500, 1000)
        browser.open(pages)
        browser.until(NAMES, seconds=60)
        chat = "[data-component-id='mlflow.assistant.chat_panel.close']"
        if browser.run("return document.querySelector(arguments[0]) !== null", chat):
            browser.click(chat)
        yield browser


@pytest.fixture
def browser(opened, pages):
    """The browser on the page that ``bench ui`` names."""
    opened.open("about:blank")
    opened.open(pages)
    # The table as it always is comes first, for a moment.
    opened.until("return document.body.innerText.includes('Sort: pcc_acg')")
    opened.until(NAMES)
    return opened


def keep(browser, name):
    browser.screenshot(REPOSITORY / "build" / "screenshots" / f"{name}.png")


def ranked(results):
    """Labels of the runs, best PCC(ACG) first, those without one last."""
    parents, _ = runs_of(client_of(results))
    scores = {name: run_.data.metrics.get("pcc_acg") for name, run_ in parents.items()}
    known = sorted((name for name in scores if scores[name] is not None), key=scores.get)
    return known[::-1], [name for name in scores if scores[name] is None]


def test_the_best_method_stands_first_and_a_press_turns_the_order(browser, results):
    known, rest = ranked(results)
    assert (len(known), rest) == (2, ["mean"])
    browser.until(ORDERED, known + rest)
    scores = ("pcc_acg", "pcc_acg_given_depth", "pcc_heg", "mse", "mae")
    assert [name for name in browser.run(HEADINGS) if name in scores] == [*scores]
    keep(browser, "ui-1-runs-by-pcc")
    press = ".ag-header-cell[col-id='metrics.`pcc_acg`'] [role=columnheader]"
    browser.click(press)
    browser.until(ORDERED, known[::-1] + rest)
    browser.click(press)
    browser.until(ORDERED, known + rest)


def test_the_description_has_the_table(browser):
    browser.click("[data-component-id='mlflow.experiment.metadata_editor.expand_button']")
    cells = browser.until(
        "const shown = [...document.querySelectorAll('table')].filter(e => e.offsetHeight);"
        "const found = shown.find(e => e.innerText.includes('PCC(ACG)'));"
        "return found && [...found.tBodies[0].rows].map(e => e.cells[0].innerText.trim())"
    )
    assert sorted(cells) == ["coordinates (control)", "looks", "mean (control)"]
    keep(browser, "ui-2-description")


def test_two_runs_are_compared(browser):
    for name in ("looks", "coordinates"):
        row = browser.run(NAMES).index(name)
        browser.click(f".ag-row[row-index='{row}'] input[type=checkbox]")
    browser.click("[data-testid='runs-compare-button']")
    browser.until("return /Comparing 2 Runs/.test(document.body.innerText)")
    text = browser.until(
        "const text = document.body.innerText;"
        "return /pcc_acg/.test(text) && /config.neighbours/.test(text) && text"
    )
    assert "looks" in text
    keep(browser, "ui-3-compare")


def test_charts_have_curves_scores_and_the_maps_side_by_side(browser):
    browser.resize(1500, 2400)
    browser.click("//label[.//input[@value='CHART']]", using="xpath")
    drawn = (
        "return ['curves/train_loss', 'maps/predictions by fold', 'pcc_acg'].every("
        "name => document.body.innerText.includes(name))"
    )
    browser.until(drawn)
    browser.until(f"return {SHOWN}.length >= 3")
    assert len(browser.run("return [...document.querySelectorAll('.js-plotly-plot')]")) > 3
    keep(browser, "ui-4-charts")
    browser.resize(1500, 1000)


def test_the_picture_of_a_fold_is_shown(browser, pages, results):
    _, children = runs_of(client_of(results))
    child = children["looks", 0].info
    base = pages.partition("#")[0]
    page = f"{base}#/experiments/{child.experiment_id}/runs/{child.run_id}"
    browser.open("about:blank")
    browser.open(f"{page}/artifacts/prediction_maps.png?workflowType=machine_learning")
    ((width, height), *_) = browser.until(f"const a = {SHOWN}; return a.length ? a : null")
    assert width > height > 300
    keep(browser, "ui-5-fold-maps")
    browser.open(f"{page}?workflowType=machine_learning")
    browser.until("return /looks-fold-0/.test(document.body.innerText)")
    keep(browser, "ui-6-fold")
