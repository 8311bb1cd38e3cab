"""What every method must do, whoever wrote it: each check on each built-in method."""

import pytest

from bench.contract.check import name_of, run_check
from bench.contract.demo import is_quick_on_the_demo
from bench.contract.importing import module_of
from bench.contract.subject import Subject
from bench.contract.suite import CHECKS
from bench.registry import find_methods, method_class

BUILT_IN = {name: found for name, found in find_methods().items() if found.source == "built-in"}


@pytest.fixture(params=sorted(BUILT_IN), scope="module")
def subject(request, tmp_path_factory):
    """A method, with the fit that its checks share."""
    folder = tmp_path_factory.mktemp(request.param)
    kind = method_class(request.param)
    # Fewer steps an epoch than the tiny preset takes.
    settings = {"batch_size": 20} if "batch_size" in kind.Config.model_fields else {}
    return Subject(kind, folder, module_of(BUILT_IN[request.param]), settings=settings)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(
            check,
            id=name_of(check),
            marks=[pytest.mark.timed] if check is is_quick_on_the_demo else [],
        )
        for check in CHECKS
    ],
)
def test_the_method_keeps_its_promises(subject, check):
    result = run_check(check, subject)
    if result.outcome == "not applicable":
        pytest.skip(result.reason)
    assert result.outcome == "passed", f"{result.title}: {result.reason}\n{result.traceback}"


def test_the_methods_of_the_project_are_among_them():
    assert {"mean", "coordinates", "mclstexp", "stnet"} <= set(BUILT_IN)
