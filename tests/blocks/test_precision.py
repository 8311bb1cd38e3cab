"""Layout and precision of networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.blocks.encoders import image_encoder
from bench.blocks.precision import ImageModule, compile_training, reset, to_device
from bench.method import Context


class Network(nn.Module):
    """An encoder and a head that notes the type of what it is given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = image_encoder("test_resnet", "none")
        self.head = nn.Linear(self.encoder.features, 4)
        self.inside = []
        self.encoder.model.conv1.register_forward_hook(
            lambda module, given, out: self.inside.append(out)
        )

    def forward(self, images):
        return self.head(self.encoder(images))


@pytest.fixture
def network():
    return Network().eval()


@pytest.fixture
def images():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_as_built_a_network_is_plain_torch(network, images):
    network(images)
    assert network.inside[0].dtype == torch.float32
    assert network.inside[0].is_contiguous()


def test_reduced_precision_is_that_of_the_encoder_alone(network, images):
    to_device(network, Context(precision="bf16"))
    found = network(images)
    assert network.inside[0].dtype == torch.bfloat16
    assert network.inside[0].is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in network.parameters())


def test_float32_differs_by_rounding_alone_and_bf16_by_more(network, images):
    plain = network(images)
    full = to_device(network, Context())(images)
    reduced = to_device(network, Context(precision="bf16"))(images)
    scale = plain.abs().max()
    assert (full - plain).abs().max() < 1e-5 * scale
    assert 1e-4 * scale < (reduced - plain).abs().max() < 0.05 * scale


def test_what_was_placed_can_be_as_it_was(network, images):
    plain = network(images)
    reset(to_device(network, Context(precision="bf16")))
    assert torch.equal(network(images), plain)
    assert all(value.is_contiguous() for value in network.parameters())


def test_gradients_are_float32(network, images):
    to_device(network, Context(precision="bf16"))
    network(images).sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in network.encoder.parameters())


def test_doubles_stay_doubles(images):
    network = Network().double().eval()
    assert to_device(network, Context())(images.double()).dtype == torch.float64


def test_an_outer_autocast_does_not_reach_an_encoder_in_float32(network, images):
    to_device(network, Context())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network.encoder(images)
    assert network.inside[0].dtype == torch.float32


def test_networks_without_images_are_moved_alone():
    network = nn.Linear(2, 2)
    assert to_device(network, Context(precision="bf16")) is network
    assert not any(isinstance(part, ImageModule) for part in network.modules())
    assert network(torch.ones(1, 2)).dtype == torch.float32


def test_compiled_parts_are_compiled_in_training_alone(network, images, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: lambda given: function(given) + 1)
    plain = network.encoder(images)
    compile_training(network)
    assert torch.equal(network.encoder(images), plain)
    network.encoder.model.eval()
    network.encoder.training = True
    assert torch.equal(network.encoder(images), plain + 1)
    reset(network)
    assert torch.equal(network.encoder(images), plain)
