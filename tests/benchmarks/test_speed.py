"""The benchmark of speed on its smallest settings."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.method import Context
from bench.registry import method_class
from benchmarks.fold import synthetic_fold
from benchmarks.networks import bare, training_parts
from benchmarks.plain_loop import NoPlainLoopError, image_change, plain_batches
from benchmarks.retrieval import after_one_product, spot_by_spot

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"encoder": "test_resnet", "weights": "none", "patch_size": 32, "batch_size": 6}


@pytest.fixture(scope="module")
def fold(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fold")
    return synthetic_fold(folder, spots=30, test_spots=5, genes=7, patch_pixels=32)


def speed(*options):
    command = [sys.executable, "-m", "benchmarks.speed", "--device", "cpu", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_smallest_settings_give_rates_ratios_and_memory(tmp_path):
    output = tmp_path / "speed.json"
    done = speed(
        "--method", "stnet,histogene,mean", "--set", "encoder=test_resnet", "--image-size", "32",
        "--batch", "6", "--genes", "7", "--spots", "24", "--test-spots", "5", "--steps", "1",
        "--encoder", "test_resnet", "--engine", "torch", "--patches", "40",
        "--repeats", "2", "--queries", "20", "--keys", "60", "--plain-set", "stnet.momentum=0.5",
        "--output", str(output),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    stnet, histogene, mean = found["methods"]
    assert stnet["plain_settings"] == {**stnet["settings"], "momentum": 0.5}
    for method in (stnet, histogene):
        training = method["training"]
        for other in ("ceiling", "plain"):
            own, others = training["harness"]["all"], training[other]["all"]
            assert len(own) == 2
            np.testing.assert_allclose(training[f"ratio_to_{other}"]["all"], np.divide(own, others))
        assert method["prediction"]["ratio_to_ceiling"]["lowest"] > 0
        assert training["peak_memory_mb"] > 50
        assert method["notes"] == []
    assert mean["training"] is None
    assert "ceiling" not in mean["prediction"]
    (encoder,) = found["encoders"]
    assert (encoder["encoder"], encoder["engine"], encoder["patches"]) == (
        "test_resnet",
        "torch",
        40,
    )
    assert len(encoder["harness"]["all"]) == len(encoder["cut"]["all"]) == 2
    assert encoder["ratio_to_ceiling"]["lowest"] > 0
    assert found["retrieval"]["largest_difference"] < 1e-5
    assert "mean: no training" in done.stdout


@pytest.mark.slow
def test_an_unknown_method_is_refused_in_one_line():
    done = speed("--method", "nosuch", "--queries", "0")
    assert done.returncode == 2
    assert done.stderr == "bench: unknown method 'nosuch'\n" or (
        done.stderr.startswith("bench: unknown method 'nosuch'; ") and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("name", ["stnet", "histogene"])
def test_the_plain_loop_feeds_what_the_harness_feeds(fold, name):
    kind = method_class(name)
    fields = {k: v for k, v in SMALL.items() if k in kind.Config.model_fields}
    if "augment" in kind.Config.model_fields:
        fields["augment"] = False
    config = kind.configure("", "authors", fields)
    module, loader = training_parts(kind(config), fold.training, Context())
    plain = plain_batches(loader, fold.training.sections, config)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for own in loader:
            other = next(plain)
            assert own.keys() == other.keys()
            for key, value in own.items():
                assert torch.equal(value, other[key]), key
    change = getattr(module, "augment", None)
    with bare(module):
        assert "log" in vars(module)
    assert getattr(module, "augment", None) is change
    assert "log" not in vars(module)


def test_the_plain_loop_refuses_an_augmentation_it_does_not_have():
    with pytest.raises(NoPlainLoopError, match="'blur'"):
        image_change("blur")


def test_quarter_turns_are_all_symmetries_of_the_square():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    change, image = image_change(True), Image.fromarray(pixels)
    turned = {np.asarray(change(image)).tobytes() for _ in range(200)}
    sides = (pixels, pixels[::-1])
    assert turned == {np.rot90(side, turns).tobytes() for side in sides for turns in range(4)}


@pytest.mark.parametrize("loop", [spot_by_spot, after_one_product])
def test_a_loop_weighs_the_nearest_keys_by_the_l1_distance(loop):
    keys = np.array([[1, 0], [4, 0.5], [0, 1], [-1, -1]], dtype=np.float32)
    queries = np.array([[0, 3], [2, 0]], dtype=np.float32)
    values = np.diag([1, 10, 100, 1000]).astype(np.float32)
    # L1 distances: 2 and 6.5 of the first query from keys 2 and 1, 1 and 2.5 of the second from
    # keys 0 and 1.
    first, second = (2 / 6.5) ** 2, (1 / 2.5) ** 2
    wanted = [
        [0, 10 * first / (1 + first), 100 / (1 + first), 0],
        [1 / (1 + second), 10 * second / (1 + second), 0, 0],
    ]
    np.testing.assert_allclose(loop(queries, keys, values, 2), wanted, rtol=1e-6)
