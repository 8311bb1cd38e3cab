"""Tuning of methods that look at images: ended between epochs, features made once."""

import pytest

from bench.cli.options import settings_of
from bench.execute.request import Request
from bench.tune.objective import RUNGS
from bench.tune.request import TuneRequest
from bench.tune.study import open_study
from bench.tune.tuning import plan_studies, tune
from tests.cli.conftest import one_thread  # noqa: F401 - a fixture
from tests.cli.tiny_dataset import TINY_NETWORK


@pytest.fixture
def request_for(tiny, results, one_thread):  # noqa: F811
    def make(method, *settings, **changes):
        run = Request(
            methods=(method,),
            dataset=str(tiny.card),
            data_root=tiny.root,
            protocol=tiny.quick_protocol[1],
            folds=(0,),
            preset="quick",
            settings=settings_of(settings),
            device="cpu",
            results=results,
        )
        return TuneRequest(run, **changes)

    return make


def trials_of(request):
    (spec,) = plan_studies(request)
    return open_study(spec, runs=False).get_trials(deepcopy=False)


@pytest.mark.slow
def test_a_bad_trial_ends_between_two_epochs(request_for):
    small = [value for value in TINY_NETWORK if "=" in value and "epochs" not in value]
    request = request_for("mclstexp", *small, "epochs=9", trials=14)
    found, failed = tune(request)
    assert not failed
    assert found["mclstexp"][0].config["epochs"] == 9
    trials = trials_of(request)
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert pruned
    assert all(t.user_attrs.get("seconds") is None for t in pruned)
    assert any(max(t.intermediate_values) <= len(RUNGS) for t in pruned), "not before a whole fit"
    done = [t for t in trials if t.state.name == "COMPLETE"]
    for trial in done:
        assert set(trial.intermediate_values) == {1, 2, 3, 4}
        assert trial.value == trial.intermediate_values[4]


@pytest.mark.slow
def test_features_of_a_frozen_encoder_are_made_once_for_a_study(request_for, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "cache"))

    def features():
        return {path: path.stat().st_ino for path in (tmp_path / "cache/features").iterdir()}

    tune(request_for("ridge", "input_size=32", trials=1))
    first = features()
    assert len(first) == 4, "one for each training section"
    found, _ = tune(request_for("ridge", "input_size=32", trials=5))
    assert sum(found["ridge"][0].trials.values()) == 5
    assert features() == first, "no file was written again"
