"""Layouts of other packages: the reader of the documentation, and readers that are broken."""

import re
import sys
import tomllib

import anndata
import numpy as np
import pytest

import bench.readers
from bench.data import layouts
from bench.data.dataset import open_dataset
from bench.data.layouts import (
    BUILT_IN,
    discover,
    find_layouts,
    layout_faults,
    load_reader,
    read_files,
    reader_hash,
)
from bench.errors import DataError, UnknownNameError
from bench.fetch.search import find_sections
from tests.cli.tiny_dataset import assert_refused, call
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PROJECT = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])["project"]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package as pip would leave it; gives the path of its module."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    before = set(sys.modules)

    def package(name, source, entries, distribution=None):
        distribution = distribution or name.replace("_", "-")
        folder = tmp_path / "site"
        metadata = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"{name}.py").write_text(source)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = [f"{layout} = {where}" for layout, where in entries.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[spotbench.readers]", *lines, ""]))
        layouts._plugins_on.cache_clear()
        reader_hash.cache_clear()
        return folder / f"{name}.py"

    yield package
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    layouts._plugins_on.cache_clear()
    reader_hash.cache_clear()


@pytest.fixture
def example(install):
    return install(
        PROJECT["entry-points"]["spotbench.readers"]["wide_table"],
        EXAMPLE,
        PROJECT["entry-points"]["spotbench.readers"],
    )


def write_wide(path, seed=0, side=6):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["row,column,x,y,ERBB2,FASN,GAPDH"]
    for row in range(side):
        for column in range(side):
            counts = ",".join(map(str, rng.poisson([3, 8, 20])))
            lines.append(f"{row},{column},{50 * column + 25},{50 * row + 25},{counts}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def slides(tmp_path):
    for number, name in enumerate(("S1", "S2")):
        write_wide(tmp_path / "slides" / f"{name}_wide.csv", number)
    (tmp_path / "map.csv").write_text("section,patient\nS1,P1\nS2,P2\n")
    return tmp_path / "slides"


def add(slides, name="wide"):
    table = slides.parent / "map.csv"
    return call("data", "add", slides, "--name", name, "--patients", table)


@pytest.fixture
def home(tmp_path, monkeypatch, own_cache):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "home"))


def test_the_built_in_layouts_are_known_by_name():
    built_in = {name for name, layout in find_layouts().items() if layout.source == BUILT_IN}
    wanted = {"h5ad", "h5ad_symbols", "hest", "hest_bench", "legacy_st", "space_ranger"}
    wanted |= {"spatialdata", "stnet"}
    assert built_in == wanted
    for name in built_in:
        assert "counts" in load_reader(name).ROLES


def test_a_generator_is_no_layout():
    with pytest.raises(UnknownNameError, match="unknown layout 'demo'"):
        load_reader("demo")


def test_the_reader_of_the_page_reads(example, slides):
    assert find_layouts()["wide_table"].source == "spotbench-wide-table"
    assert layout_faults() == {}
    section = read_files("wide_table", {"counts": slides / "S1_wide.csv"})
    assert section.shape == (36, 3)
    assert list(section.var_names) == ["ERBB2", "FASN", "GAPDH"]
    assert section.obsm["spatial"][7].tolist() == [75.0, 75.0]
    (slides / "S1_wide.csv").write_text("row,column,x,y,A\n0,0,1,1,1.5\n")
    with pytest.raises(DataError, match="fractional"):
        read_files("wide_table", {"counts": slides / "S1_wide.csv"})


def test_a_dataset_of_the_layout_is_added_and_runs(example, slides, home, tmp_path):
    answer = add(slides)
    assert answer.status == 0, answer.stderr
    assert "found 2 sections in layout wide_table" in answer.stdout
    answer = call(
        *("run", "--method", "mean", "--dataset", "wide", "--results", tmp_path / "results"),
        *("--tracking", "none", "--panel", "expressed:2"),
    )
    assert answer.status == 0, answer.stderr


def test_a_card_may_call_its_layout_reader(make_card):
    fields = make_card().model_dump(mode="json")
    fields["reader"] = fields.pop("layout")
    assert type(make_card()).model_validate(fields) == make_card()
    with pytest.raises(ValueError, match="reader"):
        type(make_card()).model_validate({**fields, "layout": "h5ad"})


def test_a_change_of_the_reader_is_another_reader(example):
    before = reader_hash("wide_table")
    reader_hash.cache_clear()
    example.write_text(EXAMPLE + "\n# a comment changes nothing\n")
    assert reader_hash("wide_table") == before
    reader_hash.cache_clear()
    example.write_text(EXAMPLE.replace('"in_tissue": 1', '"in_tissue": 0'))
    assert reader_hash("wide_table") != before


BROKEN = {
    "import": ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_lib"),
    "exit": ("raise SystemExit(1)\n", "SystemExit: 1"),
    "syntax": ("def read(:\n", "SyntaxError"),
    "empty": ("", "is no reader: it needs a function 'read' and a tuple 'ROLES'"),
    "roles": ("ROLES = 'counts'\ndef read(files): pass\n", "is no reader"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_reader_is_reported_and_stops_nothing_else(case, install, example, slides, home):
    source, words = BROKEN[case]
    install(f"broken_{case}", source, {"broken": f"broken_{case}"})
    assert list(layout_faults()) == ["broken"]
    assert words in layout_faults()["broken"]
    assert "\n" not in layout_faults()["broken"]
    with pytest.raises(DataError, match="layout 'broken' of broken-"):
        load_reader("broken")
    answer = add(slides)
    assert answer.status == 0, answer.stderr
    assert "layout 'broken' of broken-" in answer.stderr
    answer = call("doctor")
    assert "layout broken" in answer.stdout
    assert words.partition(":")[0] in answer.stdout


FAILING = """
ROLES = ("counts",)
def read(files):
    return {}[files["counts"].name]
def discover(folder):
    raise ZeroDivisionError("two\\nlines")
"""


def test_a_reader_that_fails_is_one_line(install, slides, home):
    install("failing_reader", FAILING, {"failing": "failing_reader"})
    with pytest.raises(DataError, match=r"layout 'failing' of failing-reader failed: KeyError"):
        read_files("failing", {"counts": slides / "S1_wide.csv"})
    with pytest.raises(DataError, match="ZeroDivisionError: two lines"):
        discover("failing", slides)
    refused = add(slides)
    assert_refused(refused, "no section found", "ZeroDivisionError")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("del section.obs['array_row']", "no obs column array_row"),
        ("section.obs['array_col'] = 0.5", "integers as array_col"),
        ("del section.obsm['spatial']", r"\(spots, 2\) pixels"),
        ("section.obsm['spatial'] = section.obsm['spatial'][:, :1]", r"\(spots, 2\) pixels"),
        ("section.X = section.X.toarray()", "CSR"),
    ],
)
def test_a_section_with_something_missing_is_refused(
    change, words, example, slides, make_card, own_cache
):
    source = EXAMPLE.replace("    return AnnData(", "    section = AnnData(")
    source = source.replace(
        "\n\n\ndef discover", f"\n    {change}\n    return section\n\n\ndef discover"
    )
    example.write_text(source)
    fields = {"counts": {"path": "S1_wide.csv"}}
    card = make_card(
        layout="wide_table", sections=[{"name": "S1", "patient": "P1", "files": fields}]
    )
    with pytest.raises(DataError, match=words):
        open_dataset(card, slides, images=False).section("S1")


DESCRIBED = """

def describe(folder):
    return {fields}
"""


def test_a_reader_describes_the_card(example, slides, home):
    caution = "section S1 was stained twice"
    example.write_text(EXAMPLE + DESCRIBED.format(fields={"cautions": [caution]}))
    assert add(slides).status == 0
    assert layouts.describe("wide_table", slides) == {"cautions": [caution]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("['cautions']", "'describe' gives no fields of a card"),
        ("{'stain': 'H&E'}", "stain"),
        ("{'fold_lists': '../elsewhere'}", "fold_lists"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_description_that_is_none_is_refused(example, slides, home, fields, words):
    example.write_text(EXAMPLE + DESCRIBED.format(fields=fields))
    assert_refused(add(slides), words)


def test_stored_patches_need_a_row_for_each_spot(example, slides, make_card, own_cache):
    (slides / "S1.h5").write_bytes(b"patches")
    fields = {"counts": {"path": "S1_wide.csv"}, "patches": {"path": "S1.h5"}}
    card = make_card(
        layout="wide_table", sections=[{"name": "S1", "patient": "P1", "files": fields}]
    )
    with pytest.raises(DataError, match="no obs column patch_row"):
        open_dataset(card, slides).section("S1")


def test_a_package_does_not_replace_a_built_in_layout(install):
    install("other_h5ad", FAILING, {"h5ad": "other_h5ad"})
    assert find_layouts()["h5ad"].source == BUILT_IN
    assert "the built-in one is used" in layout_faults()["h5ad"]


def test_a_name_of_two_packages_is_refused_and_others_go_on(install, slides, example):
    install("twin_a", FAILING, {"twin": "twin_a"})
    install("twin_b", FAILING, {"twin": "twin_b"})
    with pytest.raises(DataError, match="provided by twin-a and by twin-b; uninstall one"):
        load_reader("twin")
    name, sections, faults = find_sections(slides, {})
    assert (name, [section.name for section in sections]) == ("wide_table", ["S1", "S2"])
    assert len(faults) == 1


def test_the_public_module_is_enough(example, slides):
    assert set(bench.readers.__all__) >= {"Reader", "FoundSection", "DataError", "find_layouts"}
    assert all(hasattr(bench.readers, name) for name in bench.readers.__all__)
    assert isinstance(
        load_reader("wide_table").read({"counts": slides / "S2_wide.csv"}), anndata.AnnData
    )
