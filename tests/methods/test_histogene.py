from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.api import ConfigError, Context, DataError
from bench.contract.small_fold import GENES, SPOTS
from bench.methods.histogene import HisToGene
from bench.methods.histogene.network import HisToGeneModule, HisToGeneNetwork, flat_patches
from tests.methods.fits import fitted_by, predict

fitted = fitted_by("histogene")


@pytest.fixture(scope="module")
def usual(data):
    return fitted(data)


def test_the_loss_is_the_squared_error_of_one_section(data):
    config = HisToGene.configure("small", "tiny", {"dropout": 0.0})
    torch.manual_seed(0)
    network = HisToGeneNetwork(
        GENES, edge=16, dim=32, layers=1, heads=2, head_dim=8, hidden=32, dropout=0.0
    )
    module = HisToGeneModule(network, config)
    logged = {}
    module.log = lambda name, value, **options: logged.update({name: float(value.detach())})
    section = data.train[0]
    patches = torch.from_numpy(section.patches(None, 16).copy()).permute(0, 3, 1, 2)
    position = torch.from_numpy(section.array_xy)
    batch = {"patches": patches, "position": position, "target": torch.from_numpy(section.target)}
    loss = module.training_step(batch)
    with torch.inference_mode():
        prediction = network(flat_patches(patches, "rgb01"), position).numpy()
    wanted = np.square(prediction.astype(np.float64) - section.target).mean()
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert logged["train_loss"] == float(loss.detach())
    module.validation_step(batch)
    assert logged["val_loss"] == pytest.approx(wanted, rel=1e-5)


def test_dropout_is_on_the_embedding_and_off_when_predicting(small_network):
    patches, position = torch.rand(4, 243), torch.randint(0, 11, (4, 2))
    small_network.vit.eval()  # the transformer has dropout of its own
    small_network.dropout.train()
    torch.manual_seed(0)
    first, second = (small_network(patches, position) for _ in range(2))
    assert not torch.equal(first, second)
    small_network.eval()
    first, second = (small_network(patches, position) for _ in range(2))
    assert torch.equal(first, second)


def test_attention_weights_are_not_dropped(small_network):
    attention = small_network.vit["transformer"].layers[0][0].train()
    spots = torch.rand(1, 4, 24)
    assert not torch.equal(attention(spots), attention(spots))
    attention.fn.to_out.eval()
    assert torch.equal(attention(spots), attention(spots))


@pytest.fixture
def small_network():
    torch.manual_seed(7)
    return HisToGeneNetwork(
        5, edge=9, position_rows=11, dim=24, layers=2, heads=2, head_dim=6, hidden=20, dropout=0.5
    )


def test_spots_of_a_slide_attend_to_one_another(usual, slide):
    source = slide.patch_source
    half = replace(
        slide,
        array_xy=slide.array_xy[:10],
        spatial=slide.spatial[:10],
        patch_source=replace(source, centres=source.centres[:10]),
    )
    difference = predict(usual[0], half) - predict(usual[0], slide)[:10]
    assert np.abs(difference).max() > 1e-4


def test_the_released_loader_for_cscc_shows_the_network_one_patch(data, slide):
    method, _ = fitted(data, as_released_cscc=True)
    patches = method.patches(slide)
    np.testing.assert_array_equal(patches[0], slide.patches(None, 16)[0])
    assert not patches[1:].any()
    order = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(SPOTS - 1)])
    shuffled = replace(slide, image_order=order)
    np.testing.assert_array_equal(predict(method, shuffled), predict(method, slide))


@pytest.mark.parametrize(
    ("shift", "said"), [(64, r"B1 has positions 64 to 83.*64 rows"), (-3, "B1 has .* -3")]
)
def test_a_position_outside_the_tables_is_refused(usual, data, slide, shift, said):
    moved = replace(slide, array_xy=slide.array_xy + shift)
    with pytest.raises(ConfigError, match=said):
        predict(usual[0], replace(moved, array_xy=np.maximum(moved.array_xy, min(shift, 64))))
    sections = tuple(replace(s, array_xy=s.array_xy + shift) for s in data.train)
    with pytest.raises(ConfigError, match=r"A1 has positions"):
        fitted(replace(data, train=sections))


def test_patches_need_one_size(data):
    with pytest.raises(ConfigError, match="set input_size, or patch_size in pixels"):
        fitted(data, input_size=None)


def test_a_checkpoint_of_another_panel_or_patch_size_is_refused(usual, data):
    state = usual[0].network.state_dict()
    config = usual[0].config
    released = HisToGene.from_released(state, config, data, Context())
    assert released.network.genes == GENES
    with pytest.raises(DataError, match=r"6 genes.*has 5"):
        HisToGene.from_released(state, config, replace(data, panel=data.panel[:5]), Context())
    other = HisToGene.configure("small", "tiny", {"input_size": 20})
    with pytest.raises(ConfigError, match=r"patches of 16 pixels .* give 20"):
        HisToGene.from_released(state, other, data, Context())


def test_authors_settings():
    config = HisToGene.configure("her2st", "authors")
    assert (config.patch_size, config.input_size, config.pixels) == (112, None, "raw255")
    assert (config.layers, config.heads, config.head_dim, config.hidden) == (8, 16, 64, 2048)
    assert (config.learning_rate, config.epochs, config.dropout) == (1e-5, 100, 0.1)
    assert HisToGene.unit == "section"
