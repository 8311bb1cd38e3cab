"""What tuning changes: settings that matter to the fit, and settings that matter after it."""

import random
import warnings
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import optuna
import pytest

from bench.api import Context, Method, TrainingError
from bench.contract.settings import RehearsalTrial
from bench.contract.small_fold import GENES, as_slide, first_spots
from bench.registry import find_datasets, find_methods, method_class

pytestmark = pytest.mark.slow

METHODS = [
    name
    for name, found in sorted(find_methods().items())
    if found.source == "built-in" and not method_class(name).control
]
WITH_PREDICT_SPACE = ["bleep", "knn", "mclstexp"]


@pytest.fixture(scope="module")
def fold(data):
    """Two sections to train on; a third one is left to predict."""
    return replace(data, validation=())


@pytest.fixture(scope="module")
def slides(data):
    """Two slides of different length, no spot of which was trained on."""
    whole = as_slide(data.validation[0])
    return [whole, first_spots(whole, 7)]


@pytest.fixture(scope="module")
def usual(fold, tmp_path_factory):
    """What a fit with the tiny preset leaves behind, by the method's name."""
    folder = tmp_path_factory.mktemp("usual")
    return cache(lambda name: saved(fitted(name, fold), folder / name))


def suggested(name, place=lambda: 0.0):
    return method_class(name).search_space(RehearsalTrial(place))


def fitted(name, fold, **changes):
    """A fit with the tiny preset, in two batches an epoch."""
    kind = method_class(name)
    if "batch_size" in kind.Config.model_fields:
        changes = {"batch_size": 20, **changes}
    method = kind(kind.configure("small", "tiny", changes))
    method.fit(fold, Context(seed=1))
    return method


def saved(method, folder):
    """Everything that a fit leaves behind, by file."""
    folder.mkdir()
    method.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(one, other):
    return [part.tobytes() for part in one] == [part.tobytes() for part in other]


def test_every_method_that_means_to_win_has_a_search_space():
    assert {"bleep", "hist2st", "histogene", "knn", "mclstexp", "mlp", "ridge", "stnet"} < set(
        METHODS
    )
    assert all(suggested(name) for name in METHODS)
    assert [name for name in METHODS if method_class(name).predict_space] == WITH_PREDICT_SPACE


@pytest.mark.parametrize("preset", ["authors", "quick"])
@pytest.mark.parametrize("name", METHODS)
def test_the_default_settings_lie_in_the_searched_domain(name, preset):
    kind = method_class(name)
    for dataset in find_datasets():
        defaults = kind.configure(dataset, preset).model_dump()
        trial = optuna.trial.FixedTrial({key: defaults[key] for key in suggested(name)})
        with warnings.catch_warnings():
            # This is how optuna says that a value is out of its range.
            warnings.simplefilter("error")
            changes = kind.search_space(trial)
        assert changes == {key: defaults[key] for key in changes}
        for key, values in kind.predict_space.items():
            assert defaults[key] in values


def test_the_search_of_mclstexp_holds_the_paper_s_grid():
    trial = optuna.create_study().ask()
    method_class("mclstexp").search_space(trial)
    space = trial.distributions
    rate, decay = space["learning_rate"], space["weight_decay"]
    assert (rate.low, rate.high, rate.log) == (1e-5, 1e-2, True)
    assert (decay.low, decay.high, decay.log) == (1e-4, 1e-1, True)
    assert set(space["projection_dim"].choices) == {128, 256, 512, 1024}


@pytest.mark.parametrize("place", [0.0, 1.0, None], ids=["lowest", "highest", "anywhere"])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_suggested_can_be_built_and_trained(name, place, fold, slides):
    changes = suggested(name, random.Random(name).random if place is None else lambda: place)
    if "epochs" in changes:
        changes["epochs"] = 1
    try:
        method = fitted(name, fold, **changes)
    except TrainingError as error:
        # Too high a rate is a fair suggestion; it has to be told.
        assert "diverged" in str(error)  # noqa: PT017
        return
    predictions = method.predict(slides, Context(seed=1))
    assert [p.shape for p in predictions] == [(len(slide), GENES) for slide in slides]


@pytest.mark.parametrize(
    ("name", "setting"), [(name, key) for name in METHODS for key in suggested(name)]
)
def test_every_searched_setting_changes_the_fit(name, setting, fold, usual, tmp_path):
    # The fold has 40 spots, so at most 40 components; one epoch is quicker than many.
    values = {"pca": [8], "epochs": [1]}.get(
        setting, [suggested(name, place)[setting] for place in (lambda: 0.0, lambda: 1.0)]
    )
    default = getattr(method_class(name).configure("small", "tiny"), setting)
    other = next(value for value in values if value != default)
    assert saved(fitted(name, fold, **{setting: other}), tmp_path / "other") != usual(name)


@pytest.mark.parametrize("name", WITH_PREDICT_SPACE)
def test_settings_of_the_prediction_change_no_fit_and_are_tried_on_one(
    name, fold, slides, usual, tmp_path
):
    space = method_class(name).predict_space
    context = Context(seed=1)
    method = fitted(name, fold)
    own = method.config
    before = method.predict(slides, context)

    every = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
    configs = [own.model_copy(update=changes) for changes in every]
    found = list(method.predict_each(slides, context, configs))
    wanted = list(Method.predict_each(method, slides, context, configs))
    assert all(same(*pair) for pair in zip(found, wanted, strict=True))
    assert len({np.concatenate(predictions).tobytes() for predictions in found}) > 5
    assert method.config is own
    assert same(method.predict(slides, context), before)
    assert saved(method, tmp_path / "after") == usual(name)

    for number in (0, len(every) // 2, -1):
        afresh = fitted(name, fold, **every[number])
        assert saved(afresh, tmp_path / str(number)) == usual(name)
        assert same(afresh.predict(slides, context), found[number])


@pytest.mark.parametrize("name", WITH_PREDICT_SPACE)
def test_images_are_embedded_once_for_all_settings_of_the_prediction(
    name, fold, slides, monkeypatch
):
    method = fitted(name, fold)
    owner, step = (method, "_embed_images") if name != "knn" else (method._space, "embed")
    embed, calls = getattr(owner, step), []

    def counted(*arguments):
        calls.append(arguments)
        return embed(*arguments)

    monkeypatch.setattr(owner, step, counted)
    configs = [
        method.config.model_copy(update={key: value})
        for key, values in method.predict_space.items()
        for value in values
    ]
    assert len(list(method.predict_each(slides, Context(seed=1), configs))) == len(configs) > 5
    assert len(calls) == (len(slides) if name != "knn" else 1)
