import copy
import math
import zlib

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from bench.blocks.images import to_network_scale
from bench.blocks.retrieval import retrieve
from bench.blocks.weights import NETWORK, save_network
from bench.methods.bleep.network import (
    BleepNetwork,
    cross_entropy_both_ways,
    pair_logits,
    soft_target_loss,
    soft_targets,
)
from tests.golden_case import GoldenCase

IMAGES = [("image", "", 1.0), ("image_blocks", "blocks_", 50.0)]


@pytest.fixture(scope="module")
def case():
    return GoldenCase("bleep_a")


@pytest.fixture(scope="module")
def network(case, tmp_path_factory):
    """The network of a checkpoint as early releases named it, saved and read again."""
    folder = tmp_path_factory.mktemp("checkpoint")
    early = {"module." + key.replace("spot_", "well_"): v for key, v in case.state().items()}
    torch.save(early, folder / "best.pt")
    save_network(BleepNetwork.from_released(folder / "best.pt"), folder)
    return BleepNetwork.from_released(folder / NETWORK)


def test_present_and_early_names_give_the_same_network(case, network):
    present = BleepNetwork.from_released(case.state()).state_dict()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, present.pop(name), rtol=0, atol=0)
    assert not present


def expression(case):
    drawn = np.log1p(case.draw("expression").poisson(1.0, case.shape("expression")))
    return torch.from_numpy(drawn.astype(np.float32))


def images(case, key):
    drawn = case.draw(key).integers(0, 256, size=case.shape(key), dtype=np.uint8)
    if key == "image_blocks":
        drawn = np.kron(drawn, np.ones((32, 32), dtype=np.uint8))
    return to_network_scale(torch.from_numpy(drawn), "imagenet")


@torch.inference_mode()
def outputs(case, network, key, prefix, temperature):
    """All that the case holds of one kind of images."""
    dtype = network.spot_projection.fc.weight.dtype
    features = []
    hook = network.image_encoder.register_forward_hook(lambda *call: features.append(call[-1]))
    pairs = network(images(case, key).to(dtype), expression(case).to(dtype))
    hook.remove()
    logits, targets = pair_logits(*pairs, temperature), soft_targets(*pairs, temperature)
    of_spots, of_images = cross_entropy_both_ways(logits, targets)
    found = {
        "image_features": features[0],
        "image_embeddings": pairs[1],
        "logits": logits,
        "targets": targets,
        "spots_loss": of_spots,
        "images_loss": of_images,
        "loss": soft_target_loss(*pairs, temperature),
    }
    # The spots are the same for both kinds of images and are stored once.
    shared = {} if prefix else {"spot_embeddings": pairs[0]}
    return {prefix + name: value for name, value in found.items()} | shared


@pytest.mark.parametrize(("key", "prefix", "temperature"), IMAGES)
def test_network_and_loss_equal_the_released_ones(case, network, key, prefix, temperature):
    found = outputs(case, network, key, prefix, temperature)
    # Its rounding is that of logits up to 41, above what is allowed a number of its size; the
    # comparison in double precision is the sharper one.
    found.pop("spots_loss", None)
    for name, value in found.items():
        case.assert_close(name, value)


@pytest.mark.parametrize(("key", "prefix", "temperature"), IMAGES)
def test_in_double_precision_the_released_rounding_is_all_that_is_left(
    case, network, key, prefix, temperature
):
    found = outputs(case, copy.deepcopy(network).double(), key, prefix, temperature)
    assert set(found) == {k for k in case.arrays if k.startswith("blocks_") == bool(prefix)}
    for name, value in found.items():
        rounding = case.facts["outputs"][name]["float64_run_max_abs_diff"]
        wanted = case.arrays[name].astype(np.float64)
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1.01 * rounding, err_msg=name)


def test_pixels_equal_the_released_transform():
    case = GoldenCase("patches_a")
    slide = case.draw("slide").integers(0, 256, size=case.shape("slide"), dtype=np.uint8)
    tile = torch.from_numpy(slide[:224, :224]).permute(2, 0, 1)[None]
    found = to_network_scale(tile, "imagenet")[0]
    case.assert_close("bleep_corner", found[:, :4, :4])
    stored = zlib.crc32(found.contiguous().numpy().astype("<f4").tobytes())
    assert stored == case.facts["results"]["bleep"]["crc32_of_transform"]


@pytest.mark.parametrize(("genes", "parameters"), [(785, 24_366_400), (3467, 25_052_992)])
def test_parameters_are_as_many_as_published(genes, parameters):
    assert sum(p.numel() for p in BleepNetwork(genes).parameters()) == parameters


@pytest.fixture(scope="module")
def bank():
    case = GoldenCase("retrieval_a")
    keys = case.draw("spot_key").standard_normal(case.shape("spot_key")).astype(np.float32)
    queries = case.draw("image_query").standard_normal(case.shape("image_query"))
    queries = queries.astype(np.float32) + np.float32(0.5) * keys[: len(queries)]
    values = np.log1p(case.draw("expression_key").poisson(1.0, case.shape("expression_key")))
    values = values.astype(np.float32).astype(np.float64)
    return case, *map(torch.from_numpy, (queries, keys, values))


@pytest.mark.parametrize(
    ("name", "top_k", "weighting"),
    [("simple", 1, "mean"), ("average", 10, "mean"), ("weighted_average", 10, "exponential")],
)
def test_retrieval_equals_the_released_notebook(bank, name, top_k, weighting):
    case, queries, keys, values = bank
    assert case.facts["top_k"] == 10
    for what, of in (("expression", values), ("embedding", keys)):
        found = retrieve(queries, keys, of, top_k=top_k, weighting=weighting)
        case.assert_close(f"bleep_{name}_{what}", found)


def test_exponential_weights_equal_the_released_ones(bank):
    case, queries, keys, _ = bank
    # A bank whose values tell the keys apart shows the weights themselves.
    each = torch.eye(len(keys), dtype=torch.float64)
    weights = retrieve(queries, keys, each, top_k=10, weighting="exponential")[-1]
    nearest = torch.from_numpy(case.arrays["cosine"][-1]).topk(10).indices
    assert float(weights.sum()) == pytest.approx(1)
    # The released ones are not normalised: the key nearest by cosine has exp(-1).
    found = weights[nearest] / weights[nearest[0]] * math.exp(-1)
    case.assert_close("bleep_weights_last_query", found.float())


def plain_loss(spots, images, temperature):
    """The loss in NumPy, without a line of the implementation."""
    logits = np.array([[s @ i for i in images] for s in spots]) / temperature
    alike = np.array([[a @ b for b in images] for a in images])
    alike = alike + np.array([[a @ b for b in spots] for a in spots])
    targets = softmax(alike / (2 * temperature), axis=1)
    of_spots = -(targets * log_softmax(logits, axis=1)).sum(axis=1)
    of_images = -(targets.T * log_softmax(logits.T, axis=1)).sum(axis=1)
    return ((of_spots + of_images) / 2).mean()


@pytest.mark.parametrize(("pairs", "dim", "temperature"), [(2, 3, 1.0), (7, 5, 0.3), (9, 4, 6.0)])
def test_loss_and_its_gradient_equal_an_independent_computation(pairs, dim, temperature):
    rng = np.random.default_rng(pairs)
    spots, images = rng.standard_normal((2, pairs, dim))
    tensors = [torch.from_numpy(part.copy()).requires_grad_() for part in (spots, images)]
    loss = soft_target_loss(*tensors, temperature)
    assert loss.item() == pytest.approx(plain_loss(spots, images, temperature), rel=1e-12)
    loss.backward()
    # The targets are learned from too: a detached target would give another slope.
    step = 1e-6
    for part, tensor in zip((spots, images), tensors, strict=True):
        for place in np.ndindex(part.shape):
            was, ends = part[place], []
            for end in (was + step, was - step):
                part[place] = end
                ends.append(plain_loss(spots, images, temperature))
            part[place] = was
            slope = (ends[0] - ends[1]) / (2 * step)
            assert tensor.grad[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_equal_logits_cost_the_log_of_the_batch_whatever_the_targets():
    torch.manual_seed(0)
    targets = torch.softmax(5 * torch.randn(6, 6), dim=1)
    of_spots, of_images = cross_entropy_both_ways(torch.full((6, 6), 3.0), targets)
    assert (of_spots + of_images).mean().item() / 2 == pytest.approx(math.log(6))
    collapsed = torch.randn(4).expand(6, 4), torch.randn(4).expand(6, 4)
    assert soft_target_loss(*collapsed).item() == pytest.approx(math.log(6))


@torch.inference_mode()
def test_sizes_are_read_off_a_checkpoint():
    torch.manual_seed(7)
    network = BleepNetwork(11, encoder="test_resnet", projection_dim=48).eval()
    patches, spots = torch.rand(3, 3, 32, 32), torch.rand(3, 11)
    restored = BleepNetwork.from_released(network.state_dict(), encoder="test_resnet")
    assert restored.genes == 11
    for found, wanted in zip(restored(patches, spots), network(patches, spots), strict=True):
        assert found.shape == (3, 48)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
