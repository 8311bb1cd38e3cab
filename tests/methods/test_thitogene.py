import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.api import ConfigError, Context, DataError
from bench.blocks.images import x_first
from bench.contract.small_fold import GENES, SPOTS
from bench.methods.thitogene import THItoGene
from bench.methods.thitogene.network import (
    BatchNorm,
    DigitCapsules,
    DynamicConvolution,
    GraphAttention,
    GraphAttentionHead,
    THItoGeneModule,
    THItoGeneNetwork,
    map_edge,
    softmax_within,
)
from tests.methods.fits import fitted_by, predict

fitted = fitted_by("thitogene")


SMALL = {
    "patch": 32,
    "stem": 2,
    "channels": (4, 4, 8, 8, 16),
    "capsules": 3,
    "capsule_dim": 4,
    "position_rows": 16,
    "layers": 2,
    "heads": 2,
    "head_dim": 4,
    "hidden": 12,
    "gat_heads": 3,
    "gat_dim": 5,
    "gat_out": 7,
    "gene_head_dim": 9,
}
# Spot 4 is nobody's neighbour, spot 3 has none.
EDGES = torch.tensor([[0, 0, 1, 1, 2, 4, 4], [1, 2, 0, 3, 0, 3, 2]])


def small_network(**changes):
    torch.manual_seed(0)
    return THItoGeneNetwork(5, **{**SMALL, **changes}).eval()


@pytest.fixture(scope="module")
def usual(data):
    return fitted(data)


# --- parts of the network, against plain arithmetic


@pytest.mark.parametrize("edge", [32, 30])
@torch.inference_mode()
def test_dynamic_convolution_is_one_convolution_an_image(edge):
    torch.manual_seed(0)
    layer = DynamicConvolution(3, 5, 4).eval()
    images = torch.rand(4, 3, edge, edge)
    attention = layer.attention(images)
    wanted = []
    for n, image in enumerate(images):
        kernel = torch.zeros(5, 3, 4, 4)
        for k in range(4):
            for p in range(16):
                at = (..., p // 4, p % 4)
                share = attention.kernel[n, k] * attention.spatial[n, p]
                kernel[at] += share * layer.weight[(k, *at)]
        scaled = image * attention.channel[n, :, None, None]
        wanted.append(F.conv2d(scaled, kernel, stride=4) * attention.filter[n, :, None, None])
    torch.testing.assert_close(layer(images), torch.stack(wanted))


def test_digit_capsules_route_by_agreement():
    torch.manual_seed(0)
    layer = DigitCapsules(4, 3, 9)
    torch.nn.init.normal_(layer.b)
    capsules = torch.rand(2, 4, 8)
    weight, bias = layer.W.detach().double().numpy(), layer.b.detach().double().numpy()
    wanted = np.zeros((2, 3, 9))
    for n, capsule in enumerate(capsules.double().numpy()):
        votes = np.array([[capsule[i] @ weight[o, i] for i in range(4)] for o in range(3)])
        pairs = np.array([[sum(v @ w for w in of) for v in of] for of in votes]) / 3.0
        share = np.exp(pairs) / np.exp(pairs).sum(axis=0) + bias[:, :, 0]
        for o in range(3):
            total = (share[o][:, None] * votes[o]).sum(axis=0)
            length = np.linalg.norm(total)
            wanted[n, o] = (1 - np.exp(-length)) * total / length
    np.testing.assert_allclose(layer(capsules).detach(), wanted, rtol=1e-4, atol=1e-6)


def dense_head(head, spots, edges, as_released):
    """One head in float64 with the whole matrix of scores, as the published formula has it."""
    weight, a = (p.detach().double().numpy() for p in (head.W, head.a))
    values = spots.double().numpy() @ weight
    width = values.shape[1]
    scores = values @ a[:width] + (values @ a[width:]).T
    scores = np.where(scores > 0, scores, 0.01 * scores)
    linked = np.zeros(scores.shape, dtype=bool)
    linked[tuple(edges.numpy())] = True
    if not as_released:
        alone = ~linked.any(axis=1)
        linked[alone, alone] = True
    scores = np.where(linked, scores, -9e15)
    axis = 0 if as_released else 1
    raised = np.exp(scores - scores.max(axis=axis, keepdims=True))
    mixed = raised / raised.sum(axis=axis, keepdims=True) @ values
    return np.where(mixed > 0, mixed, np.exp(mixed) - 1)


@pytest.mark.parametrize("as_released", [True, False])
@torch.inference_mode()
def test_graph_attention_equals_the_formula_on_whole_matrices(as_released):
    torch.manual_seed(0)
    layer = GraphAttention(6, 2, 5, 4, dropout=0.5).eval()
    spots = torch.randn(5, 6)
    found = [
        dense_head(layer.get_submodule(f"attention_{i}"), spots, EDGES, as_released) for i in (0, 1)
    ]
    joined = torch.from_numpy(np.concatenate(found, axis=1))
    wanted = dense_head(layer.out_att, joined, EDGES, as_released)
    np.testing.assert_allclose(layer(spots, EDGES, as_released), wanted, rtol=1e-4, atol=1e-6)


@torch.inference_mode()
def test_what_one_spot_hears_of_another():
    torch.manual_seed(0)
    head = GraphAttentionHead(6, 4, 0.0)
    spots = torch.randn(5, 6)

    def reached_by(changed, as_released):
        edges = EDGES if as_released else torch.cat([EDGES, torch.tensor([[3], [3]])], dim=1)
        other = spots.clone()
        other[changed] += 1
        apart = head(spots, edges, as_released) - head(other, edges, as_released)
        return set(apart.abs().amax(dim=1).nonzero().flatten().tolist())

    # A spot's own values decide how much it hears of its neighbours.
    assert reached_by(4, as_released=False) == {4}
    assert reached_by(3, as_released=False) == {1, 3, 4}
    # As released, 3 hears nobody but the spot that is nobody's neighbour; that one, everyone.
    assert reached_by(4, as_released=True) == {0, 1, 2, 3, 4}
    assert reached_by(3, as_released=True) == {1, 4}


@pytest.mark.parametrize("as_released", [True, False])
@torch.inference_mode()
def test_a_spot_by_itself_hears_itself(as_released):
    torch.manual_seed(0)
    layer = GraphAttention(6, 2, 5, 4).eval()
    spot = torch.randn(1, 6)
    none = torch.zeros(2, 0, dtype=torch.int64)
    heads = [F.elu(spot @ layer.get_submodule(f"attention_{i}").W) for i in (0, 1)]
    wanted = F.elu(torch.cat(heads, dim=1) @ layer.out_att.W)
    torch.testing.assert_close(layer(spot, none, as_released), wanted)


def test_the_softmax_of_huge_scores_is_finite():
    scores = torch.tensor([1e4, 1e4 - 1, -1e4, 3.0])
    found = softmax_within(scores, torch.tensor([0, 0, 2, 2]), 4)
    wanted = [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0.0, 1.0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("as_released", [True, False])
def test_dropout_of_attention_keeps_its_mean(as_released):
    torch.manual_seed(0)
    head = GraphAttentionHead(3, 2, 0.4)
    torch.nn.init.uniform_(head.W)  # positive values: the ELU lets them through
    spots = torch.rand(5, 3)
    edges = torch.cat([EDGES, torch.tensor([[3], [3]])], dim=1)
    with torch.inference_mode():
        wanted = head.eval()(spots, edges, as_released)
        head.train()
        drawn = torch.stack([head(spots, edges, as_released) for _ in range(4000)])
    assert (drawn.std(dim=0) > 0).all()
    torch.testing.assert_close(drawn.mean(dim=0), wanted, rtol=0.05, atol=0.02)


def test_batch_normalisation_of_a_single_value_takes_the_stored_statistics():
    layer = BatchNorm(3).train()
    layer.running_mean.fill_(2.0)
    layer.running_var.fill_(4.0)
    found = layer(torch.full((1, 3, 1, 1), 6.0))
    torch.testing.assert_close(found, torch.full((1, 3, 1, 1), 2.0))
    assert torch.equal(layer.running_mean, torch.full((3,), 2.0))


def test_the_x_axis_comes_first():
    patches = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
    patches[0, 1, 2, 5] = 51  # row 2, column 5
    raw, scaled = (x_first(patches, pixels) for pixels in ("raw255", "rgb01"))
    assert raw.shape == (1, 3, 6, 4)
    assert raw[0, 1, 5, 2] == 51
    assert scaled[0, 1, 5, 2] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("patch", "stem", "edge"), [(112, 4, 9), (108, 4, 9), (115, 4, 9), (32, 2, 3), (44, 4, 1)]
)
def test_the_last_map_is_as_large_as_the_convolutions_leave_it(patch, stem, edge):
    assert map_edge(patch, stem) == edge
    network = THItoGeneNetwork(5, **{**SMALL, "patch": patch, "stem": stem}).eval()
    with torch.inference_mode():
        assert network.embed_images(torch.rand(2, 3, patch, patch)).shape == (2, 3, 4)


# --- checkpoints


@torch.inference_mode()
@pytest.mark.parametrize(
    "changes", [{}, {"layers": 0}, {"patch": 48, "stem": 3, "capsules": 5, "gat_heads": 11}]
)
def test_sizes_are_read_off_the_tensors(changes):
    network = small_network(**changes)
    again = THItoGeneNetwork.from_released(network.state_dict(), heads=2, as_released=False)
    edge = changes.get("patch", 32)
    images, position = torch.rand(5, 3, edge, edge), torch.randint(0, 16, (5, 2))
    assert again.genes == 5
    assert torch.equal(again(images, position, EDGES), network(images, position, EDGES))
    released = THItoGeneNetwork.from_released(network.state_dict(), heads=2)
    assert released.as_released
    assert not torch.equal(released(images, position, EDGES), network(images, position, EDGES))


def test_tensors_of_parallel_training_are_read():
    network = small_network()
    wrapped = {f"module.{name}": value for name, value in network.state_dict().items()}
    again = THItoGeneNetwork.from_released(wrapped, heads=2)
    assert torch.equal(again.gat.out_att.W, network.gat.out_att.W)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("gat.attention_1.a"), "missing, first 'gat.attention_1.a'"),
        (lambda s: s.pop("caps_layer.digit_caps.W"), "'caps_layer.digit_caps.W' is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected tensors, first 'extra'"),
        (lambda s: s.update({"x_embed.weight": torch.zeros(16, 3)}), "'x_embed.weight' is"),
        (lambda s: s.update({"gat.out_att.W": torch.zeros(3)}), "has only 1 axes"),
    ],
    ids=["missing", "missing size", "extra", "shape", "axes"],
)
def test_a_changed_checkpoint_is_refused_with_the_tensor_named(change, named):
    state = dict(small_network().state_dict())
    change(state)
    with pytest.raises(DataError, match=named):
        THItoGeneNetwork.from_released(state, heads=2)


def test_a_checkpoint_of_another_method_is_refused():
    with pytest.raises(DataError, match=r"'odconv2d\.weight' is missing"):
        THItoGeneNetwork.from_released({"classifier.weight": torch.zeros(3, 4)})


def test_a_checkpoint_of_another_panel_is_refused(data):
    config = THItoGene.configure("tiny", "tiny", {"heads": 2})
    with pytest.raises(DataError, match=f"of 5 genes, the panel of this fold has {GENES}"):
        THItoGene.from_released(small_network().state_dict(), config, data, Context())


# --- the method


def test_the_loss_is_the_mean_squared_error_of_a_section():
    network = small_network()
    module = THItoGeneModule(network, THItoGene.configure("tiny", "tiny"))
    logged = {}
    module.log = lambda name, value, **options: logged.update({name: float(value)})
    batch = {
        "patches": torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8),
        "position": torch.randint(0, 16, (5, 2)),
        "edges": EDGES,
        "target": torch.rand(5, 5),
    }
    with torch.inference_mode():
        loss = module.training_step(batch)
        module.validation_step(batch)
        prediction = network(x_first(batch["patches"], "raw255"), batch["position"], EDGES)
    apart = prediction.double().numpy() - batch["target"].double().numpy()
    assert float(loss) == pytest.approx((apart**2).sum() / 25, rel=1e-5)
    assert logged == {"train_loss": float(loss), "val_loss": float(loss)}


def test_neighbours_matter(usual, slide):
    apart = replace(slide, array_xy=slide.array_xy[:, ::-1].copy())
    reordered = replace(slide, array_xy=np.roll(slide.array_xy, 3, axis=0))
    usual_prediction = predict(usual[0], slide)
    assert not np.array_equal(predict(usual[0], apart), usual_prediction)
    assert not np.array_equal(predict(usual[0], reordered), usual_prediction)


def test_the_attention_of_a_fit_is_kept_when_it_is_loaded(usual, data, slide, tmp_path):
    method, _ = fitted(data, as_released=True)
    method.save(tmp_path)
    loaded = THItoGene.load(tmp_path, usual[0].config)
    np.testing.assert_array_equal(predict(loaded, slide), predict(method, slide))


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_a_folder_that_does_not_say_which_attention_is_refused(usual, tmp_path, content):
    usual[0].save(tmp_path)
    if content is None:
        (tmp_path / "graph.json").unlink()
    else:
        (tmp_path / "graph.json").write_text(content)
    with pytest.raises(DataError, match=r"graph\.json: not a readable record"):
        THItoGene.load(tmp_path, usual[0].config)


def test_the_record_of_the_attention_is_plain(usual, tmp_path):
    usual[0].save(tmp_path)
    assert json.loads((tmp_path / "graph.json").read_text()) == {"as_released": False}


def test_the_last_bias_can_start_at_the_mean_target(data):
    still = {"learning_rate": 1e-12, "epochs": 1}
    method, _ = fitted(data, **still)
    mean = np.concatenate([section.target for section in data.sections]).mean(axis=0)
    bias = method.network.get_parameter("gene_head.3.bias").detach()
    np.testing.assert_allclose(bias, mean, rtol=1e-5)
    method, _ = fitted(data, **still, start_at_mean=False)
    bias = method.network.get_parameter("gene_head.3.bias").detach()
    assert (bias.abs() < 128**-0.5 + 1e-6).all()


def test_early_stopping_keeps_validation_out_of_training(data):
    method, context = fitted(data, patience=1, learning_rate=1e-12)
    assert "val_loss" in context.curves[0]
    mean = np.concatenate([section.target for section in data.train]).mean(axis=0)
    bias = method.network.get_parameter("gene_head.3.bias").detach()
    np.testing.assert_allclose(bias, mean, rtol=1e-5)


def test_positions_outside_of_the_tables_are_refused(usual, data, slide):
    with pytest.raises(ConfigError, match=r"tables have 8 rows \(position_rows\)$"):
        fitted(data, position_rows=8)
    far = replace(slide, array_xy=slide.array_xy + 120)
    with pytest.raises(ConfigError, match=f"section {slide.name} has positions 120 to"):
        predict(usual[0], far)
    with pytest.raises(ConfigError, match="has positions -1 to"):
        predict(usual[0], replace(slide, array_xy=slide.array_xy - 1))


def test_patches_of_another_size_than_in_training_are_refused(data, slide):
    method, _ = fitted(data, input_size=None)
    assert predict(method, slide).shape == (SPOTS, GENES)
    with pytest.raises(ConfigError, match="patches must have the same size"):
        predict(method, replace(slide, patch_pixels=60))


def test_patches_that_are_too_small_are_refused(data):
    with pytest.raises(ConfigError, match="at least 44 px are needed"):
        fitted(data, stem=4)


def test_the_last_filters_must_make_whole_capsules():
    with pytest.raises(ConfigError, match="channels"):
        THItoGene.configure("tiny", "tiny", {"channels": (4, 4, 4, 4, 12)})


def test_authors_settings_by_dataset():
    assert THItoGene.configure("her2st", "authors").layers == 4
    assert THItoGene.configure("cscc", "authors").layers == 8
    assert THItoGene.configure("alex10x", "authors").position_rows == 128
    default = THItoGene.configure("another", "authors")
    assert (default.patch_size, default.input_size, default.pixels) == (112, None, "raw255")
    assert (default.learning_rate, default.epochs, default.dropout) == (1e-5, 200, 0.2)
    assert (default.neighbours, default.position_rows, default.as_released) == (4, 64, False)
