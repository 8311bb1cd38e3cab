"""Parts of TRIPLEX against plain formulas: positional layers, masks, attention, loss."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench.methods.triplex import attention
from bench.methods.triplex.attention import EncoderShape, SectionAttention, TileAttention
from bench.methods.triplex.masks import released_mask, tiles_inside
from bench.methods.triplex.network import TriplexNetwork, TriplexOutputs, triplex_loss
from bench.methods.triplex.positions import ArrayPositions, PixelPositions, grid_cells, grid_size

DIM = 8


def small_network(**changes):
    torch.manual_seed(5)
    shape = EncoderShape(2, 2, 12, 0.1)
    given = {"dim": 16, "fusion": shape, "section": shape, "neighbours": shape, "channels": 2}
    return TriplexNetwork(5, **{**given, **changes})


def dense(layer, tokens, cells, *, average):
    """The convolution on a grid with zeros in the empty cells."""
    columns, rows = (int(cells[:, axis].max()) + 1 for axis in (0, 1))
    grid, held = torch.zeros(rows, columns, tokens.shape[1]), torch.zeros(rows, columns, 1)
    for token, (column, row) in zip(tokens, cells.tolist(), strict=True):
        grid[row, column] += token
        held[row, column] += 1
    grid = grid / held.clamp(min=1) if average else grid
    output = layer(grid.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    return torch.stack([output[row, column] for column, row in cells.tolist()])


@pytest.mark.parametrize("kernel", [1, 3, 5])
@torch.inference_mode()
def test_positions_in_pixels_are_a_dense_convolution_of_cell_means(kernel):
    torch.manual_seed(0)
    tokens, layer = torch.randn(30, DIM), PixelPositions(DIM, kernel)
    position = 300 + 100.0 * torch.randint(0, 7, (30, 2))  # several spots in some cells
    found = layer(tokens, position)
    wanted = dense(layer.proj, tokens, grid_cells(position, grid_size(position)), average=True)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_positions_on_the_array_are_added_and_run_kernel_rows_along_the_second_coordinate():
    torch.manual_seed(0)
    tokens, layer = torch.randn(20, DIM), ArrayPositions(DIM)
    places = torch.randperm(36)[:20]
    position = torch.stack([4 + places // 6, 2 + places % 6], dim=1).float()
    found = layer(tokens, position)
    wanted = tokens + dense(layer.proj1, tokens, position.long() - 2, average=False)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    # By hand: a lone pair, the second spot one step along the second coordinate.
    pair = layer(tokens[:2], torch.tensor([[3.0, 5.0], [3.0, 6.0]]))
    kernel, bias = layer.proj1.weight[:, 0], layer.proj1.bias
    one = tokens[0] + kernel[:, 1, 1] * tokens[0] + kernel[:, 2, 1] * tokens[1] + bias
    torch.testing.assert_close(pair[0], one, rtol=0, atol=1e-6)


def test_a_large_sparse_section_needs_no_grid():
    torch.manual_seed(0)
    position = torch.rand(200, 2) * 1e6  # the grid would have 40,000 cells for each channel
    tokens = torch.randn(200, DIM, requires_grad=True)
    output = PixelPositions(DIM)(tokens, position)
    output.sum().backward()
    assert output.shape == (200, DIM)
    assert torch.isfinite(tokens.grad).all()


LAYOUT = np.arange(25).reshape(5, 5)


def hidden(mask):
    return set(np.flatnonzero(~mask).tolist())


@pytest.mark.parametrize(
    ("x", "y", "outside"),
    [
        (500, 500, []),
        (249, 500, LAYOUT[:, 0]),
        (149, 500, LAYOUT[:, :2]),
        (20, 500, LAYOUT[:, :2]),  # the spot's own column is never hidden
        (751, 500, LAYOUT[:, 4]),
        (851, 500, LAYOUT[:, 3:]),
        (500, 249, LAYOUT[0]),
        (500, 149, LAYOUT[:2]),
        (500, 751, LAYOUT[4]),
        (500, 851, LAYOUT[3:]),
        (250, 750, []),
        (100, 900, np.union1d(LAYOUT[:, :2], LAYOUT[3:])),
    ],
)
def test_tiles_beyond_each_border_are_hidden(x, y, outside):
    (mask,) = tiles_inside(np.array([[x + 0.4, y + 0.4]]), 100, 5, (1000.0, 1000.0))
    assert hidden(mask) == set(np.ravel(outside).astype(int).tolist())


def test_the_released_mask_takes_rows_for_columns_and_measures_from_the_corner():
    def of(x, y):
        return hidden(released_mask(np.array([[x, y]]), 224, 5, (5000.0, 5000.0))[0])

    # The corner lies 560 px before the spot, and ring 2 reaches 560 px further.
    assert of(2500.0, 2500.0) == set()
    assert of(1119.0, 2500.0) == set(LAYOUT[0].tolist())
    assert of(600.0, 2500.0) == set(LAYOUT[:2].ravel().tolist())
    assert of(2500.0, 1119.0) == set(LAYOUT[:, 0].tolist())
    assert of(4999.0, 2500.0) == set()  # the right border is missed by the corner
    # Whatever the scale, the reach is that of tiles of 224 px.
    (mask,) = released_mask(np.array([[900.0, 2500.0]]), 100, 5, (5000.0, 5000.0))
    assert hidden(mask) == set()
    (mask,) = released_mask(np.array([[800.0, 2500.0]]), 100, 5, (5000.0, 5000.0))
    assert hidden(mask) == set(LAYOUT[0].tolist())


def test_the_bias_of_two_tiles_is_that_of_their_distance():
    index = TileAttention(4, 2, 0.0, 3).index
    assert index[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert index[4].tolist() == [4, 3, 4, 1, 0, 1, 4, 3, 4]


def test_head_by_head_is_the_same_attention(monkeypatch):
    torch.manual_seed(0)
    layer = SectionAttention(12, 3, 0.0, 0.5, interleaved=True)
    x = torch.randn(9, 12)
    wanted = layer.eval()(x)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    monkeypatch.setattr(attention.F, "dropout", lambda values, *_: values)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-6)


def test_dropout_that_stays_on_is_that_of_the_section_alone():
    network = small_network(always_drops=True).eval()
    training = [name for name, part in network.named_modules() if part.training]
    assert training
    assert all(name.startswith("global_encoder.layer") and ".0.fn" in name for name in training)
    assert not any(part.training for part in small_network().eval().modules())


def test_hidden_tiles_count_neither_as_keys_nor_in_the_mean():
    torch.manual_seed(0)
    images, tokens = torch.rand(2, 3, 32, 32), torch.randn(2, 16)
    neighbours, mask = torch.randn(2, 25, 16), torch.ones(2, 25, dtype=torch.bool)
    mask[:, :10] = False
    changed = neighbours.clone()
    changed[:, :10] = torch.randn(2, 10, 16)
    network = small_network().eval()
    one, other = (network(images, values, mask, tokens) for values in (neighbours, changed))
    for before, after in zip(one, other, strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=1e-6)
    released = small_network(mean_over_hidden=True).eval()
    released.start_from(np.full(5, 9.0))
    one, other = (released(images, values, mask, tokens) for values in (neighbours, changed))
    assert torch.equal(one.fused, other.fused)
    assert not torch.equal(one.neighbours, other.neighbours)


def test_the_2025_form_predicts_no_negative_value_and_the_cvpr_form_does():
    torch.manual_seed(0)
    given = torch.rand(4, 3, 32, 32), torch.randn(4, 25, 16), torch.ones(4, 25).bool()
    tokens = torch.randn(4, 16)
    for variant in ("2025", "cvpr"):
        outputs = small_network(variant=variant).eval()(*given, tokens)
        lowest = min(float(output.detach().min()) for output in outputs)
        assert (lowest < 0) == (variant == "cvpr")


def test_the_loss_is_its_parts_with_gradients_through_both_sides():
    torch.manual_seed(0)
    outputs = TriplexOutputs(*(torch.rand(4, 5, requires_grad=True) for _ in range(4)))
    target = torch.rand(4, 5)
    parts = triplex_loss(outputs, target, 0.25)
    wanted = functional.mse_loss(outputs.fused, target)
    for output in outputs[1:]:
        wanted = wanted + 0.75 * functional.mse_loss(output, target)
        wanted = wanted + 0.25 * functional.mse_loss(outputs.fused, output)
    torch.testing.assert_close(parts["loss"], wanted)
    parts["distillation_global"].backward()
    assert outputs.fused.grad.any()
    assert outputs.section.grad.any()
