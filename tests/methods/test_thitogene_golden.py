import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bench.api import Context, TrainingData
from bench.blocks.graph import neighbour_edges
from bench.blocks.images import x_first
from bench.blocks.weights import NETWORK, save_network
from bench.data.images.patches import PatchSource
from bench.data.inputs import Slide
from bench.methods.thitogene import THItoGene
from bench.methods.thitogene.network import THItoGeneNetwork, squash
from tests.golden_case import GoldenCase

EDGE = 112


@pytest.fixture(scope="module")
def case():
    return GoldenCase("thitogene_a")


@pytest.fixture(scope="module")
def state(case):
    return case.state()


@pytest.fixture(scope="module")
def network(state):
    return THItoGeneNetwork.from_released(state)


@pytest.fixture(scope="module")
def drawn(case):
    """Patches as (n, 3, x, y) uint8, expression, positions."""
    images = case.draw("image").integers(0, 256, size=case.shape("image"), dtype=np.uint8)
    expression = np.log1p(case.draw("expression").poisson(1.0, case.shape("expression")))
    position = case.draw("position").integers(0, 40, size=case.shape("position"))
    return images[0], expression.astype(np.float32)[0], position


@pytest.fixture(scope="module")
def images(drawn):
    """Patches as our store holds them: y before x."""
    return torch.from_numpy(np.ascontiguousarray(drawn[0].transpose(0, 1, 3, 2)))


@pytest.fixture(scope="module")
def position(drawn):
    return torch.from_numpy(drawn[2])


@pytest.fixture(scope="module")
def edges(case):
    return torch.from_numpy(np.stack(np.nonzero(case.arrays["adjacency"])))


def assert_close(case, name, found):
    """With the batch axis of the released arrays, where they have one.

    The released network's own rounding is two thirds of the tolerance on one array: there the
    choice of a kernel decides in single precision, so it gets ten times that rounding, and is held
    to the tolerance in double precision.
    """
    found = np.asarray(found).reshape(case.arrays[name].shape)
    if name != "raw255_prediction" or found.dtype == np.float64:
        case.assert_close(name, found)
        return
    rounding = case.facts["outputs"][name]["float64_run_max_abs_diff"]
    np.testing.assert_allclose(found, case.arrays[name], rtol=0, atol=10 * rounding)


@torch.inference_mode()
def test_prediction_in_double_precision_equals_the_released_one(
    case, state, images, position, edges
):
    network = THItoGeneNetwork.from_released(state).double()
    network.as_released = True
    for pixels, prefix in (("rgb01", ""), ("raw255", "raw255_")):
        fed = x_first(images, pixels).double()
        assert_close(case, f"{prefix}prediction", network(fed, position, edges))


@pytest.fixture
def sound(network, monkeypatch):
    monkeypatch.setattr(network, "as_released", False)


def test_the_graph_equals_the_released_one(case, drawn):
    assert not case.arrays["adjacency_tie_rows"].any()
    spot, neighbour = neighbour_edges(drawn[2], 4)
    found = np.zeros((6, 6))
    found[spot, neighbour] = 1
    np.testing.assert_array_equal(found, case.arrays["adjacency"])


@torch.inference_mode()
def test_dynamic_convolution_equals_the_released_one(case, network, images):
    fed = x_first(images, "rgb01")
    attention = network.odconv2d.attention(fed)
    for part in ("channel", "filter", "spatial", "kernel"):
        assert_close(case, f"dynconv_{part}_attention", getattr(attention, part))
    assert_close(case, "dynconv_mean", network.odconv2d(fed).mean(dim=(2, 3)))


@torch.inference_mode()
def test_capsules_equal_the_released_ones(case, network, images):
    fed = x_first(images, "rgb01")
    layer = network.caps_layer
    primary = []
    hook = layer.primary_caps.register_forward_hook(lambda *seen: primary.append(seen[2]))
    digits = network.embed_images(fed)
    hook.remove()
    assert_close(case, "primary_capsules", primary[0])
    assert_close(case, "digit_capsules", digits)
    raw = network.embed_images(x_first(images, "raw255"))
    assert_close(case, "raw255_digit_capsules", raw)


@torch.inference_mode()
def test_transformer_and_graph_attention_equal_the_released_ones(
    case, network, images, position, edges
):
    placed = network.place(network.embed_images(x_first(images, "rgb01")), position)
    assert_close(case, "vit_input", placed)
    mixed = network.vit(placed)
    assert_close(case, "vit_output", mixed)
    assert_close(case, "gat_output", network.gat(mixed, edges, as_released=True))


@torch.inference_mode()
@pytest.mark.parametrize(("pixels", "prefix"), [("rgb01", ""), ("raw255", "raw255_")])
def test_prediction_and_loss_equal_the_released_ones(
    case, network, drawn, images, position, edges, pixels, prefix
):
    prediction = network(x_first(images, pixels), position, edges)
    assert_close(case, f"{prefix}prediction", prediction)
    loss = F.mse_loss(prediction, torch.from_numpy(drawn[1]))
    assert_close(case, f"{prefix}loss", loss)


@torch.inference_mode()
def test_attention_over_neighbours_equals_the_released_network_with_a_plain_adjacency(
    case, network, sound, images, position, edges
):
    prediction = network(x_first(images, "rgb01"), position, edges)
    assert_close(case, "prediction_adjacency_2d", prediction)


@torch.inference_mode()
def test_a_saved_network_comes_back_as_it_was(network, tmp_path, images, position, edges):
    save_network(network, tmp_path)
    again = THItoGeneNetwork.from_released(tmp_path / NETWORK)
    fed = x_first(images, "raw255")
    assert torch.equal(again(fed, position, edges), network(fed, position, edges))


def test_the_method_predicts_what_the_released_network_does(case, state, drawn, data, tmp_path):
    # The patches lie side by side in one image, rows are y.
    row = np.concatenate(list(drawn[0].transpose(0, 3, 2, 1)), axis=1)
    Image.fromarray(row).save(tmp_path / "row.png")
    centres = np.stack([EDGE * np.arange(6) + EDGE / 2, np.full(6, EDGE / 2)], axis=1)
    source = PatchSource(tmp_path / "row.png", "golden", 10**6, centres)
    slide = Slide("row", drawn[2], centres, EDGE, source)
    panel = TrainingData(tuple(f"G{i}" for i in range(37)), data.train)
    context = Context()
    method = THItoGene.from_released(state, THItoGene.Config(), panel, context)
    (prediction,) = method.predict([slide], Context())
    assert_close(case, "raw255_prediction", prediction)
    assert context.notes == [
        "the checkpoint does not tell heads=16: taken from the settings",
        "thitogene: a released checkpoint is read with as_released=true, which it was trained with",
    ]

    method.save(tmp_path)
    loaded = THItoGene.load(tmp_path, THItoGene.Config(as_released=False))
    np.testing.assert_array_equal(loaded.predict([slide], Context())[0], prediction)


@pytest.mark.parametrize(
    ("genes", "layers", "parameters"), [(785, 4, 63_586_712), (171, 8, 109_136_690)]
)
def test_parameters_are_as_many_as_published(genes, layers, parameters):
    with torch.device("meta"):
        network = THItoGeneNetwork(genes, layers=layers)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_a_squashed_vector_keeps_its_direction_and_is_shorter_than_one():
    vectors = torch.tensor([[3.0, 4.0], [1e-4, 0.0], [0.0, 0.0], [300.0, -400.0]])
    found = squash(vectors)
    length = 1 - np.exp(-5.0)
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.8]) * length)
    torch.testing.assert_close(found[1], torch.tensor([1e-4, 0.0]), rtol=1e-4, atol=0)
    assert torch.equal(found[2], torch.zeros(2))
    torch.testing.assert_close(found[3], torch.tensor([0.6, -0.8]))


def test_squashing_a_zero_vector_has_a_finite_gradient():
    vectors = torch.zeros(2, 3, requires_grad=True)
    squash(vectors).sum().backward()
    assert torch.isfinite(vectors.grad).all()
