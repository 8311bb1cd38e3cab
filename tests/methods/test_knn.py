from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr

from bench.api import ConfigError, Context
from bench.blocks.feature_space import FeatureSpace
from bench.blocks.features import FrozenEncoder
from bench.contract.small_fold import GENES, SPOTS, as_slide
from bench.methods.knn import NearestNeighbours


def fitted(data, **changes):
    method = NearestNeighbours(NearestNeighbours.configure("any", "tiny", changes))
    method.fit(data, Context(seed=1))
    return method


def predict(method, slide):
    return method.predict([slide], Context(seed=1))[0]


@pytest.mark.parametrize("weighting", ["mean", "inverse_square"])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_predictions_are_weighted_means_over_the_most_similar_spots(
    data, slide, weighting, distance
):
    method = fitted(data, neighbours=4, weighting=weighting, distance=distance)
    rng = np.random.default_rng(0)
    keys, queries = (rng.normal(size=(n, 9)).astype(np.float32) for n in (3 * SPOTS, SPOTS))
    method._keys = keys

    class Space:
        def embed(self, slides, context):
            return [queries for _ in slides]

    method._space = Space()
    target = np.concatenate([section.target for section in data.sections])
    wanted = []
    for query in queries:
        cosine = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:4]
        gap = keys[nearest] - query
        length = np.abs(gap).sum(axis=1) if distance == "l1" else np.linalg.norm(gap, axis=1)
        weights = np.ones(4) if weighting == "mean" else 1 / length**2
        wanted.append(np.average(target[nearest], axis=0, weights=weights))
    np.testing.assert_allclose(predict(method, slide), wanted, rtol=1e-4, atol=1e-5)


def test_a_spot_that_was_seen_is_its_own_nearest_neighbour(data):
    method = fitted(data)
    section = data.train[0]
    _, first, times = np.unique(
        np.concatenate([part.target[:, 0] for part in data.sections]),
        return_index=True,
        return_counts=True,
    )
    once = [spot for spot, n in zip(first, times, strict=True) if spot < SPOTS and n == 1]
    assert len(once) > SPOTS / 2
    found = predict(method, as_slide(section))
    np.testing.assert_allclose(found[once], section.target[once], rtol=1e-3, atol=1e-3)


def test_more_neighbours_than_spots_are_all_of_them(data, slide):
    method = fitted(data, neighbours=10_000, weighting="mean")
    mean = np.concatenate([section.target for section in data.sections]).mean(axis=0)
    np.testing.assert_allclose(predict(method, slide), np.tile(mean, (SPOTS, 1)), rtol=1e-5)


def test_validation_sections_are_remembered_too(data):
    method = fitted(data)
    assert method._keys.shape == (3 * SPOTS, 96)
    assert method._values.shape == (3 * SPOTS, GENES)
    assert method._keys.dtype == np.float32
    encoder = FrozenEncoder(method.config, 1, "cpu")
    features = encoder.encode(data.sections)
    space = FeatureSpace.fit(encoder, features)
    np.testing.assert_array_equal(method._keys[-SPOTS:], space.standardise(features[-1]))
    np.testing.assert_array_equal(method._values[-SPOTS:], data.validation[0].target)


def test_what_the_image_shows_is_found(data, slide):
    method = fitted(replace(data, validation=()))
    brightness = data.validation[0].target[:, 0]
    assert pearsonr(brightness, predict(method, slide)[:, 0])[0] > 0.9
    shuffled = predict(method, slide.with_images_shuffled(3))[:, 0]
    assert abs(pearsonr(brightness, shuffled)[0]) < 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "test_byobnet"},
        {"pixels": "rgb01"},
        {"patch_size": 36},
        {"input_size": 24},
        {"clip": 0.5},
        {"neighbours": 9},
        {"weighting": "mean"},
        {"distance": "l1"},
    ],
    ids=str,
)
def test_every_switch_changes_the_prediction(data, slide, change):
    fold = replace(data, validation=())
    usual = predict(fitted(fold), slide)
    assert not np.array_equal(predict(fitted(fold, **change), slide), usual)


@pytest.mark.parametrize("change", [{"neighbours": 0}, {"weighting": "cosine"}, {"distance": "l3"}])
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError, match=f"setting of knn: {next(iter(change))}"):
        NearestNeighbours.configure("any", "tiny", change)
