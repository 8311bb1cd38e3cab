"""References of stored runs: every card, method and encoder of the package has one that is read."""

import re

import pytest

from bench.encoders.declaration import declarations
from bench.registry import built_in_datasets, dataset_card, find_methods
from bench.report.cite import dataset_citation, references, software
from bench.version import __version__
from tests.cli.tiny_dataset import assert_refused, call
from tests.conftest import REPOSITORY


def of(**facts):
    return {"dataset": "her2st", "label": "mean", "method": "mean", "config": {}, **facts}


def test_a_run_cites_the_program_the_dataset_the_method_and_the_encoder():
    found = references([of(label="bleep[uni]", method="bleep", config={"encoder": "uni"})])
    assert [citation.key for citation in found] == [
        "spotbench",
        "andersson2021spatial",
        "xie2023spatially",
        "chen2024towards",
    ]
    entry = found[1].entry()
    for line in (
        "  author = {Andersson, A. and Larsson, L. and Stenbeck, L. and others},",
        "  howpublished = {Nature Communications 12, 6012},",
        "  year = {2021},",
        "  doi = {10.1038/s41467-021-26271-2},",
    ):
        assert line in entry.splitlines()
    assert "  author = {{The SpotBench developers}}," in software().entry().splitlines()


def test_a_test_on_other_data_an_ensemble_and_a_given_name_cite_what_stands_behind_them():
    found = references(
        [
            of(test_dataset={"name": "stnet"}, label="mean:stnet+mclstexp", method=None),
            of(label="our best", method_label="mclstexp", method="mclstexp"),
            of(dataset="demo", label="depth", method=None),
            of(dataset="of my own", label="./mine.py", method="mine"),
        ]
    )
    keys = [citation.key for citation in found]
    assert keys == ["spotbench", "andersson2021spatial", "he2020integrating", "min2024multimodal"]


@pytest.mark.parametrize("name", built_in_datasets())
def test_every_dataset_of_measurements_has_authors_title_and_year(name):
    card = dataset_card(name)
    if card.generator:
        return
    found = dataset_citation(card)
    assert found.authors
    assert found.title
    assert re.fullmatch(r"20\d\d", found.year)


@pytest.mark.parametrize("name", declarations())
def test_every_encoder_has_a_reference(name):
    *_, found = references([of(config={"encoder": name})])
    assert found.key not in {"spotbench", "andersson2021spatial"}
    assert found.title in declarations()[name].citation


def test_every_method_of_a_publication_has_a_reference():
    without = {
        name
        for name in find_methods()
        if len(references([of(label=name, method=name, dataset="demo")])) == 1
    }
    assert without == {"mean", "coordinates", "knn", "mlp"}


def test_the_citation_file_has_the_version_of_the_program():
    text = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {re.escape(__version__)}$", text, re.MULTILINE)
    assert call("--version").stdout == f"spotbench {__version__}\n"


def test_the_command_prints_or_writes(stored_mean, tmp_path):
    printed = call("cite", "--results", stored_mean)
    assert printed.stdout.startswith("@misc{spotbench,")
    out = tmp_path / "refs.bib"
    assert call("cite", "--results", stored_mean, "--out", out).stdout == f"{out}\n"
    assert "@misc{spotbench," in out.read_text(encoding="utf-8")
    assert_refused(call("cite", "ffffffff", "--results", stored_mean), "ffffffff")
    mine = tmp_path / "mine.bib"
    mine.write_text("@misc{a}\n")
    assert_refused(call("cite", "--results", stored_mean, "-o", mine), "would be overwritten")
    assert mine.read_text() == "@misc{a}\n"


@pytest.fixture(scope="module")
def stored_mean(tmp_path_factory):
    """Results with one run, on the embedded data."""
    results = tmp_path_factory.mktemp("cite") / "results"
    arguments = ("--method", "mean", "--dataset", "demo", "--no-oracles", "--tracking", "none")
    said = call("run", *arguments, "--results", results)
    assert said.status == 0, said.stderr
    return results
