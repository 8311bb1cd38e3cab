"""What the documentation shows does work."""

import re
import tomllib
from pathlib import Path

import pytest

import bench
from bench.protocol.rules import PROTOCOLS, find_protocol
from bench.registry import find_methods
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"


def block(page: Path, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{page.name} shows no {language}"
    return found[1]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The method of the page, installed as pip would leave it."""
    page = DOCS / "adding-a-method.md"
    project = tomllib.loads(block(page, "toml"))["project"]
    ((name, where),) = project["entry-points"]["bench.methods"].items()
    module = where.partition(":")[0]
    (tmp_path / f"{module}.py").write_text(block(page, "python"))
    metadata = tmp_path / f"{module}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (metadata / "entry_points.txt").write_text(f"[bench.methods]\n{name} = {where}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_the_page_on_adding_a_method_shows_the_example_as_it_is():
    page, example = DOCS / "adding-a-method.md", REPOSITORY / "tests" / "example_plugin"
    shown = block(page, "python"), block(page, "toml")
    files = example / "spotbench_nearest_colour.py", example / "pyproject.toml"
    assert shown == tuple(path.read_text(encoding="utf-8") for path in files)


def test_the_method_of_the_page_runs_and_beats_its_twin(plugin, tmp_path):
    assert find_methods()[plugin].source == "spotbench-nearest-colour"
    table = bench.run(
        [plugin, "shuffled"], "demo", folds=[1], results=tmp_path / "results", tracking="none"
    ).set_index("method")
    assert table.loc[plugin, "pcc_acg"] > table.loc[f"shuffled:{plugin}", "pcc_acg"] + 0.2


def test_the_protocol_of_the_page_is_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(block(DOCS / "protocols.md", "yaml"))
    protocol = find_protocol(str(path))
    assert protocol.split == "patient"
    assert protocol.hash not in {known.hash for known in PROTOCOLS.values()}


def test_every_link_between_pages_leads_somewhere():
    for page in [REPOSITORY / "README.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
