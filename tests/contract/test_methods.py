"""What every method must do, whoever wrote it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.api import BenchError, Context, TrainingData
from bench.registry import find_methods, method_class
from tests.small_fold import GENES, SPOTS, as_slide

BUILT_IN = sorted(name for name, found in find_methods().items() if found.source == "built-in")
SMALL = {"input_size": 32, "epochs": 2, "batch_size": 8, "heads": 2, "head_dim": 8}


@pytest.fixture(params=BUILT_IN, scope="module")
def kind(request):
    return method_class(request.param)


@pytest.fixture(scope="module")
def config(kind):
    changes = {name: value for name, value in SMALL.items() if name in kind.Config.model_fields}
    return kind.configure("tiny", "quick", changes)


def fit(kind, config, data, seed=1):
    method, context = kind(config), Context(seed=seed)
    method.fit(data, context)
    return method


def predict(method, *slides, seed=1):
    return method.predict(slides, Context(seed=seed))


@pytest.fixture(scope="module")
def fitted(kind, config, data):
    return fit(kind, config, data)


def test_predictions_are_finite_float32_of_spots_by_panel(fitted, slide, data):
    predictions = predict(fitted, slide, as_slide(data.train[0]))
    assert [part.shape for part in predictions] == [(SPOTS, GENES)] * 2
    assert all(part.dtype == np.float32 for part in predictions)
    assert all(np.isfinite(part).all() for part in predictions)


def test_the_same_seed_gives_the_same_bits(kind, config, data, fitted, slide):
    again = fit(kind, config, data)
    np.testing.assert_array_equal(predict(again, slide)[0], predict(fitted, slide)[0])


def test_a_slide_is_predicted_the_same_alone_and_in_company(fitted, slide, data):
    if getattr(fitted.config, "augment_at_test", False):
        pytest.skip("draws at random when predicting")
    alone = predict(fitted, slide)[0]
    with_others = predict(fitted, as_slide(data.train[0]), slide)[1]
    np.testing.assert_array_equal(alone, with_others)


def test_a_saved_method_predicts_the_same_bits(fitted, slide, tmp_path):
    fitted.save(tmp_path)
    loaded = type(fitted).load(tmp_path, fitted.config)
    np.testing.assert_array_equal(predict(loaded, slide)[0], predict(fitted, slide)[0])
    pickles = {".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in pickles]


def test_inputs_are_left_as_they_were(kind, config, data, slide):
    def state():
        return [
            array.copy()
            for section in data.sections
            for array in (
                section.expression,
                section.target,
                section.counts,
                section.array_xy,
                section.spatial,
            )
        ] + [slide.array_xy.copy(), slide.spatial.copy()]

    before = state()
    predict(fit(kind, config, data), slide)
    for old, new in zip(before, state(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_global_random_state_is_not_what_decides(kind, config, data, fitted, slide):
    np.random.seed(99)  # noqa: NPY002 - the very state that must not matter
    again = fit(kind, config, data)
    np.testing.assert_array_equal(predict(again, slide)[0], predict(fitted, slide)[0])


def test_images_matter_to_a_method_that_says_it_looks_at_them(fitted, slide):
    shuffled = predict(fitted, slide.with_images_shuffled(3))[0]
    same = np.array_equal(shuffled, predict(fitted, slide)[0])
    assert same != fitted.needs_image


def test_a_method_that_needs_no_image_does_without(kind, config, data, slide):
    if kind.needs_image:
        pytest.skip("needs images")
    blind = TrainingData(
        data.panel,
        tuple(replace(section, patch_source=None) for section in data.train),
        tuple(replace(section, patch_source=None) for section in data.validation),
    )
    assert predict(fit(kind, config, blind), replace(slide, patch_source=None))


def test_a_gene_constant_in_training_is_predicted_finite(kind, config, data, slide):
    def flat(section):
        target = section.target.copy()
        target[:, 2] = 0.5
        return replace(section, target=target, expression=target.copy())

    constant = TrainingData(
        data.panel, tuple(map(flat, data.train)), tuple(map(flat, data.validation))
    )
    assert np.isfinite(predict(fit(kind, config, constant), slide)[0]).all()


def test_a_slide_of_one_spot_is_predicted(fitted, slide):
    source = slide.patch_source
    single = replace(
        slide,
        array_xy=slide.array_xy[:1],
        spatial=slide.spatial[:1],
        patch_source=replace(source, centres=source.centres[:1]),
    )
    assert predict(fitted, single)[0].shape == (1, GENES)


def test_early_stopping_without_validation_sections_is_refused(kind, data):
    if "patience" not in kind.Config.model_fields:
        pytest.skip("has no early stopping")
    changes = {name: value for name, value in SMALL.items() if name in kind.Config.model_fields}
    config = kind.configure("tiny", "quick", {**changes, "patience": 1})
    with pytest.raises(BenchError, match="validation"):
        fit(kind, config, replace(data, validation=()))


@pytest.mark.parametrize("preset", ["authors", "quick"])
@pytest.mark.parametrize("dataset", ["demo", "her2st", "cscc", "alex10x", "unheard-of"])
def test_every_preset_is_valid_on_every_dataset(kind, preset, dataset):
    assert isinstance(kind.configure(dataset, preset), kind.Config)


@pytest.mark.parametrize("extreme", [0, -1])
def test_the_search_space_gives_valid_settings(kind, extreme):
    class Trial:
        def suggest_float(self, name, low, high, log=False):
            return (low, high)[extreme]

        def suggest_int(self, name, low, high, log=False, step=1):
            return (low, high)[extreme]

        def suggest_categorical(self, name, choices):
            return choices[extreme]

    changes = kind.search_space(Trial())
    assert isinstance(kind.configure("tiny", "quick", changes), kind.Config)


@pytest.mark.parametrize("name", BUILT_IN)
def test_importing_a_method_imports_no_heavy_library_and_no_other_method(name):
    code = (
        f"import sys, bench.methods.{name}\n"
        "print([m for m in sys.modules if m in {'torch', 'scanpy', 'mlflow', 'lightning'}"
        f" or (m.startswith('bench.methods.') and not m.startswith('bench.methods.{name}'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
