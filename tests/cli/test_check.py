"""``bench check``: one line a check, a last line with counts, and a status."""

import json

import pytest

from bench.contract.check import title_of
from bench.contract.suite import CHECKS
from tests.cli.tiny_dataset import assert_refused, write_plugin

TITLES = [title_of(check) for check in CHECKS]
FIRST, *_, LAST = TITLES


@pytest.fixture
def check(bench):
    """Checks a method in this process, the run on the demo left out."""
    return lambda name, *options: bench("check", name, "--no-demo", *options)


def lines_of(answer):
    """Mark and rest of each line but the last, and the last."""
    *lines, last = answer.stdout.splitlines()
    return [(line[:4].strip(), line[6:]) for line in lines], last


@pytest.mark.slow
def test_a_sound_plugin_passes(check, plugins):
    write_plugin(plugins, "sound")
    answer = check("sound")
    lines, last = lines_of(answer)
    assert answer.status == 0, answer
    assert [
        title for title, (_, told) in zip(TITLES, lines, strict=True) if title in told
    ] == TITLES
    assert {mark for mark, _ in lines} == {"ok", "n/a"}
    assert lines[-1] == ("n/a", f"{LAST}: left out by --no-demo")
    passed = sum(mark == "ok" for mark, _ in lines)
    assert last == f"sound: {passed} passed, 0 failed, {len(lines) - passed} not applicable"


@pytest.mark.slow
def test_a_method_of_the_project_passes_on_the_demo_too(bench):
    answer = bench("check", "mean")
    lines, _ = lines_of(answer)
    assert answer.status == 0, answer
    assert lines[-1][0] == "ok"
    assert lines[-1][1].startswith(LAST)
    assert "mean fold 2: done" in answer.stderr


def test_a_broken_promise_has_its_line_and_status_1(check, plugins):
    write_plugin(plugins, "wide", predict="predictions = [p.astype(float) for p in predictions]")
    answer = check("wide")
    lines, last = lines_of(answer)
    assert answer.status == 1
    assert lines[0] == ("FAIL", f"{FIRST}: a prediction is float64, not float32")
    assert [mark for mark, _ in lines].count("FAIL") == 1
    assert " 1 failed, " in last


def test_what_the_method_raises_is_one_line_and_its_traceback_is_shown_when_asked_for(
    check, plugins
):
    write_plugin(plugins, "raising", fit='raise ValueError("first\\nsecond")')
    answer = check("raising")
    assert answer.status == 1
    assert lines_of(answer)[0][0] == ("FAIL", f"{FIRST}: ValueError: first second")
    assert "Traceback" not in answer.stdout + answer.stderr
    at_length = check("raising", "--verbose")
    assert at_length.stdout == answer.stdout
    assert "plugin_raising.py" in at_length.stderr
    assert at_length.stderr.count("Traceback") == 1


def test_what_a_method_prints_does_not_come_between_the_results(check, plugins):
    write_plugin(plugins, "talkative_check", fit='print("hello from fit")')
    answer = check("talkative_check")
    assert answer.status == 0, answer
    assert "hello" not in answer.stdout
    assert "hello from fit" in answer.stderr


def test_json_for_machines(check, plugins):
    write_plugin(plugins, "broken_json", predict="predictions[0][0, 0] = np.nan")
    answer = check("broken_json", "--json")
    content = json.loads(answer.stdout)
    assert answer.status == 1
    assert [entry["title"] for entry in content["checks"]] == TITLES
    first = content["checks"][0]
    assert (first["name"], first["outcome"]) == ("predicts_each_slide", "failed")
    assert first["reason"] == "1 of 120 predicted values are not finite"
    outcomes = [entry["outcome"] for entry in content["checks"]]
    for key, outcome in (("passed",) * 2, ("failed",) * 2, ("not_applicable", "not applicable")):
        assert content[key] == outcomes.count(outcome)
    assert answer.stderr.splitlines()[0].startswith("FAIL  ")


@pytest.mark.parametrize(
    ("name", "words"),
    [("maen", ["unknown method 'maen'", "mean"]), ("shuffled:stnet", ["unknown method", "stnet"])],
)
def test_an_unknown_name_is_refused_and_near_ones_are_offered(check, name, words):
    assert_refused(check(name), *words)


def test_a_plugin_that_cannot_be_imported_is_refused(check, plugins):
    write_plugin(plugins, "needy", before="import no_such_library")
    assert_refused(check("needy"), "method 'needy' cannot be imported", "no_such_library")


def test_a_plugin_without_a_method_is_refused(check, plugins):
    write_plugin(plugins, "empty")
    (plugins / "plugin_empty.py").write_text("Plugin = 3\n")
    assert_refused(check("empty"), "method 'empty'", "no Method class")


NEEDS_A_FACTOR = """
import numpy as np
from bench.api import Method, MethodConfig, atomic_write


class FactorConfig(MethodConfig):
    factor: float


class Factor(Method):
    name = "factor"
    Config = FactorConfig
    needs_image = False

    def fit(self, data, context):
        targets = np.concatenate([section.target for section in data.sections])
        self.mean = self.config.factor * targets.mean(axis=0)

    def predict(self, slides, context):
        return [np.tile(self.mean, (len(s), 1)).astype(np.float32) for s in slides]

    def save(self, folder):
        with atomic_write(folder / "mean.npy") as temporary:
            np.save(temporary, self.mean)

    @classmethod
    def load(cls, folder, config):
        method = cls(config)
        method.mean = np.load(folder / "mean.npy")
        return method
"""


@pytest.fixture
def factor(tmp_path):
    path = tmp_path / "factor.py"
    path.write_text(NEEDS_A_FACTOR)
    return path


@pytest.mark.parametrize("key", ["factor", "factor.factor"])
def test_a_file_is_checked_under_given_settings(check, factor, key):
    answer = check(factor, "--set", f"{key}=2")
    lines, last = lines_of(answer)
    assert answer.status == 0, answer
    assert " 0 failed, " in last
    (imports,) = [told for mark, told in lines if told.startswith("Importing it is quick")]
    assert "it is not installed" in imports


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["setting of factor: factor: Field required"]),
        (("--set", "factor=many"), ["setting of factor: factor"]),
        (("--set", "factor=1", "--set", "facter=1"), ["unknown setting 'facter'", "factor"]),
        (("--set", "factor"), ["write key=value"]),
    ],
)
def test_settings_that_are_none_are_refused(check, factor, options, words):
    assert_refused(check(factor, *options), *words)
