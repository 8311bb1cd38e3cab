import pickle
import random
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.preprocessing import StandardScaler

from bench.api import Context, DataError, TrainingError
from bench.blocks import features as module
from bench.blocks.encoders import image_encoder
from bench.blocks.feature_space import FeatureSpace
from bench.blocks.features import FrozenEncoder
from bench.blocks.frozen import QUICK_ENCODER, FrozenEncoderConfig
from bench.contract.small_fold import SPOTS, as_slide
from bench.encoders.weights import add_weights
from bench.errors import UnknownNameError
from bench.methods.knn import NearestNeighbours
from bench.methods.ridge import Ridge

FEATURES = 96


def settings(**changes):
    return FrozenEncoderConfig(**{**QUICK_ENCODER, "input_size": 32, **changes})


def encode(slide, seed=1, device="cpu", **changes):
    return FrozenEncoder(settings(**changes), seed, device).encode([slide])[0]


def stored(cache):
    return sorted((cache / "features").glob("*")) if (cache / "features").is_dir() else []


def weight_file(path, seed):
    torch.manual_seed(seed)
    save_file(image_encoder("test_resnet", "none").model.state_dict(), path)
    return str(path)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Weights of the small encoder on this machine, as if they had been fetched."""
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "data"))
    path = Path(weight_file(tmp_path / "published.safetensors", 3))
    add_weights("test_resnet", path, lambda of, file: None, revision="abc")


@pytest.fixture
def computed(monkeypatch):
    """Number of patches of each array that an encoder was run on."""
    calls = []
    compute = FrozenEncoder._compute

    def counted(self, patches):
        calls.append(len(patches))
        return compute(self, patches)

    monkeypatch.setattr(FrozenEncoder, "_compute", counted)
    return calls


@pytest.fixture
def pretended(monkeypatch):
    """The same without an encoder, for a device that is not there."""
    calls = []

    def zeros(self, patches):
        calls.append(len(patches))
        return np.zeros((len(patches), 2), dtype=np.float32)

    monkeypatch.setattr(FrozenEncoder, "_compute", zeros)
    return calls


@pytest.mark.parametrize("pixels", ["imagenet", "rgb01", "bgr255"])
def test_features_are_what_the_encoder_says_of_the_patches(own_cache, slide, pixels):
    found = encode(slide, seed=5, pixels=pixels)
    torch.manual_seed(5)
    encoder = image_encoder("test_resnet", "none").eval()
    images = slide.patches(40, 32).transpose(0, 3, 1, 2).astype(np.float32)
    if pixels == "bgr255":
        images = images[:, ::-1].copy()
    else:
        images /= 255
    if pixels == "imagenet":
        mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
        images = (images - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        wanted = encoder(torch.from_numpy(images)).numpy()
    assert found.dtype == np.float32
    assert found.shape == (SPOTS, FEATURES)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_what_is_read_again_is_the_same_bit_for_bit(own_cache, slide, computed):
    first, again = encode(slide), encode(slide)
    np.testing.assert_array_equal(first, again)
    assert again.dtype == np.float32
    assert computed == [SPOTS]
    again[:] = 0
    np.testing.assert_array_equal(encode(slide), first)


def test_methods_folds_and_twins_share_what_was_computed(own_cache, data, slide, computed):
    other_fold = replace(data, train=data.sections[1:], validation=())
    for kind in (Ridge, NearestNeighbours):
        for fold in (data, other_fold):
            method = kind(kind.configure("any", "tiny"))
            method.fit(fold, Context(seed=1))
            method.predict([slide, slide.with_images_shuffled(3)], Context(seed=1))
            method.predict([as_slide(data.train[0])], Context(seed=1))
    assert computed == [SPOTS] * 3
    assert len(stored(own_cache)) == 3


def test_a_shuffled_twin_is_given_the_same_features_at_other_spots(own_cache, slide):
    twin = slide.with_images_shuffled(3)
    np.testing.assert_array_equal(encode(twin), encode(slide)[twin.image_order])


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "test_byobnet"},
        {"weights": "another file"},
        {"weights": "imagenet"},
        {"pixels": "rgb01"},
        {"patch_size": 36},
        {"pooling": "own"},
        {"encoder_args": {"drop_rate": 0.5}},
        {"mean": (0.5, 0.5, 0.5)},
        {"encoder": "timm:test_resnet"},
        {"input_size": 24},
        {"seed": 2},
        {"device": "cuda"},
        {"device": "mps"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("published")
def test_what_decides_the_features_is_in_their_key(own_cache, slide, pretended, tmp_path, change):
    if change.get("weights") == "another file":
        change = {"weights": weight_file(tmp_path / "weights.safetensors", 1)}
    encode(slide)
    encode(slide, **change)
    assert len(pretended) == len(stored(own_cache)) == 2
    encode(slide, **change)
    assert len(pretended) == 2


@pytest.mark.parametrize("library", ["torch", "torchvision", "timm"])
@pytest.mark.parametrize("weights", ["none", "imagenet"])
@pytest.mark.usefixtures("published")
def test_another_release_of_a_library_is_in_the_key(
    own_cache, slide, pretended, monkeypatch, library, weights
):
    encode(slide, weights=weights)
    true = module.version
    monkeypatch.setattr(module, "version", lambda name: "9.9" if name == library else true(name))
    encode(slide, weights=weights)
    assert len(pretended) == 2


def test_a_changed_weight_file_and_a_changed_image_are_in_the_key(
    own_cache, slide, pretended, tmp_path
):
    path = tmp_path / "weights.safetensors"
    encode(slide, weights=weight_file(path, 1))
    encode(slide, weights=weight_file(path, 2))
    source = replace(slide.patch_source, image_hash="another")
    encode(replace(slide, patch_source=source), weights=str(path))
    moved = replace(slide.patch_source, centres=slide.patch_source.centres + 1)
    encode(replace(slide, patch_source=moved), weights=str(path))
    assert len(pretended) == len(stored(own_cache)) == 4


def test_what_does_not_decide_the_features_is_not_in_their_key(
    own_cache, slide, pretended, tmp_path
):
    weights = weight_file(tmp_path / "weights.safetensors", 1)
    encode(slide, weights=weights)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((tmp_path / "weights.safetensors").read_bytes())
    encode(slide, weights=str(moved))
    encode(slide, weights=weights, seed=2)
    encode(slide, weights=weights, clip=2.0)
    encode(slide, weights=weights, patch_size=40)
    encode(replace(slide, name="other"), weights=weights)
    assert pretended == [SPOTS]


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def header_of(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


DAMAGE = {
    "empty": lambda path, good: path.write_bytes(b""),
    "cut": lambda path, good: path.write_bytes(good[: len(good) // 2]),
    "cut at the end": lambda path, good: path.write_bytes(good[:-1]),
    "a bit": lambda path, good: path.write_bytes(flipped(good)),
    "text": lambda path, good: path.write_text("no features"),
    "zeros": lambda path, good: path.write_bytes(bytes(len(good))),
    "bare array": lambda path, good: path.write_bytes(header_of((SPOTS, 2)) + bytes(8 * SPOTS)),
    "no array": lambda path, good: zipped(path, features=b"text"),
    "no header": lambda path, good: zipped(path, features=b"\x93NUMPY\x01\x00\xff\xff{"),
    "vast": lambda path, good: zipped(path, features=header_of((SPOTS, 10**12))),
    "overflowing": lambda path, good: zipped(path, features=header_of((SPOTS, 10**30))),
    "negative": lambda path, good: zipped(path, features=header_of((SPOTS, -1))),
    "short": lambda path, good: zipped(path, features=header_of((SPOTS, 96)) + bytes(4)),
    "other name": lambda path, good: np.savez(path, other=np.zeros((SPOTS, 96), np.float32)),
    "other type": lambda path, good: np.savez(path, features=np.zeros((SPOTS, 96))),
    "other spots": lambda path, good: np.savez(path, features=np.zeros((SPOTS + 1, 96), "f4")),
    "other axes": lambda path, good: np.savez(path, features=np.zeros(SPOTS, "f4")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_computed_again_and_mended(own_cache, slide, computed, damage):
    wanted = encode(slide)
    (path,) = stored(own_cache)
    good = path.read_bytes()
    damage(path, good)
    np.testing.assert_array_equal(encode(slide), wanted)
    assert computed == [SPOTS] * 2
    np.testing.assert_array_equal(encode(slide), wanted)
    assert computed == [SPOTS] * 2
    assert stored(own_cache) == [path]


@pytest.mark.parametrize("bare", [True, False])
def test_no_object_in_a_stored_file_is_brought_to_life(own_cache, slide, tmp_path, bare):
    wanted = encode(slide)
    (path,) = stored(own_cache)
    mark = tmp_path / "ran"
    if bare:
        path.write_bytes(pickle.dumps(Evil(mark)))
    else:
        objects = np.empty((SPOTS, 1), dtype=object)
        objects[:] = Evil(mark)
        np.savez(path, features=objects)
        mark.unlink(missing_ok=True)
    np.testing.assert_array_equal(encode(slide), wanted)
    assert not mark.exists()


def test_nothing_half_written_is_left(own_cache, slide, monkeypatch):
    def interrupted(path, **arrays):
        path.write_bytes(b"PK half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        with pytest.raises(OSError, match="No space"):
            encode(slide)
    assert stored(own_cache) == []
    assert encode(slide).shape == (SPOTS, FEATURES)


def test_features_of_a_weight_file_come_from_that_file(own_cache, slide, tmp_path):
    first = weight_file(tmp_path / "a.safetensors", 1)
    other = weight_file(tmp_path / "b.safetensors", 2)
    imagenet = {"pixels": "imagenet"}  # a network with random weights has no other statistics
    for file, seed in ((first, 1), (other, 2)):
        of_file = encode(slide, seed=9, weights=file, **imagenet)
        np.testing.assert_array_equal(of_file, encode(slide, seed=seed))
    assert not np.array_equal(encode(slide, weights=first), encode(slide, weights=other))


def test_weights_that_cannot_be_had_are_refused_in_one_line(own_cache, slide, tmp_path):
    missing = tmp_path / "nowhere.pth"
    with pytest.raises(DataError, match=re.escape(f"{missing}: weight file is missing")):
        encode(slide, weights=str(missing))
    with pytest.raises(DataError, match="weight file is missing") as refusal:
        encode(slide, weights=str(tmp_path))
    assert "\n" not in str(refusal.value)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights")
    with pytest.raises(DataError, match=re.escape(str(damaged))):
        encode(slide, weights=str(damaged))
    with pytest.raises(UnknownNameError, match="unknown encoder"):
        encode(slide, encoder="no_such_encoder")
    assert stored(own_cache) == []


def test_the_callers_random_state_is_left_as_it_was(own_cache, slide):
    def state():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002 - the very state in question
            random.getstate(),
        )

    torch.manual_seed(3)
    before = state()
    encode(slide)
    assert state() == before


def test_random_weights_follow_from_the_seed_alone(own_cache, slide):
    torch.manual_seed(3)
    first = encode(slide, seed=7)
    (path,) = stored(own_cache)
    path.unlink()
    torch.manual_seed(4)
    np.testing.assert_array_equal(encode(slide, seed=7), first)
    assert not np.array_equal(encode(slide, seed=8), first)


def test_a_section_without_an_image_is_refused_in_one_line(own_cache, slide):
    with pytest.raises(DataError, match=r"section B1: no image") as refusal:
        encode(replace(slide, patch_source=None))
    assert "\n" not in str(refusal.value)


def test_features_that_are_not_finite_are_refused_and_not_kept(own_cache, slide, tmp_path):
    state = image_encoder("test_resnet", "none").model.state_dict()
    state["conv1.0.weight" if "conv1.0.weight" in state else next(iter(state))][:] = torch.nan
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(TrainingError, match=r"section B1: encoder test_resnet .* not finite"):
        encode(slide, weights=str(tmp_path / "broken.safetensors"))
    assert stored(own_cache) == []


def test_a_section_is_read_and_encoded_a_few_patches_at_a_time(own_cache, slide, monkeypatch):
    whole = encode(slide)
    (path,) = stored(own_cache)
    path.unlink()
    sizes = []
    scale = module.to_network_scale

    def watched(images, pixels, encoder):
        sizes.append(len(images))
        return scale(images, pixels, encoder)

    monkeypatch.setattr(module, "_IMAGES_AT_ONCE", 8)
    monkeypatch.setattr(module, "to_network_scale", watched)
    found = encode(slide)
    assert sizes == [8, 8, 4]
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)


def test_a_slide_without_spots_has_no_features(own_cache, slide):
    source = replace(slide.patch_source, centres=slide.patch_source.centres[:0])
    empty = replace(
        slide, array_xy=slide.array_xy[:0], spatial=slide.spatial[:0], patch_source=source
    )
    assert encode(empty).shape == (0, FEATURES)


def test_progress_names_the_section(own_cache, data):
    told = []
    context = Context(seed=1, progress=lambda *report: told.append(report))
    FrozenEncoder(settings(), 1, "cpu").encode(data.train, context)
    assert told == [(0, 2, "features of A1"), (1, 2, "features of A2")]


def test_importing_the_settings_imports_no_heavy_library():
    code = (
        "import sys, bench.blocks.frozen\n"
        "print([m for m in ('torch', 'timm', 'sklearn', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def encoder():
    return FrozenEncoder(settings(clip=None), 1, "cpu")


def test_the_space_standardises_as_scikit_learn_does(encoder):
    rng = np.random.default_rng(0)
    parts = [rng.normal(50, 3, (n, 4)).astype(np.float32) for n in (7, 30, 1)]
    scaler = StandardScaler().fit(np.concatenate(parts).astype(np.float64))
    space = FeatureSpace.fit(encoder, parts)
    np.testing.assert_allclose(space.centre, scaler.mean_)
    np.testing.assert_allclose(space.scale, scaler.scale_)
    found = space.standardise(parts[0])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scaler.transform(parts[0].astype(np.float64)), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1e-30])
def test_a_constant_feature_is_zero(encoder, value):
    constant = np.full((9, 1), value, dtype=np.float32)
    space = FeatureSpace.fit(encoder, [constant])
    np.testing.assert_allclose(space.standardise(constant), 0, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, -1e6, 1e-30])
def test_the_rounding_of_a_constant_feature_is_not_blown_up(encoder, value):
    noisy = np.full((9, 1), value, dtype=np.float32)
    noisy[0] = np.nextafter(noisy[0], np.float32(np.inf))
    values = FeatureSpace.fit(encoder, [noisy]).standardise(noisy)
    assert np.abs(values).max() < 1e-6 * max(1.0, abs(value))


def test_features_are_held_within_the_clip(encoder):
    clipping = FrozenEncoder(settings(clip=2.0), 1, "cpu")
    part = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    far = np.array([[1e6, -1e6, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(
        FeatureSpace.fit(clipping, [part]).standardise(far)[0, :2], [2.0, -2.0]
    )
    assert FeatureSpace.fit(encoder, [part]).standardise(far).max() > 1e5


def test_a_space_remembers_the_seed_of_the_fit(own_cache, slide):
    encoder = FrozenEncoder(settings(), 1, "cpu")
    space = FeatureSpace.fit(encoder, encoder.encode([slide]))
    (wanted,) = space.embed([slide], Context(seed=1))
    (found,) = space.embed([slide], Context(seed=2))
    np.testing.assert_array_equal(found, wanted)


def test_a_saved_space_is_the_same_space(own_cache, slide, tmp_path):
    encoder = FrozenEncoder(settings(), 1, "cpu")
    space = FeatureSpace.fit(encoder, encoder.encode([slide]))
    np.savez(tmp_path / "space.npz", **space.arrays())
    with np.load(tmp_path / "space.npz", allow_pickle=False) as arrays:
        again = FeatureSpace.from_arrays(settings(), arrays)
    (wanted,), (found,) = (s.embed([slide], Context(seed=5)) for s in (space, again))
    np.testing.assert_array_equal(found, wanted)


def test_other_weights_than_those_of_the_fit_are_refused(own_cache, slide, tmp_path):
    path = tmp_path / "weights.safetensors"
    encoder = FrozenEncoder(settings(weights=weight_file(path, 1)), 1, "cpu")
    space = FeatureSpace.fit(encoder, encoder.encode([slide]))
    assert space.embed([slide], Context(seed=1))[0].shape == (SPOTS, FEATURES)
    weight_file(path, 2)
    with pytest.raises(DataError, match="not the one that the method was fitted with"):
        space.embed([slide], Context(seed=1))
