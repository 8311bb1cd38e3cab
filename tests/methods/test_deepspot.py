"""DeepSpot's formula, its bags, and the parts of a patch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import erf

from bench.api import Context, DataError
from bench.blocks.features import FrozenEncoder
from bench.blocks.frozen import FrozenEncoderConfig
from bench.blocks.weights import NETWORK
from bench.methods.deepspot import DeepSpot
from bench.methods.deepspot.network import DeepSpotNetwork, SetDataset, bags, set_loader

LEVELS = ("spot", "spot+parts", "spot+around", "all")


def gelu(values):
    return values * (1 + erf(values / np.sqrt(2))) / 2


def linear(values, layer):
    return values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def phi(network, level, values):
    first, _, _, last = network.phi[level]
    return linear(gelu(linear(values, first)), last)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return DeepSpotNetwork(5, 3, hidden=7, dropout=0.5).double().eval()


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(1)
    drawn = [
        torch.randn(*shape, 5, generator=generator, dtype=torch.float64)
        for shape in ((4,), (4, 9), (4, 6))
    ]
    there = torch.tensor([[True] * 6, [True, False] * 3, [True] + [False] * 5, [False] * 6])
    return dict(zip(("spot", "parts", "around", "there"), (*drawn, there), strict=True))


def test_the_network_is_rho_of_phi_of_a_spot_and_of_the_means_over_its_sets(network, given):
    arrays = {name: values.numpy() for name, values in given.items()}
    around = [
        phi(network, "around", neighbours[there]).mean(axis=0) if there.any() else np.zeros(7)
        for neighbours, there in zip(arrays["around"], arrays["there"], strict=True)
    ]
    levels = [
        phi(network, "spot", arrays["spot"]),
        phi(network, "parts", arrays["parts"]).mean(axis=1),
        np.stack(around),
    ]
    wanted = linear(gelu(np.concatenate(levels, axis=1)), network.rho)
    np.testing.assert_allclose(network(**given).detach().numpy(), wanted, atol=1e-12)
    each_phi = 5 * 7 + 7 + 7 * 7 + 7
    assert sum(p.numel() for p in network.parameters()) == 3 * each_phi + 3 * 7 * 3 + 3


def test_the_order_of_a_set_and_what_is_not_there_change_nothing(network, given):
    before = network(**given)
    order = torch.randperm(9)
    changed = {**given, "parts": given["parts"][:, order]}
    changed["around"] = given["around"].masked_fill(~given["there"][..., None], 99.0).flip(1)
    changed["there"] = given["there"].flip(1)
    torch.testing.assert_close(network(**changed), before)


@pytest.mark.parametrize("levels", LEVELS)
def test_training_starts_at_the_mean_target(given, levels):
    network = DeepSpotNetwork(5, 3, levels=levels, hidden=7).double()
    network.start_from(np.array([1.0, 2.0, 3.0]))
    torch.testing.assert_close(
        network(**given), torch.tensor([[1.0, 2.0, 3.0]] * 4, dtype=torch.float64)
    )


SQUARE = np.stack(np.meshgrid(range(3), range(3)), axis=-1).reshape(-1, 2) * 100.0
HEXAGON = np.array([(0, 0)] + [(np.cos(a), np.sin(a)) for a in np.pi / 3 * np.arange(6)]) * 50


@pytest.mark.parametrize(
    ("spatial", "neighbours", "row", "wanted"),
    [
        (SQUARE, 8, 4, [1, 3, 5, 7, 0, 2, 6, 8]),
        (SQUARE, 8, 0, [1, 3, 4]),
        (SQUARE, 2, 0, [1, 3]),
        (HEXAGON, 8, 0, [1, 2, 3, 4, 5, 6]),
        (np.concatenate([SQUARE, [[900.0, 900.0]]]), 8, 9, []),
        (SQUARE[:1], 8, 0, []),
        (SQUARE[:0], 8, None, []),
    ],
)
def test_a_bag_holds_the_first_ring(spatial, neighbours, row, wanted):
    found = bags(spatial, neighbours, 1.6)
    assert found.shape == (len(spatial), neighbours)
    if row is not None:
        assert sorted(found[row][found[row] >= 0]) == sorted(wanted)
        assert set(found[row][: len(wanted)]) == set(wanted)


def test_neighbours_are_those_of_the_own_section():
    sets = [
        {
            "spot": np.arange(n, dtype=np.float32)[:, None] + start,
            "around": np.roll(np.arange(n), 1)[:, None],
        }
        for n, start in ((3, 0), (4, 100))
    ]
    sets[1]["around"][2] = -1
    spots = SetDataset(sets, [np.zeros((3, 1), np.float32), np.ones((4, 1), np.float32)])
    batch = spots[[0, 2, 3, 5]]
    assert batch["there"].ravel().tolist() == [True, True, True, False]
    assert batch["around"][batch["there"]].ravel().tolist() == [2, 1, 103]
    assert batch["target"].ravel().tolist() == [0, 0, 1, 1]
    seen = [value for b in set_loader(sets, [s["spot"] for s in sets], 3, 0) for value in b["spot"]]
    assert sorted(float(value) for value in seen) == [0, 1, 2, 100, 101, 102, 103]


def test_parts_are_the_squares_of_a_patch_resampled_to_its_size(own_cache, slide):
    settings = FrozenEncoderConfig(
        encoder="test_resnet", weights="none", patch_size=40, input_size=32
    )
    encoder = FrozenEncoder(settings, 0, "cpu")
    (found,) = encoder.encode_parts([slide], 2)
    whole = slide.patch_source.cut(40, 64, "area")
    assert found.shape == (len(slide), 4, encoder.encode([slide])[0].shape[1])
    for part, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        tiles = whole[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        np.testing.assert_allclose(found[:, part], encoder._compute(tiles), rtol=1e-4, atol=1e-5)
    (again,) = encoder.encode_parts([slide], 2)
    np.testing.assert_array_equal(again, found)


def fitted(data, **changes):
    method = DeepSpot(DeepSpot.configure("any", "tiny", changes))
    context = Context(seed=1)
    method.fit(data, context)
    return method, context


@pytest.mark.parametrize("levels", LEVELS)
def test_what_is_saved_predicts_the_same_and_sees_what_its_levels_say(
    data, slide, tmp_path, levels
):
    method, context = fitted(data, levels=levels)
    assert context.idle_parameters == []
    method.save(tmp_path)
    loaded = DeepSpot.load(tmp_path, method.config)
    (before,) = method.predict([slide], Context(seed=1))
    np.testing.assert_array_equal(loaded.predict([slide], Context(seed=1))[0], before)
    spatial = slide.spatial.copy()
    spatial[:2] += 1000
    far = replace(slide, spatial=spatial)
    (moved,) = loaded.predict([far], Context(seed=1))
    assert np.array_equal(moved, before) == (levels in {"spot", "spot+parts"})


def test_a_damaged_file_is_refused(data, tmp_path):
    method, _ = fitted(data, levels="spot")
    method.save(tmp_path)
    path = tmp_path / NETWORK
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=NETWORK):
        DeepSpot.load(tmp_path, method.config)


def test_the_loss_falls_from_the_variance(data):
    _, context = fitted(data, epochs=30, learning_rate=1e-3, dropout=0.0, batch_size=60)
    target = np.concatenate([section.target for section in data.sections])
    losses = [row["train_loss"] for row in context.curves]
    assert losses[0] == pytest.approx(float(target.var(axis=0).mean()), rel=1e-4)
    assert losses[-1] < 0.8 * losses[0]
