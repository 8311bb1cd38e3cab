"""Methods that fail in the middle of a run: one fold, one line, and the others go on."""

from __future__ import annotations

import importlib
import json
import re
import sys

import pytest

from tests.cli.tiny_dataset import (
    assert_refused,
    manifests_of,
    write_plugin,
)

FAIL_IN_FOLD_1 = """
if all(section.patient != "B" for section in data.sections):
    raise RuntimeError("boom\\nsecond line")
"""


def forget(module):
    """Let the next import read a plugin's file again."""
    sys.modules.pop(module, None)
    importlib.invalidate_caches()


def test_failing_fold_costs_that_fold_alone(run, bench, plugins, results):
    write_plugin(plugins, "fragile", fit=FAIL_IN_FOLD_1)
    answer = run("fragile,mean")
    assert answer.status == 1
    assert "fragile fold 1: failed" in answer.stderr
    assert "Traceback" not in answer.stderr
    (complaint,) = (line for line in answer.stderr.splitlines() if line.startswith("bench: "))
    assert "fragile, fold 1 failed: RuntimeError: boom second line" in complaint
    (failure,) = results.rglob("failure.txt")
    assert str(failure) in complaint
    text = failure.read_text()
    assert "Traceback (most recent call last)" in text
    assert "plugin_fragile.py" in text
    assert "RuntimeError: boom" in text
    done = {path.parent.relative_to(results / "runs/tiny/strict") for path in manifests_of(results)}
    folds = {(path.parent.name.rsplit("-", 1)[0], path.name) for path in done}
    wanted = {("mean", f"fold-{fold}") for fold in range(3)}
    assert folds == wanted | {("fragile", "fold-0"), ("fragile", "fold-2")}
    assert "2/3" in answer.stdout

    (note,) = (line for line in answer.stdout.splitlines() if "2 of 3 folds" in line)
    assert "fragile" in note
    assert re.search(r"fold 1\b", note), f"which fold is missing? {note}"
    stored = bench("tables", "--dataset", "tiny", "--results", results)
    assert note in stored.stdout

    again = run("fragile", "--json")
    assert again.status == 1
    (failure,) = json.loads(again.stdout)["failures"]
    assert (failure["label"], failure["fold"]) == ("fragile", 1)
    assert failure["reason"] == "RuntimeError: boom second line"


def test_same_call_tries_the_failed_fold_alone(run, plugins, results):
    write_plugin(plugins, "unlucky", before="import pathlib", fit=_fails_while("broken", plugins))
    (plugins / "broken").touch()
    assert run("unlucky", "--folds", "0,2").status == 1
    (plugins / "broken").unlink()
    again = run("unlucky", "--folds", "0,2")
    assert again.status == 0
    assert again.stderr.count("kept, it is done") == 1
    assert "2/3" in again.stdout
    assert list(results.rglob("failure.txt")) == []


def _fails_while(name, folder):
    return f"""
if pathlib.Path({str(folder / name)!r}).exists() and data.sections[0].patient == "B":
    raise RuntimeError("not now")
"""


def test_mended_method_is_a_new_run(run, bench, plugins, results):
    write_plugin(plugins, "mended", fit=FAIL_IN_FOLD_1)
    assert run("mended", "--folds", "0,1").status == 1
    write_plugin(plugins, "mended", fit="")
    forget("plugin_mended")
    answer = run("mended", "--folds", "0,1")
    assert answer.status == 0
    assert "kept" not in answer.stderr
    assert "2/3" in answer.stdout
    assert "1/3" not in answer.stdout
    assert len(list(results.glob("runs/tiny/strict/mended-*"))) == 2
    stored = bench("tables", "--dataset", "tiny", "--results", results).stdout
    assert "1/3" not in stored, "the older run of a method is not shown beside the newer"


NO_PREDICTIONS = {
    name: (predict, words)
    for name, predict, words in [
        ("gives_nan", "predictions[1][3, 7] = np.nan", ["section A2", "GENE7", "not finite"]),
        ("gives_inf", "predictions[0][0, 0] = np.inf", ["section A1", "GENE0", "not finite"]),
        ("gives_less", "predictions[1] = predictions[1][:-1]", ["section A2", "(29, 40)"]),
        ("gives_flat", "predictions[0] = predictions[0].ravel()", ["section A1", "(1200,)"]),
        ("gives_list", "predictions[0] = predictions[0].tolist()", ["section A1", "list"]),
        ("gives_one", "predictions = predictions[:1]", ["1 predictions for 2 slides"]),
        ("gives_none", "predictions = [None, None]", ["section A1", "NoneType"]),
        ("gives_nothing", "predictions = None", ["NoneType"]),
        ("gives_text", "predictions[0] = np.array(['x'])", []),
    ]
}


@pytest.fixture(scope="module")
def without_predictions(run_together):
    """Methods that predict what is no prediction, and one that does, in one call."""
    plugins = {name: {"predict": predict} for name, (predict, _) in NO_PREDICTIONS.items()}
    return run_together(plugins, "mean")


@pytest.mark.parametrize("name", NO_PREDICTIONS)
def test_prediction_that_is_none_costs_the_fold(without_predictions, name):
    answer, scores = without_predictions
    assert answer.status == 1
    told = (line for line in answer.stderr.splitlines() if line.startswith("bench: "))
    (complaint,) = (line for line in told if f"{name}, fold 0 failed" in line)
    for word in NO_PREDICTIONS[name][1]:
        assert word in complaint
    assert set(scores) == {"mean/fold-0"}


def test_method_may_not_see_the_test_sections_expression(run, plugins):
    seen = "assert not {'expression', 'target', 'counts'} & set(dir(slides[0]))"
    write_plugin(plugins, "curious", predict=seen)
    assert run("curious", "--folds", "0").status == 0


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("raise RuntimeError('line one\\nline two')", "RuntimeError: line one"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_method_that_cannot_be_imported(run, bench, plugins, results, before, words):
    name = f"unimportable{len(before)}"
    write_plugin(plugins, name, before=before)
    assert_refused(run(name), name, "cannot be imported", words)
    assert not list(results.glob("runs/*"))
    assert run("mean", "--folds", "0").status == 0
    listing = bench("list", "methods")
    assert listing.status == 0
    for listed in (name, "mean", "mclstexp", "coordinates", "depth"):
        assert listed in listing.stdout


def test_entry_point_without_a_method(run, plugins):
    folder = write_plugin(plugins, "hollow")
    (folder / "plugin_hollow.py").write_text("Plugin = 3\n")
    assert_refused(run("hollow"), "hollow", "no Method class")


def test_two_methods_of_one_name(run, bench, plugins, results):
    write_plugin(plugins, "mean", module="another_mean")
    rows = json.loads(bench("list", "methods", "--json").stdout)["methods"]
    names = {row["name"]: row["from"] for row in rows}
    (other,) = {name for name in names if name.endswith(":mean")}
    assert names["mean"] == "built-in"
    assert names[other] == other.removesuffix(":mean")
    assert run(f"mean,{other}", "--folds", "0").status == 0
    assert len(list(results.glob("runs/*/*/*mean-*"))) == 2


def test_a_pickle_is_no_model(run, plugins, results):
    write_plugin(plugins, "pickler")
    path = plugins / "plugin_pickler.py"
    lines = path.read_text().replace("np.save(temporary, self.mean)", "pass").splitlines()
    number = next(n for n, line in enumerate(lines) if "atomic_write(folder" in line)
    lines[number] = '        with open(folder / "mean.pkl", "wb") as temporary:'
    path.write_text("\n".join(lines) + "\n")
    answer = run("pickler", "--folds", "0")
    assert answer.status == 1
    assert "saved mean.pkl, a pickle by its name" in answer.stderr
    assert not list(results.rglob("*.pkl"))
