import numpy as np
import pytest
import torch

from bench.blocks.weights import save_network
from bench.methods.triplex.attention import EncoderShape
from bench.methods.triplex.network import TriplexNetwork, triplex_loss
from bench.methods.triplex.positions import grid_cells, grid_size
from tests.golden_case import GoldenCase

MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32)[:, None, None]
STD = np.array((0.229, 0.224, 0.225), dtype=np.float32)[:, None, None]
HEADS = (4, 8, 6)


@pytest.fixture(scope="module")
def case():
    return GoldenCase("triplex_a")


@pytest.fixture(scope="module", params=["released", "saved"])
def network(case, request, tmp_path_factory):
    released = TriplexNetwork.from_released(case.state(), heads=HEADS, mean_over_hidden=True)
    if request.param == "released":
        return released
    folder = tmp_path_factory.mktemp("triplex")
    save_network(released, folder)
    return TriplexNetwork.from_released(
        folder / "network.safetensors", heads=HEADS, mean_over_hidden=True
    )


@pytest.fixture(scope="module")
def inputs(case):
    def integers(key, *bounds):
        return case.draw(key).integers(*bounds, size=case.shape(key))

    def features(key):
        drawn = case.draw(key).standard_normal(case.shape(key)).astype(np.float32)
        return torch.from_numpy(np.maximum(drawn, 0))

    blocks = case.draw("image_blocks").integers(
        0, 256, size=case.shape("image_blocks"), dtype=np.uint8
    )
    images = np.kron(blocks, np.ones((32, 32), dtype=np.uint8)).astype(np.float32) / 255
    mask = integers("mask", 0, 4) > 0
    mask[0], mask[1], mask[:, 12] = True, False, True
    positions = []
    grids = ((49, 42, 7, (900, 400)), (56, 33, 8, (300, 700)))
    for number, (cells, spots, columns, first) in enumerate(grids):
        cell = case.draw(f"cell_{number}").permutation(cells)[:spots]
        place = np.stack([first[0] + 210 * (cell % columns), first[1] + 190 * (cell // columns)], 1)
        positions.append((place + integers(f"jitter_{number}", -12, 13)).astype(np.float32))
    positions[1][1] = positions[1][0]
    positions[1][3] = positions[1][2] + np.array((3, -2))
    pid, sid = integers("pid", 0, 2), integers("sid", 0, 33)
    pid[:3], sid[1:3] = (0, 1, 1), (0, 3)
    expression = np.log1p(case.draw("expression").poisson(1.0, case.shape("expression")))
    return {
        "images": torch.from_numpy((images - MEAN) / STD),
        "neighbours": features("neighbor_features"),
        "mask": torch.from_numpy(mask),
        "features": [features("global_features_0"), features("global_features_1")],
        "positions": [torch.from_numpy(position) for position in positions],
        "pid": torch.from_numpy(pid),
        "sid": torch.from_numpy(sid),
        "expression": torch.from_numpy(expression.astype(np.float32)),
    }


@pytest.fixture(scope="module")
def tokens(network, inputs):
    """Tokens of both sections on the grid of the first, as the released object has them."""
    grid = grid_size(inputs["positions"][0])
    with torch.inference_mode():
        return [
            network.section_tokens(features, position, grid)
            for features, position in zip(inputs["features"], inputs["positions"], strict=True)
        ]


@pytest.fixture(scope="module")
def batch(inputs, tokens):
    """Tokens of the spots of the batch."""
    places = zip(inputs["pid"].tolist(), inputs["sid"].tolist(), strict=True)
    return torch.stack([tokens[section][row] for section, row in places])


@torch.inference_mode()
def test_the_patch_and_its_neighbours_equal_the_released_ones(case, network, inputs):
    feature_map = network.target_encoder(inputs["images"])
    case.assert_close("target_map_mean", feature_map.mean(dim=(2, 3)))
    case.assert_close("target_tokens", network.target_tokens(inputs["images"]))
    attention = network.neighbor_encoder.layer.layers[0][0]
    attended = attention.fn(attention.norm(inputs["neighbours"]), inputs["mask"])
    case.assert_close("neighbor_attention0", attended)
    encoder = network.neighbor_encoder
    case.assert_close("neighbor_tokens", encoder(inputs["neighbours"], inputs["mask"]))
    nothing = torch.zeros(2, 25, dtype=torch.bool)
    case.assert_close("no_neighbor_tokens", encoder(inputs["neighbours"][:2], nothing))


@torch.inference_mode()
def test_the_section_equals_the_released_one_on_a_kept_and_on_its_own_grid(
    case, network, inputs, tokens
):
    grid = grid_size(inputs["positions"][0])
    encoder = network.global_encoder
    case.assert_close("grid_size_0", np.array(grid))
    for number in (0, 1):
        position = inputs["positions"][number]
        case.assert_close(f"grid_cells_{number}", grid_cells(position, grid))
        first = encoder.layer1(inputs["features"][number])
        case.assert_close(f"global_block0_{number}", first)
        case.assert_close(f"global_positional_{number}", encoder.pos_layer(first, position, grid))
        case.assert_close(f"global_tokens_{number}", tokens[number])
    features, position = inputs["features"][1], inputs["positions"][1]
    own = grid_size(position)
    case.assert_close("own_grid_size_1", np.array(own))
    case.assert_close("own_grid_cells_1", grid_cells(position, own))
    positional = encoder.pos_layer(encoder.layer1(features), position)
    case.assert_close("own_grid_positional_1", positional)
    case.assert_close("own_grid_tokens_1", network.section_tokens(features, position))


@torch.inference_mode()
def test_fusion_heads_and_losses_equal_the_released_ones(case, network, inputs, batch):
    case.assert_close("global_batch", batch)
    target = network.target_tokens(inputs["images"])
    around = network.neighbor_encoder(inputs["neighbours"], inputs["mask"])
    fusion = network.fusion_encoder
    case.assert_close("fusion_from_target", fusion.attend(batch, target))
    case.assert_close("fusion_from_neighbor", fusion.attend(batch, around, inputs["mask"]))
    fused = fusion(batch, target, around, inputs["mask"])
    case.assert_close("fusion_tokens", fused)
    case.assert_close("linear", network.fc(fused))
    case.assert_close("linear_target", network.fc_target(target.mean(dim=1)))
    case.assert_close("linear_neighbor", network.fc_neighbor(around.mean(dim=1)))
    case.assert_close("linear_global", network.fc_global(batch))

    outputs = network(inputs["images"], inputs["neighbours"], inputs["mask"], batch)
    for name, output in zip(("", "_target", "_neighbor", "_global"), outputs, strict=True):
        case.assert_close(f"prediction{name}", output)
    for name, value in triplex_loss(outputs, inputs["expression"]).items():
        case.assert_close(name.replace("neighbour", "neighbor"), value)
    predicted = network.predict(inputs["images"], inputs["neighbours"], inputs["mask"], batch)
    torch.testing.assert_close(predicted, outputs.fused, rtol=0, atol=0)


@torch.inference_mode()
def test_inference_equals_the_released_one(case, network, inputs, tokens):
    fixed = (inputs["images"], inputs["neighbours"], inputs["mask"])
    predicted = network.predict(*fixed, tokens[0][inputs["sid"]])
    case.assert_close("inference_prediction", predicted)
    spots = len(inputs["images"])
    features, position = inputs["features"][0][:spots], inputs["positions"][0][:spots]
    grid = grid_size(position)
    case.assert_close("whole_section_grid_size", np.array(grid))
    predicted = network.predict(*fixed, network.section_tokens(features, position))
    case.assert_close("whole_section_prediction", predicted)


@torch.inference_mode()
def test_unordered_spots_give_tokens_in_input_order(network, inputs, tokens):
    order = torch.randperm(len(inputs["features"][1]), generator=torch.Generator().manual_seed(0))
    grid = grid_size(inputs["positions"][0])
    shuffled = network.section_tokens(
        inputs["features"][1][order], inputs["positions"][1][order], grid
    )
    torch.testing.assert_close(shuffled, tokens[1][order], rtol=0, atol=1e-5)


PUBLISHED = {
    ("2025", "her2st"): ((1, 3, 3), (4, 16, 16), (4, 4, 1), 29_294_296, 219),
    ("2025", "cscc"): ((2, 2, 4), (8, 16, 16), (4, 1, 1), 27_722_344, 232),
    ("2025", "stnet"): ((3, 3, 4), (16, 8, 8), (4, 2, 4), 40_320_840, 255),
    ("cvpr", "her2st"): ((1, 5, 4), (4, 8, 4), (4, 4, 4), 43_206_584, None),
    ("cvpr", "cscc"): ((2, 2, 4), (8, 16, 16), (4, 1, 1), 27_459_688, None),
    ("cvpr", "stnet"): ((3, 3, 4), (16, 8, 8), (4, 2, 4), 40_058_184, None),
}


@pytest.mark.parametrize(("variant", "dataset"), PUBLISHED)
def test_parameters_and_tensors_are_as_many_as_published(variant, dataset):
    depth, heads, ratio, parameters, tensors = PUBLISHED[variant, dataset]
    shapes = [EncoderShape(d, h, 512 * r, 0.1) for d, h, r in zip(depth, heads, ratio, strict=True)]
    names = ("fusion", "section", "neighbours")
    with torch.device("meta"):
        network = TriplexNetwork(
            250, dim=512, variant=variant, **dict(zip(names, shapes, strict=True))
        )
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert all(p.requires_grad for p in network.parameters())
    assert tensors is None or len(network.state_dict()) == tensors
