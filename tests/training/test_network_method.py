"""A network of one layer as a NetworkMethod: what the base class gives to its author."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from bench.api import Context, DataError, NetworkConfig, NetworkMethod
from bench.blocks.weights import load_strict, released_tensors, tensor_size
from bench.contract.small_fold import GENES, as_slide, first_spots
from bench.registry import find_methods, method_class
from bench.training.module import TrainingModule


class ColourNetwork(nn.Module):
    """Mean colour of a patch to expression."""

    def __init__(self, genes):
        super().__init__()
        self.genes = genes
        self.head = nn.Linear(3, genes)

    def forward(self, patches):
        return self.head(patches.float().mean(dim=(2, 3)) / 255)


class SpotModule(TrainingModule):
    def loss(self, batch):
        return nn.functional.mse_loss(self.network(batch["patches"]), batch["target"])


class SectionModule(SpotModule):
    unit = "section"


class ColourConfig(NetworkConfig):
    patch_size: int | None = None
    input_size: int | None = 8
    learning_rate: float = 0.05
    batch_size: int = 8
    epochs: int = 3
    patience: int | None = None


class ColourBySpot(NetworkMethod):
    name = "colour"
    Config = ColourConfig
    module: ClassVar = SpotModule

    def build(self, data, context):
        return ColourNetwork(len(data.panel))

    def restore(self, source):
        state, where = released_tensors(source)
        network = ColourNetwork(tensor_size(state, "head.weight", 0, where))
        load_strict(network, state, where)
        return network

    def training_module(self):
        return self.module(self.network, self.config)

    def predict_slide(self, images, **inputs):
        return torch.cat([self.network(part) for part in images])


class ColourBySection(ColourBySpot):
    unit = "section"
    module = SectionModule


@pytest.fixture(scope="module", params=[ColourBySpot, ColourBySection])
def fitted(request, data):
    method, context = request.param(), Context(seed=1)
    method.fit(data, context)
    return method, context


def test_a_method_of_four_functions_fits_and_predicts(fitted, data):
    method, context = fitted
    losses = [row["train_loss"] for row in context.curves]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    slides = [as_slide(data.validation[0]), first_spots(as_slide(data.train[0]), 7)]
    predictions = method.predict(slides, Context(seed=2))
    assert [part.shape for part in predictions] == [(len(slide), GENES) for slide in slides]
    assert all(part.dtype == np.float32 for part in predictions)


def test_it_comes_back_from_its_folder_and_from_a_checkpoint(fitted, data, tmp_path):
    method = fitted[0]
    method.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]
    slides = [as_slide(data.validation[0])]
    (wanted,) = method.predict(slides, Context())
    loaded = type(method).load(tmp_path, method.config)
    np.testing.assert_array_equal(loaded.predict(slides, Context())[0], wanted)
    state = method.network.state_dict()
    released = type(method).from_released(state, method.config, data, Context())
    np.testing.assert_array_equal(released.predict(slides, Context())[0], wanted)
    with pytest.raises(DataError, match=r"6 genes.*has 5"):
        type(method).from_released(
            state, method.config, replace(data, panel=data.panel[:5]), Context()
        )


def test_the_mean_target_is_of_the_sections_that_a_fit_learns_from(data):
    for patience, sections in [(None, data.sections), (1, data.train)]:
        method = ColourBySpot(ColourConfig(patience=patience))
        wanted = np.concatenate([section.target for section in sections]).mean(0, dtype=np.float64)
        np.testing.assert_array_equal(method.mean_target(data), wanted)


NETWORKS = [
    name
    for name, found in sorted(find_methods().items())
    if found.source == "built-in" and issubclass(method_class(name), NetworkMethod)
]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_settings_of_a_network_are_described_by_its_class_or_a_base(name):
    config = method_class(name).Config
    text = "".join(kind.__doc__ or "" for kind in config.__mro__ if kind.__module__ != "builtins")
    assert [field for field in config.model_fields if field not in text] == []
