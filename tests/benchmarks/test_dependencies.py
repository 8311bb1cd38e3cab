"""Cost of the dependencies: every one is measured, explained and on the page."""

import re

import pytest

from benchmarks.dependencies import (
    PURPOSES,
    DependencyCost,
    dependencies,
    import_seconds,
    only_for,
    page,
    requirements_of,
    size_mb,
)
from tests.conftest import REPOSITORY


def test_every_dependency_is_explained_and_on_the_page():
    text = (REPOSITORY / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"^\| ([\w-]+) \S+ \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(dependencies()) == sorted(PURPOSES)


def test_requirements_are_followed_with_their_extras():
    needed = requirements_of("scikit-learn")
    assert {"scikit-learn", "numpy", "scipy", "joblib"} <= needed
    assert "torch" not in needed
    assert size_mb(["numpy", "scipy"]) == pytest.approx(size_mb(["numpy"]) + size_mb(["scipy"]))


def test_a_module_that_cannot_be_imported_is_named():
    with pytest.raises(RuntimeError, match="import no_such_module: ModuleNotFoundError"):
        import_seconds("no_such_module")


def test_what_a_removal_saves_is_needed_by_no_other_dependency():
    needed = {"a": {"a", "shared", "own"}, "b": {"b", "shared"}, "c": {"c", "b"}}
    assert only_for("a", needed) == {"a", "own"}
    assert only_for("b", needed) == set()
    assert only_for("c", needed) == {"c"}


def test_a_row_has_the_measured_values():
    cost = DependencyCost("numpy", "2.0", 1234.5, 1300.0, 71.25, 0.256)
    where = {"date": "2026-01-01", "python": "3.11", "machine": "a machine"}
    text = page([cost], {**where, "total": "7,000", "gpu": "4,200"})
    assert "| numpy 2.0 | 1,234.5 | 1,300.0 | 71.2 | 0.26 | arrays |" in text
    assert "4,200 of the 7,000 MB" in text
