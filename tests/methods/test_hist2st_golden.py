import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api import Context, DataError, Slide
from bench.blocks.graph import neighbour_mean
from bench.blocks.images import x_first
from bench.blocks.weights import save_network
from bench.data.images.patches import PatchSource
from bench.methods.hist2st import Hist2ST
from bench.methods.hist2st.losses import count_loss, distil, section_losses, size_factors
from bench.methods.hist2st.network import Hist2STNetwork
from tests.golden_case import FOLDER, GoldenCase


@pytest.fixture(scope="module")
def case():
    return GoldenCase("hist2st_a")


@pytest.fixture(scope="module")
def network(case):
    return Hist2STNetwork.from_released(case.state())


@pytest.fixture(scope="module")
def pixels(case):
    drawn = case.draw("image").integers(0, 256, size=case.shape("image"), dtype=np.uint8)
    return torch.from_numpy(drawn[0])


@pytest.fixture(scope="module")
def batch(case):
    expression = np.log1p(case.draw("expression").poisson(1.0, case.shape("expression")))
    counts = case.draw("counts").poisson(1.0, case.shape("counts")).astype(np.float32)
    position = case.draw("position").integers(0, 40, size=case.shape("position"))
    return {
        "target": torch.from_numpy(expression.astype(np.float32)),
        "counts": torch.from_numpy(counts),
        "size_factor": torch.from_numpy(size_factors(counts)),
        "position": torch.from_numpy(position),
        "edges": torch.from_numpy(case.arrays["adjacency"]).nonzero().T,
    }


def turned(images):
    """The list of turns that stands for random augmentation."""
    return [
        images,
        images.flip(-1),
        images.flip(-2),
        torch.rot90(images, 1, dims=(-2, -1)),
        images.transpose(-2, -1),
    ]


@torch.inference_mode()
def test_network_equals_the_released_one(case, network, pixels, batch):
    images, position, edges = pixels.float() / 255, batch["position"], batch["edges"]
    case.assert_close("patch_embedding_mean", network.patch_embedding(images).mean(dim=(2, 3)))
    embedded = network.embed_patches(images)
    case.assert_close("mixer_output", embedded)
    encoder = network.vit["transformer"]
    spots = embedded + network.x_embed(position[:, 0]) + network.y_embed(position[:, 1])
    attended = encoder.layer2(spots[None])
    case.assert_close("attention_output", attended)
    layers = encoder.graph(attended[0], edges, neighbour_mean)
    for number, layer in enumerate(layers):
        case.assert_close(f"graph{number}", layer)
    case.assert_close("lstm_output", encoder.jknet[0](layers)[0])
    features = network(images, position, edges)
    case.assert_close("hidden", features)
    case.assert_close("prediction", network.gene_head(features))
    mean, dispersion, dropout = network.counts(features)
    case.assert_close("zinb_mean", mean)
    case.assert_close("zinb_dispersion", dispersion)
    case.assert_close("zinb_dropout", dropout)


@torch.inference_mode()
def test_network_equals_the_released_one_on_unscaled_pixels(case, network, pixels, batch):
    images = pixels.float()
    case.assert_close("raw255_mixer_output", network.embed_patches(images))
    features = network(images, batch["position"], batch["edges"])
    case.assert_close("raw255_hidden", features)
    case.assert_close("raw255_prediction", network.gene_head(features))


@torch.inference_mode()
def test_losses_equal_the_released_training_step(case, network, pixels, batch):
    images = pixels.float() / 255
    case.assert_close("size_factors", batch["size_factor"])
    views = turned(images)
    assert len(views) == len(case.facts["turns"])
    parts = section_losses(network, images, views, batch, counts=True)
    case.assert_close("mse_loss", parts["mse"])
    case.assert_close("count_loss", parts["counts"])
    case.assert_close("distillation_loss", parts["distillation"])
    case.assert_close("loss", parts["mse"] + 0.25 * parts["counts"] + 0.5 * parts["distillation"])

    seen = [network(view, batch["position"], batch["edges"]) for view in views]
    predictions = torch.stack([network.gene_head(features) for features in seen])
    coefficients = torch.stack([network.coef(features) for features in seen])
    case.assert_close("turned_predictions", predictions)
    case.assert_close("turned_coefficients", coefficients)
    case.assert_close("distilled_prediction", distil(predictions, coefficients))

    mean, dispersion, dropout = network.counts(seen[0])
    plain = count_loss(batch["counts"], mean, dispersion, dropout)
    case.assert_close("count_loss_unit_size_factor", plain)
    # The released ridge, which the method leaves at 0.
    ridge = 0.1 * dropout.square().mean()
    case.assert_close("count_loss_ridge_0p1", parts["counts"] + ridge)


def test_method_predicts_what_the_released_code_does(case, network, pixels, batch, data, tmp_path):
    tiles = pixels.numpy().transpose(0, 3, 2, 1)  # channel, x, y to rows of pixels
    Image.fromarray(np.concatenate(list(tiles), axis=1)).save(tmp_path / "image.png")
    centres = np.stack([56.0 + 112 * np.arange(len(tiles)), np.full(len(tiles), 56.0)], axis=1)
    source = PatchSource(tmp_path / "image.png", "golden", 10**6, centres)
    slide = Slide("golden", batch["position"].numpy(), centres, 224, source)

    assert not case.arrays["adjacency_tie_rows"].any()
    config = Hist2ST.Config(graph_radius=None)
    panel = replace(data, panel=tuple(f"G{i}" for i in range(37)))
    method = Hist2ST.from_released(network.state_dict(), config, panel, Context())
    (found,) = method.predict([slide], Context())
    case.assert_close("raw255_prediction", found)

    method.save(tmp_path)
    loaded = Hist2ST.load(tmp_path, config)
    np.testing.assert_array_equal(loaded.predict([slide], Context())[0], found)


@torch.inference_mode()
def test_as_released_is_the_same_while_every_spot_has_a_neighbour(case, network, pixels, batch):
    released = Hist2STNetwork.from_released(network.state_dict(), as_released=True)
    images, position, edges = pixels.float() / 255, batch["position"], batch["edges"]
    features = released(images, position, edges)
    case.assert_close("prediction", released.gene_head(features))
    alone = edges[:, edges[0] != 5]
    assert released(images, position, alone).isnan().all()
    assert network(images, position, alone).isfinite().all()


def test_patches_equal_those_of_the_released_dataset_class(tmp_path):
    facts = json.loads((FOLDER / "patches_a.json").read_text())
    seed = zlib.crc32(f"{facts['seed']}:input:slide".encode())
    shape = facts["inputs"][0]["shape"]
    drawn = np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "slide.png")
    centres = np.array(facts["centres_x_y"], dtype=np.float64)
    patches = PatchSource(tmp_path / "slide.png", "hist2st", 10**6, centres).cut(112)
    images = x_first(torch.from_numpy(np.array(patches)).permute(0, 3, 1, 2), "raw255").numpy()
    with np.load(FOLDER / "patches_a.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(images[:, :, :4, :4], stored["hist2st_corner"])
    sums = [zlib.crc32(patch.tobytes()) for patch in images]
    assert sums == facts["results"]["hist2st"]["crc32_per_patch"]


@pytest.mark.parametrize(
    ("genes", "parameters"), [(785, 75_789_833), (171, 73_272_433)], ids=["her2st", "cscc"]
)
def test_parameters_are_as_many_as_published(genes, parameters):
    with torch.device("meta"):
        network = Hist2STNetwork(genes)
    assert sum(p.numel() for p in network.parameters()) == parameters


def built(**changes):
    torch.manual_seed(7)
    sizes = {
        "edge": 15,
        "tile": 5,
        "channels": 16,
        "mixer_kernel": 3,
        "mixer_layers": 1,
        "attention_layers": 3,
        "heads": 2,
        "head_dim": 6,
        "hidden": 20,
        "graph_layers": 2,
        "position_rows": 11,
    }
    return Hist2STNetwork(4, **{**sizes, **changes}).eval()


@torch.inference_mode()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"count_head": None},
        {"count_head": "nb"},
        {"view_head": False},
        {"mixer_layers": 2, "graph_layers": 1},
    ],
    ids=str,
)
def test_every_size_is_read_off_the_tensors(changes, tmp_path):
    network = built(**changes)
    save_network(network, tmp_path)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    images, position = torch.rand(3, 3, 15, 15), torch.randint(0, 11, (3, 2))
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    for source in (state, tmp_path / "network.safetensors"):
        again = Hist2STNetwork.from_released(source, heads=2)
        found = again(images, position, edges)
        assert torch.equal(found, network(images, position, edges))
        assert torch.equal(again.gene_head(found), network.gene_head(found))
        assert (again.genes, again.edge) == (4, 15)
        assert [n for n, _ in again.named_parameters()] == [
            n for n, _ in network.named_parameters()
        ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x_embed.weight": None}, "x_embed.weight.*missing"),
        ({"coef.2.weight": None}, "missing.*coef.2.weight"),
        ({"pi.0.bias": None}, "missing.*pi.0.bias"),
        ({"vit.transformer.layer3.0.weight": None}, "missing.*layer3.0.weight"),
        ({"patch_embedding.extra": torch.ones(1)}, "unexpected.*patch_embedding.extra"),
        ({"vit.transformer.down.0.bias": torch.ones(3)}, r"down.0.bias.*\(3,\)"),
        ({"patch_embedding.weight": torch.ones(15, 3, 5, 5)}, "15 channels"),
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else "",
)
def test_a_checkpoint_of_another_network_is_refused_by_tensor(change, said):
    state = {**built().state_dict(), **change}
    with pytest.raises(DataError, match=said):
        Hist2STNetwork.from_released(
            {name: value for name, value in state.items() if value is not None}, heads=2
        )
