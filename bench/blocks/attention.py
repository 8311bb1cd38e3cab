"""Pre-norm self-attention blocks, with the tensor names of the field's released networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PreNorm(nn.Module):
    """Layer normalisation in front of `fn`."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """``fn(norm(x))``."""
        return self.fn(self.norm(x))


class SelfAttention(nn.Module):
    """Multi-head self-attention over the second last axis; no mask, no bias on q, k, v.

    Dropout is on the output alone, not on the attention weights, as in the released networks.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, dim) to (batch, n, dim)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for part in self.to_qkv(x).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(mixed.transpose(-2, -3).flatten(-2))


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return self.net(x)


class AttentionBlock(nn.Module):
    """Self-attention and feed-forward, each pre-normalised and with a residual."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attn = PreNorm(dim, SelfAttention(dim, heads, head_dim, dropout))
        self.ff = PreNorm(dim, FeedForward(dim, hidden, dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, dim) to (batch, n, dim)."""
        x = x + self.attn(x)
        return x + self.ff(x)


class PreNormTransformer(nn.Module):
    """A stack of self-attention and feed-forward, each pre-normalised and with a residual.

    The same computation as :class:`AttentionBlock` repeated, under the tensor names of the
    networks that number the two parts of a layer; there is no normalisation after the last one.

    Parameters
    ----------
    dim, layers, heads, head_dim, hidden, dropout
        Width, depth, and the shape of each layer.
    """

    def __init__(
        self, dim: int, layers: int, heads: int, head_dim: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(dim, SelfAttention(dim, heads, head_dim, dropout)),
                    PreNorm(dim, FeedForward(dim, hidden, dropout)),
                ]
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, dim) to (batch, n, dim)."""
        for layer in self.layers:
            for part in layer.children():
                x = x + part(x)
        return x


class ProjectionHead(nn.Module):
    """To the shared space: ``LayerNorm(Dropout(W2 GELU(p)) + p)`` with ``p = W1 x``."""

    def __init__(self, dim: int, projection: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, projection)
        self.fc = nn.Linear(projection, projection)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(projection)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., projection)."""
        projected = self.projection(x)
        return self.layer_norm(self.dropout(self.fc(F.gelu(projected))) + projected)


def symmetric_contrastive_loss(logits: Tensor, of_columns: float = 0.5) -> Tensor:
    """Weighted mean of the cross entropies of rows and columns against the identity.

    Parameters
    ----------
    logits : (n, n); the pairs are on the diagonal
    of_columns : weight of the columns, from 0 to 1
    """
    pairs = torch.arange(len(logits), device=logits.device)
    rows, columns = F.cross_entropy(logits, pairs), F.cross_entropy(logits.T, pairs)
    if of_columns == 0.5:  # the rounding of the released code
        return (rows + columns) / 2
    return torch.lerp(rows, columns, of_columns)
