"""Docstrings of all public names: summary, parameters, what is returned, what is raised."""

import ast
import inspect
import textwrap

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate

import bench
import bench.api
import bench.readers
from tests.conftest import REPOSITORY

FACES = (bench, bench.api, bench.readers)
NAMES = [f"{face.__name__}.{name}" for face in FACES for name in face.__all__]
FAULTS = {
    "GL08",  # no docstring
    "SS01",  # no summary
    "PR01",  # parameters that are not documented
    "PR02",  # documented parameters that do not exist
    "RT01",  # no section on what is returned
    "YD01",  # no section on what is yielded
}
"""Codes of numpydoc for what every docstring must have."""


def thing(name):
    module, _, short = name.rpartition(".")
    return getattr({face.__name__: face for face in FACES}[module], short)


FUNCTIONS = [name for name in NAMES if inspect.isroutine(thing(name))]
CLASSES = [name for name in NAMES if inspect.isclass(thing(name))]


def raises(function):
    """Whether the body of a function raises an error itself, other than again what it caught."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_a_numpy_docstring(name):
    faults = [text for code, text in validate(name)["errors"] if code in FAULTS]
    assert faults == []
    if raises(thing(name)):
        assert get_doc_object(thing(name))["Raises"], "raises, and does not say what"


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_a_summary_and_its_own_parameters(name):
    found = thing(name)
    assert inspect.getdoc(found), "no docstring"
    assert "__doc__" in vars(found), "the docstring is that of a base class"
    assert vars(found)["__doc__"].strip().splitlines()[0].strip(), "no summary"
    known = {
        word.strip()
        for base in found.__mro__[:-1]
        if "__doc__" in vars(base) and base.__module__.startswith("bench.")
        for section in ("Parameters", "Attributes")
        for entry in get_doc_object(base)[section]
        for word in entry.name.split(",")
    }
    # Of settings and records; what a class changes of its base may be documented there.
    own = [name for name in vars(found).get("__annotations__", {}) if not name.startswith("_")]
    assert [name for name in own if name not in known and name != "model_config"] == []


@pytest.mark.parametrize(
    ("page", "module"),
    [("python.md", bench), ("api.md", bench.api), ("readers.md", bench.readers)],
)
def test_the_reference_lists_every_public_name(page, module):
    listed = set((REPOSITORY / "docs" / "reference" / page).read_text().split())
    # Shared names have one page.
    shared = set(bench.api.__all__) if module is bench.readers else set()
    assert set(module.__all__) - {"__version__"} - shared - listed == set()


def test_a_docstring_that_lacks_a_parameter_is_found():
    faults = dict(validate("tests.test_docstrings.undocumented")["errors"])
    assert set(faults) & FAULTS == {"PR01", "RT01"}


def undocumented(value):
    """Value itself."""
    return value
