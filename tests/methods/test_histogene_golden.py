import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from bench.api import Context, DataError, Slide
from bench.blocks.weights import save_network
from bench.data.images.patches import PatchSource
from bench.methods.histogene import HisToGene
from bench.methods.histogene.network import HisToGeneNetwork, flat_patches
from tests.golden_case import FOLDER, GoldenCase


@pytest.fixture(scope="module")
def case():
    return GoldenCase("histogene_a")


@pytest.fixture(scope="module")
def network(case):
    return HisToGeneNetwork.from_released(case.state())


@pytest.fixture(scope="module")
def inputs(case):
    drawn = case.draw("image").integers(0, 256, size=case.shape("image"), dtype=np.uint8)
    expression = np.log1p(case.draw("expression").poisson(1.0, case.shape("expression")))
    position = case.draw("position").integers(0, 40, size=case.shape("position"))
    return drawn[0], torch.from_numpy(position), torch.from_numpy(expression.astype(np.float32))


@torch.inference_mode()
def test_network_equals_the_released_one(case, network, inputs):
    drawn, position, expression = inputs
    patches = torch.from_numpy(drawn).float() / 255
    embedded = network.embed_patches(patches)
    case.assert_close("patch_embedding", embedded[None])
    x, y = network.x_embed(position[:, 0])[None], network.y_embed(position[:, 1])[None]
    case.assert_close("x_embedding", x)
    case.assert_close("y_embedding", y)
    transformer = network.vit["transformer"]
    attention, feed_forward = transformer.layers[0]
    spots = embedded[None] + x + y
    case.assert_close("vit_input", spots)
    attended = attention(spots)
    case.assert_close("block0_attention", attended)
    case.assert_close("block0_feedforward", feed_forward(spots + attended))
    case.assert_close("vit_output", transformer(spots))
    prediction = network(patches, position)[None]
    case.assert_close("prediction", prediction)
    case.assert_close("loss", functional.mse_loss(prediction, expression))


@torch.inference_mode()
def test_network_equals_the_released_one_on_unscaled_pixels(case, network, inputs):
    drawn, position, expression = inputs
    patches = torch.from_numpy(drawn).float()
    embedded = network.embed_patches(patches)
    case.assert_close("raw255_patch_embedding", embedded[None])
    spots = embedded + network.x_embed(position[:, 0]) + network.y_embed(position[:, 1])
    case.assert_close("raw255_vit_output", network.vit["transformer"](spots[None]))
    prediction = network(patches, position)[None]
    case.assert_close("raw255_prediction", prediction)
    case.assert_close("raw255_loss", functional.mse_loss(prediction, expression))


def test_method_predicts_what_the_released_code_does(case, network, inputs, data, tmp_path):
    drawn, position, _ = inputs
    pixels = drawn.reshape(-1, 112, 112, 3).transpose(0, 2, 1, 3)  # x first, to rows of pixels
    Image.fromarray(np.concatenate(list(pixels), axis=1)).save(tmp_path / "image.png")
    centres = np.stack([56.0 + 112 * np.arange(len(drawn)), np.full(len(drawn), 56.0)], axis=1)
    source = PatchSource(tmp_path / "image.png", "golden", 10**6, centres)
    slide = Slide("golden", position.numpy(), centres, 224, source)

    panel = replace(data, panel=tuple(f"G{i}" for i in range(37)))
    method = HisToGene.from_released(network.state_dict(), HisToGene.Config(), panel, Context())
    (found,) = method.predict([slide], Context())
    case.assert_close("raw255_prediction", found[None])

    method.save(tmp_path)
    loaded = HisToGene.load(tmp_path, HisToGene.Config())
    np.testing.assert_array_equal(loaded.predict([slide], Context())[0], found)


def test_patches_equal_those_of_the_released_dataset_class(tmp_path):
    facts = json.loads((FOLDER / "patches_a.json").read_text())
    seed = zlib.crc32(f"{facts['seed']}:input:slide".encode())
    shape = facts["inputs"][0]["shape"]
    pixels = np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    centres = np.array(facts["centres_x_y"], dtype=np.float64)
    patches = PatchSource(tmp_path / "slide.png", "histogene", 10**6, centres).cut(112)
    images = torch.from_numpy(np.array(patches)).permute(0, 3, 1, 2)
    flat = flat_patches(images, "raw255").numpy()
    with np.load(FOLDER / "patches_a.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(flat[:, :24], stored["histogene_corner"])
    sums = [zlib.crc32(patch.tobytes()) for patch in flat]
    assert sums == facts["results"]["histogene"]["crc32_per_patch"]


@pytest.mark.parametrize(
    ("genes", "parameters"), [(785, 106_648_337), (171, 106_018_987)], ids=["her2st", "cscc"]
)
def test_parameters_are_as_many_as_published(genes, parameters):
    with torch.device("meta"):
        network = HisToGeneNetwork(genes)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(7)
    return HisToGeneNetwork(
        5, edge=9, position_rows=11, dim=24, layers=3, heads=2, head_dim=6, hidden=20
    ).eval()


@torch.inference_mode()
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_size_is_read_off_the_tensors(small, tmp_path, prefix):
    state = {prefix + name: value for name, value in small.state_dict().items()}
    torch.save(state, tmp_path / "released.pth")
    save_network(small, tmp_path)
    patches, position = torch.rand(4, 243), torch.randint(0, 11, (4, 2))
    for source in (state, tmp_path / "released.pth", tmp_path / "network.safetensors"):
        again = HisToGeneNetwork.from_released(source, heads=2)
        assert torch.equal(again(patches, position), small(patches, position))
        assert (again.genes, again.edge) == (5, 9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gene_head.0.weight": None}, "missing.*gene_head.0.weight"),
        ({"x_embed.weight": None}, "x_embed.weight.*missing"),
        ({"vit.transformer.layers.1.0.fn.to_out.0.bias": None}, "missing.*layers.1.0.fn.to_out.0"),
        ({"coef.0.weight": torch.ones(1)}, "unexpected.*coef.0.weight"),
        ({"y_embed.weight": torch.ones(3, 24)}, r"y_embed.weight.*\(3, 24\)"),
        ({"patch_embedding.weight": torch.ones(24, 244)}, "patch_embedding.weight.*244"),
    ],
    ids=["missing", "other method", "missing in a layer", "unexpected", "reshaped", "no square"],
)
def test_a_checkpoint_of_another_network_is_refused_by_tensor(small, change, said):
    state = {**small.state_dict(), **change}
    with pytest.raises(DataError, match=said):
        HisToGeneNetwork.from_released(
            {name: value for name, value in state.items() if value is not None}, heads=2
        )
