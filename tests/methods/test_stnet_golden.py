import numpy as np
import pytest
import torch

from bench.methods.stnet import colour_statistics
from bench.methods.stnet.network import STNetNetwork, standardise, summed_loss, symmetries
from tests.golden_case import GoldenCase


@pytest.fixture(scope="module")
def case():
    return GoldenCase("stnet_a")


@pytest.fixture(scope="module")
def network(case):
    return STNetNetwork.from_released(case.state())


@pytest.fixture(scope="module")
def colour(case):
    return colour_statistics(drawn(case, "image").transpose(0, 2, 3, 1))


def drawn(case, key):
    images = case.draw(key).integers(0, 256, size=case.shape(key), dtype=np.uint8)
    return np.kron(images, np.ones((32, 32), np.uint8)) if key == "image_blocks" else images


def test_colour_statistics_equal_the_released_ones(case, colour):
    case.assert_close("image_mean", colour[0])
    case.assert_close("image_std", colour[1])


@torch.inference_mode()
@pytest.mark.parametrize(("key", "prefix"), [("image", ""), ("image_blocks", "blocks_")])
def test_network_equals_the_released_one(case, network, colour, key, prefix):
    images = standardise(torch.from_numpy(drawn(case, key)), *colour)
    case.assert_close(f"{prefix}image_features", network.embed(images))
    case.assert_close(f"{prefix}prediction", network(images))


@torch.inference_mode()
def test_loss_equals_the_released_one(case, network, colour):
    images = standardise(torch.from_numpy(drawn(case, "image")), *colour)
    target = np.log1p(case.draw("expression").poisson(1.0, case.shape("expression")))
    target = torch.from_numpy(target.astype(np.float32))
    prediction = network(images)
    case.assert_close("loss", summed_loss(prediction, target))
    case.assert_close("squared_error_per_gene", (prediction - target).square().sum(dim=0))


@torch.inference_mode()
def test_symmetries_equal_the_released_ones(case, network, colour):
    images = standardise(torch.from_numpy(drawn(case, "image_blocks")[:2]), *colour)
    views = torch.stack([network(view) for view in symmetries(images)], dim=1)
    case.assert_close("symmetry_predictions", views)
    case.assert_close("symmetry_average", views.mean(dim=1))


def test_parameters_are_as_many_as_published():
    assert sum(p.numel() for p in STNetNetwork(250).parameters()) == 7_210_106


def test_the_head_starts_at_the_mean_target():
    network = STNetNetwork(3, encoder="test_resnet").eval()
    network.start_from(np.array([1.0, 2.0, 3.0]))
    with torch.inference_mode():
        found = network(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0, 3.0]] * 2))
