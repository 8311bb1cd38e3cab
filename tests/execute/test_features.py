import h5py
import numpy as np
import pytest

from bench.data.dataset import open_dataset
from bench.errors import BenchError
from bench.execute.features import FeatureRequest, FeatureWork, compute_features, stored_features
from bench.registry import dataset_card

SETTINGS = {"weights": "none", "input_size": 32, "patch_size": 32}


@pytest.fixture(scope="module")
def demo():
    return open_dataset(dataset_card("demo"))


@pytest.fixture(scope="module")
def work(demo):
    """Features of the demo under some encoders."""

    def asked(*encoders, **settings):
        return FeatureWork(
            demo, FeatureRequest(encoders, {**SETTINGS, **settings}, "cpu", "float32")
        )

    return asked


def test_features_are_computed_once_and_continue(own_cache, demo, work, tmp_path):
    asked = work("test_resnet")
    assert all(part.features is None for part in stored_features(asked))
    told = []

    def stop(part):
        told.append(part.section)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_features(asked, stop)
    assert sum(part.features is not None for part in stored_features(asked)) == 2
    found = compute_features(asked, lambda part: None, tmp_path)
    assert [part.seconds == 0 for part in found] == [True, True, False, False, False, False]
    assert {part.features for part in found} == {96}
    for part in found:
        with h5py.File(tmp_path / "test_resnet" / f"{part.section}.h5") as file:
            assert file["features"].shape == (part.spots, 96)
            names = [name.decode() for name in file["barcode"]]
            assert names == list(demo.section(part.section).adata.obs_names)


def test_half_precision_halves_the_file_and_rounds_the_values(own_cache, work):
    whole = compute_features(work("test_resnet"), lambda part: None)
    half = compute_features(work("test_resnet", store="float16"), lambda part: None)
    assert [part.megabytes for part in half] == [part.megabytes / 2 for part in whole]


def test_a_run_finds_what_was_computed(own_cache, demo, work, monkeypatch):
    from bench.blocks.features import FrozenEncoder
    from bench.blocks.frozen import FrozenEncoderConfig
    from bench.protocol.fold_data import slide_of

    compute_features(work("test_resnet"), lambda part: None)
    config = FrozenEncoderConfig(encoder="test_resnet", **SETTINGS)
    encoder = FrozenEncoder(config, 0, "cpu")
    monkeypatch.setattr(FrozenEncoder, "_compute", lambda *_: pytest.fail("computed again"))
    values = encoder.encode([slide_of(section) for section in demo])
    assert all(np.isfinite(part).all() for part in values)


@pytest.mark.parametrize(
    ("encoders", "settings", "said"),
    [
        (["unii"], {}, "unknown encoder"),
        (["uni"], {"weights": "pretrained"}, "not on this machine"),
        (["test_resnet"], {"features": "a.h5"}, "unknown setting of frozen encoders 'features'"),
        (["test_resnet"], {"alpha": 1}, "unknown setting of frozen encoders 'alpha'"),
        (["test_resnet"], {"input_size": 2}, "settings of test_resnet"),
    ],
)
def test_what_cannot_be_computed_is_refused(work, encoders, settings, said):
    with pytest.raises(BenchError, match=said) as refusal:
        compute_features(work(*encoders, **settings), lambda part: None)
    assert "\n" not in str(refusal.value)
