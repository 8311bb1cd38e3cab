"""The page: what it says, what it may not say, and that it stands alone."""

from __future__ import annotations

import base64
import io
import json
import shutil
from html.parser import HTMLParser

import anndata
import numpy as np
import pytest
from PIL import Image

from bench.errors import BenchError, UnknownNameError
from bench.files import write_json
from bench.records import write_record
from bench.report import page_maps
from bench.report.footnotes import footnotes
from bench.report.page import leaderboard, page, stored_comparisons, write_page
from bench.report.page_maps import map_needs, packed_images, packed_maps, share_out
from bench.report.tables import for_people, score_table
from bench.store import RunFolder
from bench.stored_runs import stored_runs
from tests.cli.tiny_dataset import (
    GENES,
    SECTIONS,
    call,
    call_process,
    write_plugin,
    write_tiny_dataset,
)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<!--"
METHODS = "looks,mean,coordinates,depth"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Results of four runs on the tiny dataset, one of which looks at images."""
    folder = tmp_path_factory.mktemp("page")
    tiny = write_tiny_dataset(folder / "tiny")
    plugins = write_plugin(folder / "plugins", "looks", needs_image=True)
    arguments = ("run", "--method", METHODS, *tiny.options, *tiny.quick_protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugins)
        answer = call(*arguments, "--tracking", "none", "--results", folder / "results")
    assert answer.status == 0, answer.stderr
    return folder / "results"


@pytest.fixture(scope="module")
def found(finished):
    """The page of those results."""
    return parsed(finished)


@pytest.fixture
def results(finished, tmp_path, monkeypatch):
    """A copy of those results that the test may change; figures, which take long, are left out."""
    monkeypatch.setattr("bench.report.page.comparison_figures", lambda runs: {})
    shutil.copytree(finished, tmp_path / "results")
    return tmp_path / "results"


def runs_of(results, protocol="patients"):
    return {run.facts["label"]: run for run in stored_runs(results, "tiny", protocol)}


def change(run, **facts):
    """Change what is stored of a run; its key stays."""
    write_record(run.folder.path / "run.json", {**run.facts, **facts})


def change_fold(run, index, **facts):
    fold = run.folder.fold(index)
    write_json(fold.path / "fold.json", {**fold.facts(), **facts})
    fold.finish("fit", "score")


def rewrite(run, index, *, genes=None, truth=None):
    """Change the genes' names or the measured values in the files of a fold."""
    fold = run.folder.fold(index)
    adata = anndata.read_h5ad(fold.path / "predictions.h5ad")
    if genes is not None:
        adata.var_names = [genes.get(name, name) for name in adata.var_names]
        table = fold.read_table("genes.parquet")
        fold.write_table("genes.parquet", table.replace({"gene": genes}))
    if truth is not None:
        adata.layers["truth"] = adata.layers["truth"] + np.float32(truth)
    adata.write_h5ad(fold.path / "predictions.h5ad")
    fold.finish("fit", "score")


class Parsed(HTMLParser):
    """Elements of a page as a browser would find them, with the text inside of each."""

    EMPTY = {"meta", "input", "img", "br", "hr", "link"}

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self._open = []
        self.feed(text)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in self.EMPTY:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def of(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and all(element.get(name) == value for name, value in attributes.items())
        ]

    def json(self, name):
        (found,) = self.of("script", id=name)
        return json.loads(found["text"])

    @property
    def tables(self):
        """Cells of every table, its headings first."""
        tables = []
        for element in self.elements:
            if element["tag"] == "table":
                tables.append([])
            elif element["tag"] == "tr":
                tables[-1].append([])
            elif element["tag"] in {"th", "td"}:
                tables[-1][-1].append(element["text"].strip())
        return tables


def parsed(results, **chosen):
    return Parsed(page(results, stored_comparisons(results, **chosen)))


def unpacked(text, kind):
    return np.frombuffer(base64.b64decode(text), dtype=kind)


# ---------------------------------------------------------------------------------- content


def test_the_leaderboard_is_the_score_table_with_its_notes(finished, found):
    runs = list(runs_of(finished).values())
    table = score_table(runs)
    wanted = leaderboard(table)
    assert "CCC(ACG)" in wanted
    assert sorted(wanted) == sorted(for_people(table, "page"))
    assert list(wanted)[:6] == ["method", "PCC(ACG)", "PCC(HEG)", "MSE", "MAE", "preset"]
    assert found.tables[0][0] == list(wanted.columns)
    assert found.tables[0][1:] == [list(map(str, row)) for row in wanted.to_numpy()]
    listed = [element["text"].strip() for element in found.of("li")]
    for note in footnotes(runs, table, "page"):
        assert note in listed


def test_cells_sort_by_their_numbers_and_names_by_themselves(finished, found):
    rows = json.loads(json.dumps(score_table(list(runs_of(finished).values()))["mse"].tolist()))
    headings = found.tables[0][0]
    cells = [e for e in found.elements if e["tag"] in {"th", "td"} and "data-key" in e]
    keys = [cells[number : number + len(headings)] for number in range(0, 4 * len(headings), 17)]
    assert len(headings) == 17
    numbers = [row[headings.index("MSE")]["data-key"] for row in keys]
    for key, value in zip(numbers, rows, strict=True):
        assert key == ("" if np.isnan(value) else f"{value:.4f}")
    assert [row[0]["data-key"] for row in keys] == [row[0]["text"] for row in keys]
    numeric = {e["text"].strip(): "data-numeric" in e for e in found.of("th") if e.get("data-best")}
    assert numeric["of ceiling"]
    assert numeric["95 % interval"]
    assert not numeric["method"]
    assert not numeric["preset"]


def test_maps_give_back_measured_and_predicted_values(finished, found):
    data = found.json("maps-0")
    runs = runs_of(finished)
    assert [section["name"] for section in data["sections"]] == list(SECTIONS)
    assert sorted(data["genes"]) == sorted(GENES)
    assert len(data["rows"]) == 4
    for section in data["sections"]:
        genes = [data["genes"][number] for number in section["genes"]]
        shown = {data["rows"][each["row"]]["name"]: each for each in section["maps"]}
        assert set(shown) == set(runs)
        for label, run in runs.items():
            fold = run.folder.fold("ABC".index(section["patient"]))
            adata = anndata.read_h5ad(fold.path / "predictions.h5ad")
            part = adata[adata.obs["section"] == section["name"], genes]
            np.testing.assert_array_equal(unpacked(section["x"], "<f4"), part.obsm["spatial"][:, 0])
            np.testing.assert_array_equal(unpacked(section["y"], "<f4"), part.obsm["spatial"][:, 1])
            scores = fold.read_table("genes.parquet").set_index(["section", "gene"])
            scores = scores.loc[section["name"]].loc[genes]
            of_map = unpacked(shown[label]["pcc"], "<f4")
            np.testing.assert_allclose(of_map, scores["pcc"], rtol=1e-6)
            np.testing.assert_allclose(
                unpacked(section["ceiling"], "<f4"), scores["ceiling"], rtol=1e-6
            )
            for packed, values in (
                (shown[label], np.asarray(part.X)),
                (section["truth"], np.asarray(part.layers["truth"])),
            ):
                low, high = unpacked(packed["low"], "<f4"), unpacked(packed["high"], "<f4")
                np.testing.assert_array_equal(low, values.min(axis=0))
                np.testing.assert_array_equal(high, values.max(axis=0))
                steps = unpacked(packed["values"], "u1") if packed["values"] else 0
                steps = np.broadcast_to(steps, values.size).reshape(values.shape[::-1]).T
                given = low + (high - low) * steps / 255
                assert (np.abs(given - values) <= (high - low) / 255 * 0.501 + 1e-6).all()


def test_spots_lie_on_the_small_image_where_they_lie_on_the_large_one(found):
    images = found.json("images")
    sections = found.json("maps-0")["sections"]
    assert {section["image"] for section in sections} == set(images)
    assert len(images) == len(SECTIONS)
    for section in sections:
        image = images[section["image"]]
        # The large image has 200 x 200 px; that is what the coordinates are of.
        assert (image["width"], image["height"]) == (200, 200)
        assert unpacked(section["x"], "<f4").max() < 200
        assert section["pitch"] == 28
        header, content = image["source"].split(",")
        assert header == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.size == (200, 200)


def test_figures_pairs_cost_and_settings_are_there(finished, found):
    sources = [element["src"] for element in found.of("img")]
    assert len(sources) >= 3
    for source in sources:
        header, content = source.split(",")
        assert header == "data:image/svg+xml;base64"
        assert b"<svg" in base64.b64decode(content)
    assert found.tables[1][0][:3] == ["better", "than", "difference"]
    assert found.tables[2][0][:5] == ["method", "preset", "device", "precision", "folds"]
    runs = runs_of(finished)
    rows = {row[0]: dict(zip(found.tables[2][0], row, strict=True)) for row in found.tables[2][1:]}
    assert set(rows) == set(runs)
    timings = [runs["looks"].folder.fold(index).facts()["timings"] for index in range(3)]
    assert rows["looks"]["fit s"] == f"{sum(of['fit_seconds'] for of in timings):.1f}"
    assert rows["depth"]["fit s"] == "–"
    stored = [json.loads(e["text"]) for e in found.of("pre") if e["aria-label"].startswith("Facts")]
    assert sorted(facts["label"] for facts in stored) == sorted(runs)
    for run in runs.values():
        assert run.facts in stored


def test_what_the_audit_found_is_said_over_the_table(results):
    for run in runs_of(results).values():
        change(run, audit=[])
    assert not [e for e in parsed(results).of("p", **{"class": "leak"}) if "audit" in e["text"]]
    change(run, audit=[{"kind": "patient", "message": "some patient is on both sides"}])
    found = parsed(results)
    (said,) = [e["text"] for e in found.of("p", **{"class": "leak"}) if "audit" in e["text"]]
    assert said.strip().endswith("note 1.")
    (note,) = found.of("li", **{"class": "leak"})
    assert note["text"].strip() == "Same-patient leak: some patient is on both sides."


def test_missing_folds_are_said_and_have_no_map(results):
    run = runs_of(results)["looks"]
    fold = run.folder.fold(1)
    fold.clear()
    (fold.path / "failure.txt").write_text(f"Traceback\nValueError: {HOSTILE}\n")
    text = page(results, stored_comparisons(results))
    found = Parsed(text)
    items = [element["text"].strip() for element in found.of("li")]
    assert "looks: only 2 of 3 folds are done, fold 1 is missing." in items
    assert f"Fold 1 is missing (failed: ValueError: {HOSTILE})." in items
    data = found.json("maps-0")
    for section in data["sections"]:
        shown = {data["rows"][each["row"]]["name"] for each in section["maps"]}
        assert ("looks" in shown) == (section["patient"] != "B")
        assert {"mean", "coordinates", "depth"} <= shown


def test_notes_of_a_fit_are_said(results):
    change_fold(runs_of(results)["looks"], 2, notes=["training ended at chance"])
    items = [element["text"].strip() for element in parsed(results).of("li")]
    assert "Fold 2: training ended at chance" in items
    assert "looks, fold 2: training ended at chance." in items


def test_a_changed_preset_is_marked_in_table_cost_and_run(results):
    change(runs_of(results)["looks"], preset="quick", changes={"shift": [1, 2]})
    found = parsed(results)
    note = "looks: quick* = preset quick with shift 2 (quick: 1)."
    assert note in [element["text"].strip() for element in found.of("li")]
    text = page(results, stored_comparisons(results))
    assert "looks (quick*), preset quick*" in text
    assert "looks (quick*)" in [row["name"] for row in found.json("maps-0")["rows"]]


def test_runs_without_a_finished_fold_still_give_a_page(results):
    runs = runs_of(results)
    for number, run in enumerate(runs.values(), 1):
        for index in range(3):
            run.folder.fold(index).clear()
        if number == 1:
            found = parsed(results)
            place = found.tables[0][0].index("folds")
            done = sorted(row[place] for row in found.tables[0][1:])
            assert done == ["0/3", "3/3", "3/3", "3/3"]
            assert all(
                {row[0], row[1]} <= set(runs) - {run.facts["label"]} for row in found.tables[1][1:]
            )
            assert len(found.json("maps-0")["sections"][0]["maps"]) == 3
    found = parsed(results)
    place = found.tables[0][0].index("folds")
    assert [row[place] for row in found.tables[0][1:]] == ["0/3"] * 4
    assert found.of("script", id="maps-0") == []
    assert found.of("img") == []


def test_runs_of_one_name_are_told_apart_everywhere(results):
    runs = runs_of(results)
    change(runs["mean"], label="looks", seed=7, config={"shift": 3})
    found = parsed(results)
    names = [row["name"] for row in found.json("maps-0")["rows"]]
    assert len(set(names)) == 4
    (seventh,) = [name for name in names if "seed 7" in name]
    assert seventh == "looks (seed 7)"
    assert seventh in [row[0] for row in found.tables[2]]


def test_of_runs_that_differ_in_code_alone_the_newest_is_shown(results):
    run = runs_of(results)["mean"]
    older = RunFolder(run.folder.path.with_name("mean-older"), "0" * 64)
    older.describe({**run.facts, "created": "2000-01-01"})
    found = parsed(results)
    assert len(found.tables[0]) == 5
    assert any("1 older with the same settings" in e["text"] for e in found.of("dd"))


@pytest.mark.slow
def test_every_dataset_and_protocol_has_a_part_of_its_own(results):
    runs = results / "runs" / "tiny"
    shutil.copytree(runs / "patients", runs / "other")
    shutil.copytree(runs, results / "runs" / "second")
    found = parsed(results)
    wanted = [(d, p) for d in ("second", "tiny") for p in ("other", "patients")]
    headings = [element["text"].strip() for element in found.of("h2")]
    assert headings == [f"{dataset}, protocol {protocol}" for dataset, protocol in wanted]
    assert len([table for table in found.tables if "PCC(ACG)" in table[0]]) == 4
    assert all(len(table) == 5 for table in found.tables if "PCC(ACG)" in table[0])
    for number in range(4):
        assert len(found.json(f"maps-{number}")["rows"]) == 4
    assert len(found.json("images")) == len(SECTIONS), "an image that is shared is there once"
    assert [c.protocol for c in stored_comparisons(results, "tiny", "other")] == ["other"]
    assert [c.dataset for c in stored_comparisons(results, protocol="other")] == ["second", "tiny"]


def test_runs_that_disagree_on_what_was_measured_get_maps_of_their_own(results):
    rewrite(runs_of(results)["mean"], 0, truth=1.0)
    data = parsed(results).json("maps-0")
    shown = {
        section["name"]: {data["rows"][each["row"]]["name"] for each in section["maps"]}
        for section in data["sections"]
    }
    names = [f"A{number} (version {version})" for number in (1, 2) for version in (1, 2)]
    assert list(shown) == [*names, "B1", "B2", "C1", "C2"]
    assert sorted(map(len, (shown[names[0]], shown[names[1]]))) == [1, 3]
    assert {"mean"} in shown.values()


def test_differences_of_rounding_are_no_disagreement(results):
    rewrite(runs_of(results)["mean"], 0, truth=1e-6)
    assert [s["name"] for s in parsed(results).json("maps-0")["sections"]] == list(SECTIONS)


# ------------------------------------------------------------------------------------- size


def rows_of(results):
    return [page_maps.Row(label, run) for label, run in sorted(runs_of(results).items())]


def test_the_size_of_maps_is_known_before_they_are_packed(finished):
    rows = rows_of(finished)
    needs = map_needs(rows)
    assert sorted(needs.order) == sorted(GENES)
    for count in (len(GENES), len(GENES) // 2):
        packed = packed_maps(rows, needs.order[:count])
        maps = [
            each for section in packed["sections"] for each in (section["truth"], *section["maps"])
        ]
        size = sum(len(text) for each in maps for text in each.values() if isinstance(text, str))
        assert size == pytest.approx(needs.size[:count].sum(), rel=0.05)


def test_a_page_too_large_keeps_the_best_genes_and_markers_and_says_what_is_left_out(
    results, monkeypatch
):
    marker = "GNAS"
    for run in runs_of(results).values():
        for index in range(3):
            rewrite(run, index, genes={"GENE3": marker})
    rows = rows_of(results)
    needs = map_needs(rows)
    images = sum(len(image["source"]) for image in packed_images(results, rows).values())
    monkeypatch.setattr("bench.report.page.MAP_BYTES", images + needs.total / 2)
    found = parsed(results)
    kept = found.json("maps-0")["genes"]
    assert 15 < len(kept) < 25
    assert marker in kept
    tables = runs_of(results)["looks"].genes()
    pcc = tables[tables["gene"] != marker].groupby("gene")["pcc"].mean()
    best = pcc.sort_values(ascending=False).index[: len(kept) - 1]
    assert set(kept) == {marker, *best}
    (said,) = [e["text"] for e in found.of("summary") if "not in this browser" in e["text"]]
    assert said == f"{40 - len(kept)} of 40 panel genes are not in this browser"
    (listed,) = [e["text"] for e in found.of("p") if "Left out: " in e["text"]]
    left_out = listed.split("Left out: ")[1].rstrip(".\n").split(", ")
    assert sorted([*left_out, *kept]) == sorted([*set(GENES) - {"GENE3"}, marker])


def test_all_genes_are_there_where_there_is_room_for_all(found):
    assert not [e for e in found.of("summary") if "not in this browser" in e["text"]]


def test_no_room_at_all_still_gives_a_page(results, monkeypatch):
    monkeypatch.setattr("bench.report.page.MAP_BYTES", 0)
    data = parsed(results).json("maps-0")
    assert data["genes"] == []
    assert all(section["genes"] == [] for section in data["sections"])


@pytest.mark.parametrize(
    ("wanted", "budget", "given"),
    [
        ([5.0, 1.0], 10.0, [5.0, 1.0]),
        ([9.0, 1.0, 9.0], 11.0, [5.0, 1.0, 5.0]),
        ([9.0, 9.0], 4.0, [2.0, 2.0]),
        ([], 4.0, []),
    ],
)
def test_a_budget_is_shared_out(wanted, budget, given):
    assert share_out(wanted, budget) == given


def test_images_shrink_until_they_fit_together(finished, monkeypatch):
    rows = rows_of(finished)
    large = packed_images(finished, rows)
    monkeypatch.setattr("bench.report.page_maps._IMAGE_SIDES", (200, 60))
    total = sum(len(image["source"]) for image in large.values())
    monkeypatch.setattr("bench.report.page_maps.IMAGE_BYTES", total - 1)
    small = packed_images(finished, rows)
    assert set(small) == set(large)
    for name, image in small.items():
        content = base64.b64decode(image["source"].split(",")[1])
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (60, 60)
        assert image["width"] == large[name]["width"]


# -------------------------------------------------------------------- a page that stands alone


def test_the_page_asks_for_nothing_outside_of_itself(found):
    (policy,) = found.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]
    assert "img-src data:;" in policy["content"]
    for element in found.elements:
        assert element["tag"] not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in element.items():
            assert not name.startswith("on"), element
            if name in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}:
                assert value.startswith(("data:", "#")), element
    for style in found.of("style"):
        assert "url(" not in style["text"]
        assert "@import" not in style["text"]


def test_every_control_has_a_label_and_no_name_is_given_twice(found):
    names = [element["id"] for element in found.elements if "id" in element]
    assert len(names) == len(set(names))
    controls = found.of("select") + found.of("input")
    columns = len(found.tables[0][0]) - 1
    assert len(controls) == 6 + columns
    # A label around its control needs no reference.
    assert len(found.of("label")) == len(controls)
    assert all(label["text"].strip() for label in found.of("label"))
    assert all("alt" in image for image in found.of("img"))


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(results, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(results, copied)
    pages = []
    for folder, seed in ((results, "1"), (copied, "2")):
        out = tmp_path / f"{seed}.html"
        arguments = ("report", "--results", folder, "--out", out)
        answer = call_process(*arguments, env={"PYTHONHASHSEED": seed})
        assert answer.status == 0, answer.stderr
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]
    assert pages[0].count(b"data:image/svg+xml") >= 3


def test_hostile_names_are_text_and_nothing_else(results):
    plain = parsed(results)
    runs = runs_of(results)
    change(runs["mean"], label=HOSTILE, preset=HOSTILE, config={HOSTILE: HOSTILE})
    change(runs["looks"], kind=HOSTILE, packages={HOSTILE: HOSTILE}, footnotes=[HOSTILE])
    for run in runs.values():
        rewrite(run, 0, genes={"GENE7": HOSTILE})
    change_fold(runs["depth"], 1, notes=[HOSTILE], device=HOSTILE, machine={HOSTILE: HOSTILE})
    (results / "runs" / "tiny").rename(results / "runs" / HOSTILE.replace("/", "|"))
    found = parsed(results)
    assert len(found.of("script")) == len(plain.of("script"))
    assert len(found.of("img")) == len(plain.of("img"))
    assert not any(name.startswith("on") for element in found.elements for name in element)
    data = found.json("maps-0")
    assert HOSTILE in data["genes"]
    assert HOSTILE in [row["name"] for row in data["rows"]]
    assert HOSTILE in [row["kind"] for row in data["rows"]]
    assert f"{HOSTILE} (control)" in [row[0] for row in found.tables[0]]
    items = [element["text"].strip() for element in found.of("li")]
    assert f"Fold 1: {HOSTILE}" in items
    assert HOSTILE in items
    (heading,) = found.of("h2")
    assert heading["text"].startswith(HOSTILE.replace("/", "|"))


def test_a_file_outside_of_the_results_is_not_taken_for_an_image(results, tmp_path):
    Image.new("RGB", (50, 50)).save(tmp_path / "secret.jpg")
    run = runs_of(results)["looks"]
    broken = next((results / "images").rglob("A2*.jpg"))
    broken.write_bytes(b"no image")
    wanted = {
        "A1": {"file": "../secret.jpg", "scale": 1.0},
        "A2": {"file": broken.relative_to(results).as_posix(), "scale": 1.0},
    }
    for label in runs_of(results):
        change_fold(runs_of(results)[label], 0, images={})
    change_fold(run, 0, images=wanted)
    found = parsed(results)
    images = found.json("images")
    assert len(images) == 4
    assert not any("secret" in name for name in images)
    sections = {section["name"]: section["image"] for section in found.json("maps-0")["sections"]}
    assert sections["A1"] not in images
    assert sections["A2"] not in images


# ---------------------------------------------------------------------------------- command


@pytest.mark.slow
def test_the_command_writes_the_page_without_loading_torch(results, tmp_path):
    program = tmp_path / "modules.py"
    program.write_text(
        "import sys\n"
        "from bench.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'lightning', 'scanpy', 'mlflow', 'timm'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy), file=sys.stderr)\n"
    )
    answer = call_process("report", "--results", results, program=(str(program),))
    assert (answer.status, answer.stderr) == (0, "heavy: []\n")
    written = results / "report.html"
    assert answer.stdout == f"{written}\n"
    assert "tiny, protocol patients" in written.read_text(encoding="utf-8")


def test_what_is_not_there_is_refused_with_the_names_that_are(results, tmp_path):
    with pytest.raises(BenchError, match="no runs here"):
        stored_comparisons(tmp_path / "nothing")
    with pytest.raises(UnknownNameError, match="tiny"):
        stored_comparisons(results, "tinny")
    with pytest.raises(UnknownNameError, match="patients"):
        stored_comparisons(results, protocol="strict")
    with pytest.raises(UnknownNameError, match="patients"):
        stored_comparisons(results, "tiny", "strict")


def test_a_place_that_cannot_be_written_is_named(results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"file/report.html: cannot be written \(.+--out"):
        write_page(results, tmp_path / "file" / "report.html", stored_comparisons(results))
    (tmp_path / "folder").mkdir()
    with pytest.raises(BenchError, match="folder: cannot be written"):
        write_page(results, tmp_path / "folder", stored_comparisons(results))
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_cannot_be_read_is_left_out(results):
    (runs_of(results)["mean"].folder.path / "run.json").write_text("{")
    found = parsed(results)
    assert sorted(row["name"] for row in found.json("maps-0")["rows"]) == [
        *("coordinates", "depth", "looks"),
    ]
