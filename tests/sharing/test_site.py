"""The site: what its pages say, that they stand alone, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bench.records import write_record
from bench.report.site import write_site
from bench.report.site_content import file_name, read_ranking
from bench.report.site_genes import SCALE, gene_matrix
from bench.stored_runs import stored_runs
from tests.cli.tiny_dataset import assert_refused, call

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """Addresses that a page names, its texts, and the elements of its tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"href", "src"} and value]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def public(shared_results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "public"
    answer = call("site", shared_results, "--out", folder, "--with-runs")
    assert answer.status == 0, answer.stderr
    assert "1 ranking, 3 rows, 3 methods" in answer.stdout
    return folder


def test_a_damaged_run_and_runs_that_cannot_be_downloaded_are_told(own_results, tmp_path):
    (record,) = own_results.glob("runs/*/*/coordinates-*/run.json")
    record.write_text("{")
    answer = call("site", own_results, "--out", tmp_path / "public")
    assert answer.status == 0, answer.stderr
    assert f"{record} is damaged or was edited; its run is left out" in answer.stderr


def test_a_site_of_imported_runs_has_no_file_of_them(archive, tmp_path):
    assert call("import", archive, "--results", tmp_path / "there").status == 0
    answer = call("site", tmp_path / "there", "--out", tmp_path / "public", "--with-runs")
    assert answer.status == 0, answer.stderr
    assert "all 3 runs were imported" in answer.stderr
    assert not list((tmp_path / "public").rglob("*.zip"))
    again = call("export", "--results", tmp_path / "there", "--out", tmp_path / "x.spotbench.zip")
    assert_refused(again, "all 3 runs were imported; export them where they were made")


def test_a_place_that_cannot_be_written_is_told_with_its_option(shared_results, tmp_path):
    (tmp_path / "file").write_text("")
    answer = call("site", shared_results, "--out", tmp_path / "file" / "public")
    assert_refused(answer, "cannot be written", "another --out folder")


def test_a_key_that_no_run_has_is_named(shared_results, tmp_path):
    out = tmp_path / "x.spotbench.zip"
    answer = call("export", "--results", shared_results, "--run", "zzz", "--out", out)
    assert_refused(answer, "no run has a key that begins with 'zzz'")


def pages(public):
    return sorted(public.rglob("*.html"))


def test_every_address_is_a_file_of_the_site(public):
    assert len(pages(public)) == 8
    for path in pages(public):
        for address in Page(path).addresses:
            place, _, anchor = address.partition("#")
            assert not re.match(r"[a-z]+:|/", address), (path, address)
            target = (path.parent / place).resolve() if place else path
            assert target.is_file(), (path, address)
            if anchor:
                assert f'id="{anchor}"' in target.read_text()


def test_pages_allow_no_request_outside_and_no_script_within(public):
    for path in pages(public):
        text = path.read_text()
        assert "default-src 'none'; style-src 'self'; script-src 'self'" in text
        assert "<style" not in text
        assert re.findall(r"<script(?! defer src=| type=\"application/json\")", text) == []
        assert " style=" not in text
    assert "http" not in (public / "site.js").read_text()


def test_the_ranking_and_downloads_are_the_table(public, shared_results):
    where = ("--dataset", "tiny", "--protocol", "patients", "--results", shared_results)
    for how in ("csv", "json"):
        text = call("tables", *where, "--format", how).stdout
        rows = (public / "data" / f"tiny--patients.{how}").read_text()
        if how == "csv":
            assert list(csv.reader(io.StringIO(rows))) == list(csv.reader(io.StringIO(text)))[:4]
        else:
            assert json.loads(rows)["rows"] == json.loads(text)["rows"]
    index = " ".join(Page(public / "index.html").texts)
    for word in ("coordinates", "PCC(ACG)", "95 % interval", "ceiling", "of ceiling"):
        assert word in index
    assert "depth" not in index.split("All 3 rows")[0], "an oracle leads no ranking"
    assert "depth (oracle)" in " ".join(Page(public / "datasets" / "tiny--patients.html").texts)


def test_the_page_of_a_method_has_rows_settings_citation_and_licence(public):
    text = " ".join(" ".join(Page(public / "methods" / "coordinates.html").texts).split())
    assert "Control" in text
    assert "Licence of the code MIT" in text
    assert "tiny, protocol patients" in text
    assert "Settings" in text


def test_the_history_lists_runs_by_date_and_offers_them(public, shared_results):
    text = (public / "history.html").read_text()
    runs = stored_runs(shared_results, "tiny", "patients")
    for run in runs:
        assert run.facts["key"][:12] in text
        assert run.facts["created"][:16].replace("T", " ") in text
    with (public / "data" / "history.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 3
    assert call("import", public / "data" / "runs.spotbench.zip", "--results",
                public.parent / "again").status == 0  # fmt: skip


def test_genes_are_those_of_the_runs(public, shared_results):
    ranking = read_ranking([shared_results], "tiny", "patients")
    matrix = gene_matrix(ranking)
    genes = ranking.lines[0].genes()
    means = genes.groupby("gene")["pcc"].mean()
    for gene in ("GENE0", "GENE17"):
        own = matrix.pcc[matrix.genes.index(gene), 0]
        np.testing.assert_allclose(own, means[gene], rtol=1e-5)
    pieces = sorted((public / "genes" / "tiny--patients").glob("*.js"))
    call_of = re.fullmatch(r"SpotBench\.genes\(0,(.*)\);\n", pieces[0].read_text())
    values = json.loads(call_of[1])
    wanted = np.rint(np.nan_to_num(matrix.pcc[: len(values)].astype(float)) * SCALE)
    assert [[value or 0 for value in of] for of in values] == wanted.tolist()
    assert sum(len(re.findall(r"\[", path.read_text())) - 1 for path in pieces) == 40
    assert len((public / "genes" / "tiny--patients.html").read_bytes()) < 1_000_000


def test_the_same_runs_give_the_same_bytes_and_a_site_gives_way(shared_results, public, tmp_path):
    again = tmp_path / "public"
    again.mkdir()
    for _ in range(2):
        write_site([shared_results], again)
        for path in again.rglob("*"):
            if path.is_file() and path.name != "history.html":
                assert path.read_bytes() == (public / path.relative_to(again)).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["public"]


def test_several_folders_are_one_site_with_sources(shared_results, own_results, tmp_path):
    answer = call("site", shared_results, own_results, "--out", tmp_path / "public")
    assert answer.status == 0, answer.stderr
    text = " ".join(Page(tmp_path / "public" / "datasets" / "tiny--patients.html").texts)
    assert text.count("also from own; all") == 3
    assert str(tmp_path) not in text


def test_hostile_names_stay_text(own_results, tmp_path):
    for run in stored_runs(own_results, "tiny", "patients"):
        facts = {**run.facts, "label": HOSTILE, "method": HOSTILE, "footnotes": [HOSTILE]}
        write_record(run.folder.path / "run.json", facts)
    assert call("site", own_results, "--out", tmp_path / "public").status == 0
    for path in (tmp_path / "public").rglob("*.html"):
        assert "img" not in Page(path).tags
        assert "<img" not in path.read_text()
    assert file_name("..") == "row"
    assert "/" not in file_name(HOSTILE)


def test_a_method_that_is_not_installed_has_a_page(own_results, tmp_path):
    (run,) = [
        run for run in stored_runs(own_results, "tiny", "patients") if run.facts["label"] == "mean"
    ]
    write_record(run.folder.path / "run.json", {**run.facts, "method": "weird"})
    assert call("site", own_results, "--out", tmp_path / "public").status == 0
    text = (tmp_path / "public" / "methods" / "weird.html").read_text()
    assert "not installed where the site was made" in text


def test_folders_of_something_else_are_left_alone(shared_results, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name, word in (("mine", "something else than a site"), ("file", "is no folder"),
                       ("link", "is no folder"), ("file/public", "cannot be written")):  # fmt: skip
        answer = call("site", shared_results, "--out", tmp_path / name)
        assert answer.status == 2
        assert word in answer.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert_refused(call("site", tmp_path / "none", "--out", tmp_path / "x"), "no runs here")
