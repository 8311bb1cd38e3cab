"""``bench.api``: every name of it is there, public, and known to the keys of fits."""

import subprocess
import sys

import pytest

import bench.api
from bench.sources import import_closure


@pytest.mark.parametrize("name", bench.api.__all__)
def test_every_name_is_there_and_public(name):
    assert not name.startswith("_")
    assert getattr(bench.api, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.api.nothing


def test_it_imports_no_torch_until_a_name_needs_it():
    program = (
        "import sys, bench.api\n"
        "assert not {'torch', 'sklearn', 'skops'} & set(sys.modules)\n"
        "from bench.api import FrozenEncoder\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("FrozenEncoder", "bench.blocks.features"),
        ("TrainingModule", "bench.training.module"),
        ("to_device", "bench.blocks.precision"),
        ("save_estimator", "bench.training.estimators"),
    ],
)
def test_a_fit_depends_on_the_module_of_a_name_and_on_no_other(name, module):
    closure = import_closure([f"bench.api:{name}"])
    assert module in closure
    assert "bench.training.retrieval_method" not in closure
    assert ("bench.blocks.graph" in closure) == (module == "bench.blocks.graph")


def test_the_whole_of_it_depends_on_all_modules():
    assert {"bench.blocks.graph", "bench.training.retrieval_method"} <= set(
        import_closure(["bench.api"])
    )
