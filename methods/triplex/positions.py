"""Positional layers of TRIPLEX: a depthwise convolution over the spots of a section.

Spots lie on a grid of cells, most of which may be empty on a large section: the convolution is
computed at the occupied cells alone and equals the dense one with zeros in the empty cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_GRID_STEP = 20
"""Pixels to which positions are rounded when columns and rows of the grid are counted."""


class PixelPositions(nn.Module):
    """Positional layer of the 2025 network ("APEG"): its output replaces the token.

    The grid has as many columns and rows as the section has different x and y, rounded to
    multiples of 20 pixels. Spots in one cell are averaged and get the same output.

    Parameters
    ----------
    dim, kernel
        Width and edge of the depthwise convolution.
    """

    def __init__(self, dim: int, kernel: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(
        self, tokens: Tensor, position: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """(spots, dim) tokens and (spots, 2) pixel (x, y) to (spots, dim).

        Parameters
        ----------
        grid
            Columns and rows of the grid; those of the section where None.
        """
        cells = grid_cells(position, grid or grid_size(position))
        return sparse_depthwise(tokens, cells, self.proj, average=True)


class ArrayPositions(nn.Module):
    """Positional layer of the CVPR network ("PEGH"): its output is added to the token.

    Spots at one position are added, and each keeps its own token. Rows of the kernel run along
    the second coordinate.
    """

    def __init__(self, dim: int, kernel: int = 3) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(
        self, tokens: Tensor, position: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """(spots, dim) tokens and (spots, 2) whole coordinates to (spots, dim); no `grid`."""
        cells = (position - position.amin(dim=0)).long()
        return tokens + sparse_depthwise(tokens, cells, self.proj1, average=False)


def grid_size(position: Tensor) -> tuple[int, int]:
    """Columns and rows of the grid of a section, from (spots, 2) pixel (x, y)."""
    rounded = (position.float() / _GRID_STEP).round()
    columns, rows = (len(torch.unique(rounded[:, axis])) for axis in (0, 1))
    return columns, rows


def grid_cells(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """(spots, 2) int64 column and row of each spot on a grid stretched over its section."""
    position = position.float()
    low, high = position.amin(dim=0), position.amax(dim=0)
    last = position.new_tensor([grid[0] - 1, grid[1] - 1])
    return ((position - low) / (high - low + 1e-5) * last).round().long()


def sparse_depthwise(tokens: Tensor, cells: Tensor, layer: nn.Conv2d, *, average: bool) -> Tensor:
    """Depthwise convolution with zero padding, at the cells of the tokens.

    Parameters
    ----------
    tokens : (spots, dim)
    cells : (spots, 2) int64 column and row of each token
    layer : convolution with one kernel for each channel
    average : tokens in one cell are averaged; otherwise they are added

    Returns
    -------
    (spots, dim)
    """
    reach = layer.kernel_size[0] // 2
    # A margin, so that a cell beyond the edge is no cell of the row before or after.
    width = int(cells[:, 0].max()) + 1 + 2 * reach
    places = (cells[:, 1] + reach) * width + cells[:, 0] + reach
    occupied, inverse = torch.unique(places, return_inverse=True)
    held = tokens.new_zeros(len(occupied), tokens.shape[1]).index_add(0, inverse, tokens)
    if average:
        held = held / torch.bincount(inverse)[:, None]
    output = torch.zeros_like(held)
    if layer.bias is not None:
        output = output + layer.bias
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            wanted = occupied + (row - reach) * width + column - reach
            found = torch.searchsorted(occupied, wanted).clamp(max=len(occupied) - 1)
            there = (occupied[found] == wanted)[:, None]
            output = output + layer.weight[:, 0, row, column] * (held[found] * there)
    return output[inverse]
