"""Files that go with a release agree with the package."""

import re
import tomllib

import yaml

from bench.version import __version__
from tests.conftest import REPOSITORY


def test_the_changelog_has_the_version_and_what_is_unreleased():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert any(re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", h) for h in headings)


def test_the_citation_names_the_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__


def test_the_workflow_runs_what_ci_runs():
    path = REPOSITORY / ".github" / "workflows" / "ci.yml"
    (job,) = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_what_the_extras_name_is_pinned():
    """The libraries of the site and of the tests; others differ between platforms."""
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for extra in ("docs", "dev"):
        for text in project["optional-dependencies"][extra]:
            name = re.match(r"[\w-]+", text)[0]
            assert re.sub(r"[-_.]+", "-", name).lower() in pinned, f"{extra}: {name}"
