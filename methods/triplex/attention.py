"""Attention of TRIPLEX and the three encoders made of it; tensor names are those of checkpoints."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bench.blocks.attention import FeedForward, PreNorm

HIDDEN = -65504.0
"""Score of a key that is not there: finite, so that a query without any key averages over all."""


class EncoderShape(NamedTuple):
    """Shape of one encoder.

    Attributes
    ----------
    depth, heads, hidden
        Blocks; heads of a block, which divide the width; width of its feed-forward part.
    dropout
        After the activation and both outputs of a block.
    """

    depth: int
    heads: int
    hidden: int
    dropout: float


def _output(dim: int, heads: int, dropout: float) -> nn.Module:
    """Output projection of an attention; a single head has none, as released."""
    if heads == 1:
        return nn.Identity()
    return nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))


def _to_heads(rows: Tensor, heads: int) -> Tensor:
    """(..., n, heads * width) to (..., heads, n, width)."""
    return rows.unflatten(-1, (heads, -1)).transpose(-2, -3)


def _from_heads(mixed: Tensor) -> Tensor:
    """(..., heads, n, width) to (..., n, heads * width)."""
    return mixed.transpose(-2, -3).flatten(-2)


def _masked_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention of a few tokens, with :data:`HIDDEN` for keys that are not there.

    Parameters
    ----------
    q, k, v : (batch, heads, tokens, width)
    mask : (batch, keys) bool, True where a key exists; None where all do
    bias : (heads, queries, keys), added to the scores

    Returns
    -------
    (batch, heads, queries, width)
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], HIDDEN)
    return scores.softmax(dim=-1) @ v


class TileAttention(nn.Module):
    """Self-attention among the tiles around a spot, with a learned bias for each distance.

    Parameters
    ----------
    dim, heads, dropout
        Width, heads, and dropout of the output.
    tiles
        Tiles along one edge of the neighbourhood.
    """

    index: Tensor

    def __init__(self, dim: int, heads: int, dropout: float, tiles: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_biases = nn.Parameter(torch.zeros(heads, tiles**2))
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = _output(dim, heads, dropout)
        row, column = torch.arange(tiles**2) // tiles, torch.arange(tiles**2) % tiles
        rows, columns = (place[:, None] - place for place in (row, column))
        self.register_buffer("index", tiles * rows.abs() + columns.abs(), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tiles², dim) and (batch, tiles²) bool to (batch, tiles², dim)."""
        q, k, v = (_to_heads(part, self.heads) for part in self.to_qkv(x).chunk(3, dim=-1))
        bias = self.attention_biases[:, self.index]
        return self.to_out(_from_heads(_masked_attention(q, k, v, mask, bias)))


class SectionAttention(nn.Module):
    """Self-attention among all spots of a section.

    No array of spots x spots is made for more than one head at a time: without dropout of the
    weights by :func:`~torch.nn.functional.scaled_dot_product_attention`, with it, on a CPU, head
    by head, and again in the backward pass.

    Parameters
    ----------
    dim, heads, dropout
        Width, heads, and dropout of the output.
    weights_dropout
        Dropout of the attention weights.
    interleaved
        Rows of ``to_qkv`` are head by head and value by value q, k, v, as in the 2025 network;
        otherwise all of q, of k and of v follow one another.
    """

    def __init__(
        self, dim: int, heads: int, dropout: float, weights_dropout: float, *, interleaved: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.weights_dropout = weights_dropout
        self.interleaved = interleaved
        self.always_drops = False
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = _output(dim, heads, dropout)

    def train(self, mode: bool = True) -> SectionAttention:
        """Set the mode; as released, with `always_drops`, dropout stays on in evaluation too."""
        return super().train(mode or self.always_drops)

    def forward(self, x: Tensor) -> Tensor:
        """(spots, dim) to (spots, dim)."""
        rows = self.to_qkv(x)
        if self.interleaved:
            q, k, v = rows.unflatten(-1, (self.heads, -1, 3)).transpose(0, 1).unbind(-1)
        else:
            q, k, v = (_to_heads(part, self.heads) for part in rows.chunk(3, dim=-1))
        return self.to_out(_from_heads(self._attend(q, k, v)))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = self.weights_dropout if self.training else 0.0
        if dropout == 0.0 or not q.is_cpu:
            # Contiguous: the kernels that need no spots x spots array take nothing else.
            q, k, v = (part.contiguous()[None] for part in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)[0]
        heads = zip(q, k, v, strict=True)
        return torch.stack(
            [checkpoint(_dropped, *head, dropout, use_reentrant=False) for head in heads]
        )


def _dropped(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Attention of one head, (spots, width), with dropout of its weights."""
    weights = (q @ k.T * q.shape[-1] ** -0.5).softmax(dim=-1)
    return F.dropout(weights, dropout) @ v


class FusionAttention(nn.Module):
    """Attention of one token to a set of others."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = _output(dim, heads, dropout)

    def forward(self, query: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, 1, dim), (batch, tokens, dim) and (batch, tokens) bool to (batch, 1, dim)."""
        parts = (self.to_q(query), *self.to_kv(tokens).chunk(2, dim=-1))
        q, k, v = (_to_heads(part, self.heads) for part in parts)
        return self.to_out(_from_heads(_masked_attention(q, k, v, mask)))


class TripletStack(nn.Module):
    """Blocks of an attention and a feed-forward part, each pre-normalised and with a residual."""

    def __init__(self, dim: int, attentions: list[nn.Module], shape: EncoderShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(dim, attention),
                    PreNorm(dim, FeedForward(dim, shape.hidden, shape.dropout)),
                ]
            )
            for attention in attentions
        )

    def forward(self, x: Tensor, *inputs: Tensor) -> Tensor:
        """(..., n, dim) to (..., n, dim); `inputs` go to every attention."""
        for layer in self.layers:
            attention, feed_forward = self._parts(layer)
            x = x + attention.fn(attention.norm(x), *inputs)
            x = x + feed_forward(x)
        return x

    @staticmethod
    def _parts(layer: Any) -> Any:
        """Attention and feed-forward part of a block, which hold their normalisation."""
        return layer

    def fuse(self, query: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, 1, dim) after each block has attended to the same (batch, tokens, dim)."""
        for layer in self.layers:
            attention, feed_forward = self._parts(layer)
            # One normalisation for the query and for keys and values.
            attended = attention.fn(attention.norm(query), attention.norm(tokens), mask)
            query = query + attended
            query = query + feed_forward(query)
        return query


class NeighbourEncoder(nn.Module):
    """Blocks over the tiles around a spot."""

    def __init__(self, dim: int, shape: EncoderShape, tiles: int) -> None:
        super().__init__()
        attentions: list[nn.Module] = [
            TileAttention(dim, shape.heads, shape.dropout, tiles) for _ in range(shape.depth)
        ]
        self.layer = TripletStack(dim, attentions, shape)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(batch, tiles², dim) and (batch, tiles²) bool to (batch, tiles², dim)."""
        return self.norm(self.layer(features, mask))


class GlobalEncoder(nn.Module):
    """Blocks over all spots of a section, with a positional layer after the first.

    Parameters
    ----------
    dim, shape
        Width and shape; at least two blocks.
    positional
        Tokens and positions to tokens, see :mod:`bench.methods.triplex.positions`.
    interleaved, weights_dropout
        See :class:`SectionAttention`.
    """

    def __init__(
        self,
        dim: int,
        shape: EncoderShape,
        positional: nn.Module,
        *,
        interleaved: bool,
        weights_dropout: float,
    ) -> None:
        super().__init__()

        def stack(depth: int) -> TripletStack:
            attentions: list[nn.Module] = [
                SectionAttention(
                    dim, shape.heads, shape.dropout, weights_dropout, interleaved=interleaved
                )
                for _ in range(depth)
            ]
            return TripletStack(dim, attentions, shape)

        self.pos_layer = positional
        self.layer1 = stack(1)
        self.layer2 = stack(shape.depth - 1)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, features: Tensor, position: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """(spots, dim) features and (spots, 2) positions of a section to (spots, dim) tokens."""
        tokens = self.pos_layer(self.layer1(features), position, grid)
        return self.norm(self.layer2(tokens))


class FusionEncoder(nn.Module):
    """The token of a spot after attending to its patch and to its neighbourhood."""

    def __init__(self, dim: int, shape: EncoderShape) -> None:
        super().__init__()
        attentions: list[nn.Module] = [
            FusionAttention(dim, shape.heads, shape.dropout) for _ in range(shape.depth)
        ]
        self.fusion_layer = TripletStack(dim, attentions, shape)
        self.norm = nn.LayerNorm(dim)

    def attend(self, query: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, dim) queries, (batch, tokens, dim) and (batch, tokens) bool to (batch, dim)."""
        return self.fusion_layer.fuse(query[:, None], tokens, mask)[:, 0]

    def forward(self, query: Tensor, target: Tensor, neighbours: Tensor, mask: Tensor) -> Tensor:
        """The same blocks on both token sets, their outputs added and normalised."""
        return self.norm(self.attend(query, target) + self.attend(query, neighbours, mask))
