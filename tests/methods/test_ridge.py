from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge as Oracle
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.api import ConfigError, Context, TrainingData
from bench.blocks.features import FrozenEncoder
from bench.contract.small_fold import GENES, SPOTS, as_slide
from bench.methods.ridge import Ridge, _divisions, _Examples, mean_correlation

FEATURES = 96


def configured(**changes):
    return Ridge(Ridge.configure("any", "tiny", changes))


def fitted(data, **changes):
    method, context = configured(**changes), Context(seed=1)
    method.fit(data, context)
    return method, context


def predict(method, slide):
    return method.predict([slide], Context(seed=1))[0]


def encoded(*sections):
    parts = FrozenEncoder(configured().config, 1, "cpu").encode(sections)
    return np.concatenate(parts).astype(np.float64)


def targets(*sections):
    return np.concatenate([section.target for section in sections]).astype(np.float64)


def oracle(components, alpha, features, target):
    steps = [StandardScaler(), Oracle(alpha=alpha)]
    if components:
        steps.insert(1, PCA(components, svd_solver="full"))
    return make_pipeline(*steps).fit(features, target)


def correlation(truth, prediction):
    return np.mean([pearsonr(truth[:, g], prediction[:, g])[0] for g in range(truth.shape[1])])


# 96 features of 60 spots: fewer spots than features, all components and some of them.
@pytest.mark.parametrize("pca", [5, 256, None])
@pytest.mark.parametrize("alpha", [0.5, 30.0])
def test_predictions_are_those_of_scikit_learn(data, slide, pca, alpha):
    method, _ = fitted(data, pca=pca, alpha=alpha, clip=None)
    components = pca and min(pca, FEATURES, 3 * SPOTS)
    wanted = oracle(components, alpha, encoded(*data.sections), targets(*data.sections))
    np.testing.assert_allclose(
        predict(method, slide), wanted.predict(encoded(slide)), rtol=1e-4, atol=1e-4
    )


def test_predictions_are_those_of_scikit_learn_with_more_spots_than_features(data, slide):
    method = configured(pca=4, alpha=2.0, clip=None)
    encoder = FrozenEncoder(method.config, 1, "cpu")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 7)).astype(np.float32)
    target = rng.random((200, GENES), dtype=np.float32)
    examples = [
        _Examples(features[part], target[part], np.zeros((len(part), 2)))
        for part in (np.arange(120), np.arange(120, 200))
    ]
    space, solution = method._solve(encoder, examples)
    found = solution.predict(solution.scores(space.standardise(features)), 2.0)
    wanted = oracle(4, 2.0, features.astype(np.float64), target.astype(np.float64))
    np.testing.assert_allclose(found, wanted.predict(features), atol=1e-5)
    coefficients, intercept = solution.linear_map(2.0)
    np.testing.assert_allclose(
        space.standardise(features) @ coefficients + intercept, found, atol=1e-5
    )


def test_the_strength_is_chosen_on_the_validation_sections(data, slide):
    method, context = fitted(data, clip=None)
    features, target = encoded(*data.train), targets(*data.train)
    held, truth = encoded(*data.validation), targets(*data.validation)
    rows = context.curves
    assert [row["epoch"] for row in rows] == list(range(9))
    assert [row["alpha"] for row in rows] == pytest.approx([10.0**i for i in range(-2, 7)])
    for row in rows:
        prediction = oracle(40, row["alpha"], features, target).predict(held)
        assert row["val_pcc"] == pytest.approx(correlation(truth, prediction), abs=1e-4)
        assert row["val_mse"] == pytest.approx(np.mean((truth - prediction) ** 2), rel=1e-4)
    best = max(row["val_pcc"] for row in rows)
    good = [row for row in rows if row["val_pcc"] >= best - 0.005]
    assert method._alpha == min(good, key=lambda row: row["val_mse"])["alpha"]
    # Then all sections are learned from.
    again = oracle(60, method._alpha, encoded(*data.sections), targets(*data.sections))
    np.testing.assert_allclose(
        predict(method, slide), again.predict(encoded(slide)), rtol=1e-4, atol=1e-4
    )


def test_without_validation_sections_each_training_section_is_held_out_in_turn(data):
    _, context = fitted(replace(data, validation=()), clip=None)
    for row in context.curves[::4]:
        scores = []
        for section, other in (data.train, data.train[::-1]):
            wanted = oracle(SPOTS, row["alpha"], encoded(other), targets(other))
            scores.append(correlation(targets(section), wanted.predict(encoded(section))))
        assert row["val_pcc"] == pytest.approx(np.mean(scores), abs=1e-4)


def test_a_single_section_is_held_out_stripe_by_stripe(data):
    order = np.random.default_rng(0).permutation(SPOTS)
    section = data.train[0]
    mixed = replace(
        section,
        array_xy=section.array_xy[order],
        spatial=section.spatial[order],
        target=section.target[order],
        patch_source=replace(section.patch_source, centres=section.patch_source.centres[order]),
    )
    _, context = fitted(replace(data, train=(mixed,), validation=()), clip=None)
    features, target = encoded(section), targets(section)
    for row in context.curves[::4]:
        scores = []
        for start in range(0, SPOTS, 4):  # the section is a row of 20 spots
            held = np.arange(start, start + 4)
            rest = np.setdiff1d(np.arange(SPOTS), held)
            wanted = oracle(16, row["alpha"], features[rest], target[rest])
            scores.append(correlation(target[held], wanted.predict(features[held])))
        assert row["val_pcc"] == pytest.approx(np.mean(scores), abs=1e-4)


def test_many_sections_are_held_out_in_five_groups(data):
    sections = [
        _Examples(np.full((n, 1), i), np.zeros((n, GENES)), np.zeros((n, 2)))
        for i, n in enumerate((3, 4, 5, 0, 3, 4, 5, 6))
    ]
    fold = TrainingData(data.panel, (data.train[0],) * len(sections))
    divisions = list(_divisions(fold, sections))
    assert len(divisions) == 5
    names = [
        ([part.features[0, 0] for part in learned], [part.features[0, 0] for part in held])
        for learned, held in divisions
    ]
    assert sorted(name for _, held in names for name in held) == [0, 1, 2, 4, 5, 6, 7]
    assert all(sorted(learned + held) == [0, 1, 2, 4, 5, 6, 7] for learned, held in names)


def test_with_nothing_to_tell_by_the_strongest_is_taken(data, slide):
    section = data.train[0]
    lone = replace(
        section,
        array_xy=section.array_xy[:1],
        spatial=section.spatial[:1],
        target=section.target[:1],
        patch_source=replace(section.patch_source, centres=section.patch_source.centres[:1]),
    )
    method, context = fitted(replace(data, train=(lone,), validation=()))
    assert method._alpha == 1e6
    assert all(np.isnan(row["val_pcc"]) for row in context.curves)
    np.testing.assert_allclose(predict(method, slide), np.tile(lone.target, (SPOTS, 1)), rtol=1e-6)


def test_validation_sections_too_small_for_a_correlation_choose_by_the_error(data):
    section = data.validation[0]
    pair = replace(
        section,
        array_xy=section.array_xy[:2],
        spatial=section.spatial[:2],
        target=section.target[:2],
        patch_source=replace(section.patch_source, centres=section.patch_source.centres[:2]),
    )
    method, context = fitted(replace(data, validation=(pair,)))
    assert all(np.isnan(row["val_pcc"]) for row in context.curves)
    assert method._alpha == min(context.curves, key=lambda row: row["val_mse"])["alpha"]


def test_about_as_high_a_correlation_goes_with_the_least_error(data, monkeypatch):
    scores = iter([0.500, 0.504, 0.505, 0.499])
    monkeypatch.setattr("bench.methods.ridge.mean_correlation", lambda *_: next(scores))
    method, context = fitted(data, alphas=[1.0, 10.0, 100.0, 1e9])
    assert [row["val_pcc"] for row in context.curves] == [0.500, 0.504, 0.505, 0.499]
    errors = {row["alpha"]: row["val_mse"] for row in context.curves[:3]}
    assert method._alpha == min(errors, key=errors.get)


def test_the_fixed_strength_of_hest(data):
    method, context = fitted(data, alpha="hest")
    assert method._alpha == pytest.approx(100 / (60 * GENES))
    assert context.curves == []
    assert fitted(data, alpha="hest", pca=4)[0]._alpha == pytest.approx(100 / (4 * GENES))
    assert fitted(data, alpha="hest", pca=None)[0]._alpha == pytest.approx(100 / (60 * GENES))


def test_the_chosen_strength_is_saved(data, tmp_path):
    method, _ = fitted(data)
    method.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ridge.npz"]
    with np.load(tmp_path / "ridge.npz", allow_pickle=False) as stored:
        assert stored["alpha"] == method._alpha
        assert stored["coefficients"].shape == (FEATURES, GENES)
        assert stored["coefficients"].dtype == np.float32


def test_what_the_image_shows_is_found(data, slide):
    method, _ = fitted(replace(data, validation=()))
    brightness = data.validation[0].target[:, 0]
    assert pearsonr(brightness, predict(method, slide)[:, 0])[0] > 0.9
    shuffled = predict(method, slide.with_images_shuffled(3))[:, 0]
    assert abs(pearsonr(brightness, shuffled)[0]) < 0.5


def test_a_gene_constant_in_training_is_predicted_as_it_was(data, slide):
    def flat(section):
        target = section.target.copy()
        target[:, 2] = 0.1
        return replace(section, target=target)

    method, _ = fitted(replace(data, train=tuple(map(flat, data.train)), validation=()))
    np.testing.assert_array_equal(predict(method, slide)[:, 2], np.float32(0.1))


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "test_byobnet"},
        {"pixels": "rgb01"},
        {"patch_size": 36},
        {"input_size": 24},
        {"clip": 1.0},
        {"pca": 3},
        {"alpha": "hest"},
        {"alpha": 7.0},
        {"alphas": [7.0]},
    ],
    ids=str,
)
def test_every_switch_changes_the_prediction(data, slide, change):
    usual = predict(fitted(data)[0], slide)
    assert not np.array_equal(predict(fitted(data, **change)[0], slide), usual)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0},
        {"alpha": -1.0},
        {"alpha": float("inf")},
        {"alpha": "best"},
        {"alphas": []},
        {"alphas": [1.0, -1.0]},
        {"pca": 0},
        {"clip": 0},
        {"weights": None},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError, match=f"setting of ridge: {next(iter(change))}"):
        Ridge.configure("any", "tiny", change)


def test_the_correlation_is_that_of_scipy_over_genes_that_vary():
    rng = np.random.default_rng(0)
    truth, prediction = rng.random((9, 4)), rng.random((9, 4)).astype(np.float32)
    assert mean_correlation(truth, prediction) == pytest.approx(correlation(truth, prediction))
    truth[:, 1], prediction[:, 2] = 0.1, 0.1
    kept = [0, 3]
    wanted = correlation(truth[:, kept], prediction[:, kept])
    assert mean_correlation(truth, prediction) == pytest.approx(wanted)
    assert np.isnan(mean_correlation(truth[:, [1, 2]], prediction[:, [1, 2]]))
    assert np.isnan(mean_correlation(truth[:2], prediction[:2]))
    assert np.isnan(mean_correlation(truth[:0], prediction[:0]))


def test_the_settings_of_the_authors():
    config = Ridge.configure("her2st", "authors")
    assert (config.encoder, config.weights, config.pixels) == (
        "densenet121",
        "imagenet",
        "encoder",
    )
    assert (config.patch_size, config.input_size, config.pca) == (224, None, 256)


def test_a_training_slide_is_told_apart_from_the_mean(data):
    method, _ = fitted(data)
    found = predict(method, as_slide(data.train[0]))
    assert np.ptp(found[:, 0]) > 0.1
