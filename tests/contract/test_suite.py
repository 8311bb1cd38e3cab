"""The checks themselves: each passes what is right and finds what is wrong."""

import io
import json
import pickle
import re
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bench.api import DataError
from bench.contract import demo, importing
from bench.contract.check import name_of, run_check, title_of
from bench.contract.settings import RehearsalTrial
from bench.contract.storage import pickle_in
from bench.contract.subject import Subject
from bench.contract.suite import CHECKS
from bench.method import Method
from bench.registry import method_class
from tests.cli.tiny_dataset import write_plugin
from tests.contract.broken_methods import (
    BROKEN,
    Brightness,
    PatchAlone,
    Position,
    TrainedBrightness,
)

BY_NAME = {name_of(check): check for check in CHECKS}
SECTION = "reads_one_patch_a_spot_as_it_says"
# These look at the module and at the registered method; tests of their own follow below.
OF_THE_MODULE = {"imports_little", "is_quick_on_the_demo"}


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    """What broken methods leave at home, and where they run, does not stay."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)


def results(kind, folder):
    subject = Subject(kind, folder)
    return {
        name: run_check(check, subject)
        for name, check in BY_NAME.items()
        if name not in OF_THE_MODULE
    }


def named(found, outcome):
    return [name for name, result in found.items() if result.outcome == outcome]


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [
        (PatchAlone, {"every_parameter_learns", "does_without_images", "devices_agree"}),
        (Position, {"every_parameter_learns", "devices_agree", SECTION}),
        (TrainedBrightness, {"does_without_images", "devices_agree", SECTION}),
    ],
)
def test_a_sound_method_passes_every_check_that_applies(kind, left_out, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = results(kind, tmp_path)
    assert {name: found[name].reason for name in named(found, "failed")} == {}
    assert set(named(found, "not applicable")) == left_out
    assert all(found[name].reason for name in left_out)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_promise_fails_its_check_and_no_other(kind, tmp_path, monkeypatch):
    # Methods of NumPy alone never touch the device.
    on_cuda = not issubclass(kind, TrainedBrightness)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_cuda)
    found = results(kind, tmp_path)
    assert named(found, "failed") == [kind.breaks]
    reason = found[kind.breaks].reason
    assert reason
    assert "\n" not in reason


def test_every_check_has_a_method_that_fails_it():
    assert {kind.breaks for kind in BROKEN} | OF_THE_MODULE == set(BY_NAME)


def test_every_check_has_a_title_of_one_sentence():
    titles = [title_of(check) for check in CHECKS]
    assert all(title and "." not in title for title in titles)
    assert len(set(titles)) == len(CHECKS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Raises", "RuntimeError: boom second line"),
        ("Exits", "SystemExit: 3"),
        ("Refuses", "ConfigError: not today"),
        ("InDoublePrecision", "a prediction is float64, not float32"),
        ("OneByOne", "predict gave generator, not a list of arrays"),
        ("OneArrayForAll", "predict gave 1 arrays for 2 slides"),
        ("NotFinite", "120 of 120 predicted values are not finite"),
        ("ForgetsALayer", "forgotten.weight and 1 more never got a gradient; set requires_grad"),
        ("CentresTheTarget", "it writes to its inputs: "),
        ("WritesThroughTorch", "it changed counts of section A1"),
        ("SavesTorchFile", "more.bin holds more/data.pkl, which is a pickle"),
        ("SavesAtHome", "it wrote more.txt outside of the folder it was given"),
        ("MovesItHome", "it wrote moved.txt outside of the folder it was given"),
        ("RefusesAtLength", "it refuses with 2 lines; one is wanted"),
        ("FitsByASettingOfPrediction", "with floor=0.5 a new fit changes predictions by up to "),
        ("PredictsEachAlike", "with floor=0.5 predict_each differs from predict by up to "),
        ("PredictsEachOnce", "predict_each gave 1 results for 3 settings"),
        ("LeavesItsSettings", "predict_each changes the settings of the method"),
        ("SearchesUnderAnotherName", "it suggests {'log_ridge': -6.0} and sets {'ridge': 1e-06};"),
        ("SearchesOneSettingTwice", "floor is both in its search space and in predict_space"),
        ("PredictsWithWhatIsNot", "predict_space: flor=0.0: unknown setting of brightness 'flor'"),
        ("PredictsWithBadValues", "predict_space: floor=2.0: setting of brightness: floor: Input"),
        ("PredictsWithNoValues", "predict_space: floor has no list of values"),
        ("BadForADataset", "preset authors on dataset her2st: setting of brightness: ridge"),
    ],
)
def test_the_reason_says_what_was_seen(name, reason, tmp_path):
    kind = next(kind for kind in BROKEN if kind.__name__ == name)
    result = run_check(BY_NAME[kind.breaks], Subject(kind, tmp_path))
    assert result.reason.startswith(reason)


def test_gradients_of_a_loop_of_its_own_are_not_vouched_for(tmp_path):
    class OwnLoop(Brightness):
        def fit(self, data, context):
            super().fit(data, context)
            context.curves.append({"epoch": 0.0, "train_loss": 1.0})

    result = run_check(BY_NAME["every_parameter_learns"], Subject(OwnLoop, tmp_path))
    assert result.outcome == "not applicable"
    assert "does not train through the training helper" in result.reason


def test_an_exception_of_the_method_keeps_its_traceback_and_a_broken_promise_has_none(tmp_path):
    by_name = {kind.__name__: kind for kind in BROKEN}
    check = BY_NAME["predicts_each_slide"]
    raised = run_check(check, Subject(by_name["Raises"], tmp_path))
    assert "broken_methods.py" in raised.traceback
    assert run_check(check, Subject(by_name["Transposed"], tmp_path)).traceback == ""


@pytest.mark.parametrize(
    ("alone", "outcome"), [({"floor": (0.0, 1.0)}, "passed"), ({}, "not applicable")]
)
def test_a_predict_space_may_stand_alone(alone, outcome, tmp_path):
    class Plain(Brightness):
        predict_space = alone

        @classmethod
        def search_space(cls, trial):
            return {}

    for check in ("search_space_is_valid", "tries_settings_of_prediction_on_one_fit"):
        assert run_check(BY_NAME[check], Subject(Plain, tmp_path)).outcome == outcome


def test_a_clear_refusal_of_a_hard_fold_passes_and_is_told(tmp_path):
    class Picky(Brightness):
        def fit(self, data, context):
            if any(len(section) == 1 for section in data.sections):
                raise DataError("a section has one spot; leave it out")
            super().fit(data, context)

    result = run_check(BY_NAME["copes_with_a_section_of_one_spot"], Subject(Picky, tmp_path))
    assert result.outcome == "passed"
    assert result.reason == "refused: a section has one spot; leave it out"


@pytest.mark.parametrize("side", ["train", "validation"])
def test_a_harness_that_lets_the_test_section_into_training_is_found(side, tmp_path, monkeypatch):
    from bench.protocol import fold_data

    sound = fold_data.fold_data

    def leaking(fold, *rest):
        return sound(fold.model_copy(update={side: (*getattr(fold, side), *fold.test)}), *rest)

    monkeypatch.setattr(fold_data, "fold_data", leaking)
    result = run_check(BY_NAME["never_sees_test_expression"], Subject(Brightness, tmp_path))
    assert result.outcome == "failed"
    assert "panel" in result.reason


def test_the_sections_of_that_check_are_divided_by_the_protocols_own_code(tmp_path, monkeypatch):
    from bench.protocol import fold_data

    seen = []
    sound = fold_data.fold_data

    def watched(*arguments):
        seen.append(sound(*arguments))
        return seen[-1]

    monkeypatch.setattr(fold_data, "fold_data", watched)
    run_check(BY_NAME["never_sees_test_expression"], Subject(Brightness, tmp_path))
    first, second = seen
    assert len(first.training.panel) == 6
    assert not np.array_equal(first.truth[0].expression, second.truth[0].expression)
    for one, other in zip(first.training.sections, second.training.sections, strict=True):
        np.testing.assert_array_equal(one.target, other.target)


def test_the_suite_leaves_the_usual_cache_alone(tmp_path, own_cache):
    found = results(Brightness, tmp_path)
    assert named(found, "failed") == []
    assert not own_cache.exists()


# ---------------------------------------------------------------------------- pickle or not


def saved(write, *arguments, **keywords):
    stream = io.BytesIO()
    write(stream, *arguments, **keywords)
    return stream.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [None, 3, {"a": [1.5, "b"]}, np.zeros(3)], ids=str)
def test_a_pickle_is_known_by_its_content(protocol, value):
    assert pickle_in(pickle.dumps(value, protocol))


def test_what_wraps_a_pickle_is_opened(tmp_path):
    joblib.dump({"a": np.zeros(1000)}, tmp_path / "plain")
    joblib.dump({"a": np.zeros(1000)}, tmp_path / "packed", compress=("lzma", 3))
    assert pickle_in((tmp_path / "plain").read_bytes())
    assert pickle_in((tmp_path / "packed").read_bytes())
    old = saved(lambda s: torch.save([1.0], s, _use_new_zipfile_serialization=False))
    assert pickle_in(old)
    assert pickle_in(saved(np.save, np.array([None]), allow_pickle=True))
    structured = np.zeros(2, dtype=[("a", "f4"), ("b", "O")])
    assert pickle_in(saved(np.save, structured, allow_pickle=True))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"0.",
        b"12.",
        b'{"a": 1.}',
        b"\x80\x02\x00\x00\x00\x00\x00\x00{}",
        b"\x80",
        b"PK\x03\x04 but no archive",
        b"\x1f\x8b but no archive",
        b"A sentence that ends in a full stop.",
        np.random.default_rng(0).bytes(5000),
        saved(np.save, np.arange(5.0)),
        saved(np.savez_compressed, a=np.arange(5.0), b=np.array(["text"])),
    ],
    ids=range(13),
)
def test_other_files_are_no_pickles(content):
    assert pickle_in(content) is None


def test_a_network_in_safetensors_is_no_pickle_whatever_the_length_of_its_header(tmp_path):
    for length in range(1, 600, 7):
        save_file({"n" * length: np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
        assert pickle_in((tmp_path / "a.safetensors").read_bytes()) is None


# --------------------------------------------------------------------------- search spaces


def test_a_rehearsal_reaches_both_ends_and_every_choice():
    def suggested(place):
        trial = RehearsalTrial(lambda: place)
        return (
            trial.suggest_float("a", 1e-4, 1e-1, log=True),
            trial.suggest_float("b", 0.0, 1.0, step=0.25),
            trial.suggest_int("c", 1, 10, step=3),
            trial.suggest_int("d", 1, 1024, log=True),
            trial.suggest_categorical("e", [None, "x", "y"]),
        )

    assert suggested(0.0) == (1e-4, 0.0, 1, 1, None)
    assert suggested(1.0) == (1e-1, 1.0, 10, 1024, "y")
    middle = suggested(0.5)
    assert middle[0] == pytest.approx(10**-2.5)
    assert middle[1] == 0.5
    assert middle[2] in {4, 7}
    assert middle[4] == "x"


# --------------------------------------------------------------------------------- imports


def imported(source, folder, monkeypatch):
    """Result of the check of a module with a given source."""
    (folder / "stranger.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    return run_check(BY_NAME["imports_little"], Subject(Brightness, folder, "stranger"))


def test_an_import_of_the_interface_alone_passes(tmp_path, monkeypatch):
    result = imported("import numpy\nfrom bench.api import Method\n", tmp_path, monkeypatch)
    assert (result.outcome, result.reason) == ("passed", "")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import pandas", "importing stranger imports pandas"),
        ("import bench.methods.mean", "importing stranger imports bench.methods.mean, another"),
        ("raise RuntimeError('boom')", "a new process cannot import stranger: RuntimeError: boom"),
    ],
)
def test_an_import_that_costs_too_much_is_found(source, reason, tmp_path, monkeypatch):
    result = imported(source, tmp_path, monkeypatch)
    assert result.outcome == "failed"
    assert result.reason.startswith(reason)


def test_a_slow_import_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "IMPORT_SECONDS", 0.2)
    busy = "import time\nwhile time.process_time() < 1.5: pass"
    result = imported(busy, tmp_path, monkeypatch)
    assert result.outcome == "failed"
    assert result.reason.startswith("importing stranger takes ")


# -------------------------------------------------------------------------------- the demo


def on_the_demo(folder, name, monkeypatch, **source):
    """Result of the check of a plugin with given statements."""
    write_plugin(folder, name, **source)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.syspath_prepend(folder)
    work = folder / "work"
    work.mkdir()
    return run_check(BY_NAME["is_quick_on_the_demo"], Subject(method_class(name), work))


@pytest.mark.slow
def test_a_quick_method_passes_on_the_demo_and_its_results_are_gone(tmp_path, monkeypatch):
    result = on_the_demo(tmp_path, "fleet", monkeypatch)
    assert result.outcome == "passed", result.reason
    assert result.reason.endswith(" s")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_a_slow_method_fails_on_the_demo_however_little_the_rest_of_a_fold_takes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(demo, "QUICK_SECONDS", 1.0)
    wait = "import time\ntime.sleep(0.25)"
    result = on_the_demo(tmp_path, "idler", monkeypatch, fit=wait, predict=wait)
    assert result.outcome == "failed"
    assert re.match(r"it takes \d+ s, more than 1 s; on a machine that is busy", result.reason)


@pytest.mark.slow
def test_a_method_that_fails_in_some_folds_fails_on_the_demo(tmp_path, monkeypatch):
    stumble = 'if data.train[0].name.startswith("P2"): raise RuntimeError("boom")'
    result = on_the_demo(tmp_path, "stumbler", monkeypatch, fit=stumble)
    assert result.outcome == "failed"
    assert result.reason.startswith("1 of 3 folds failed, first fold 2: RuntimeError: boom")


# ------------------------------------------------------------------------------ the package


def test_importing_the_suite_imports_no_method_and_no_heavy_library():
    code = (
        "import sys, json, bench.contract.suite, bench.cli.check_display\n"
        "print(json.dumps([m for m in sys.modules if m in {'torch', 'pandas', 'anndata', 'scanpy'}"
        " or m.startswith('bench.methods.')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_sound_methods_are_methods():
    assert all(issubclass(kind, Method) for kind in (Brightness, Position, TrainedBrightness))
