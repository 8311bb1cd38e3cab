"""Network and training of HisToGene; tensor names are those of the released checkpoints."""

from __future__ import annotations

import math
from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import DataError
from bench.blocks.attention import PreNormTransformer
from bench.blocks.images import RawPixels, x_first
from bench.blocks.weights import Released, load_strict, numbered, released_tensors, tensor_size
from bench.training.module import TrainingModule


class HisToGeneNetwork(nn.Module):
    """A transformer over the spots of a section, each a linear map of its pixels.

    Parameters
    ----------
    genes
        Panel size.
    edge
        Edge of a patch in pixels.
    position_rows
        Rows of each of the two position tables, N(0, 1) at the start.
    dim, layers, heads, head_dim, hidden, dropout
        Shape of the transformer.
    """

    def __init__(
        self,
        genes: int,
        *,
        edge: int = 112,
        position_rows: int = 64,
        dim: int = 1024,
        layers: int = 8,
        heads: int = 16,
        head_dim: int = 64,
        hidden: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.edge = edge
        self.patch_embedding = nn.Linear(3 * edge**2, dim)
        self.x_embed = nn.Embedding(position_rows, dim)
        self.y_embed = nn.Embedding(position_rows, dim)
        self.dropout = nn.Dropout(dropout)
        self.vit = nn.ModuleDict(
            {"transformer": PreNormTransformer(dim, layers, heads, head_dim, hidden, dropout)}
        )
        self.gene_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, genes))

    @classmethod
    def from_released(cls, source: Released, *, heads: int = 16, dropout: float = 0.1) -> Self:
        """The network with the tensors of a released checkpoint; it tells the other sizes.

        Raises
        ------
        DataError
            A tensor is missing, unexpected or of another shape.
        """
        state, where = released_tensors(source)
        first = "vit.transformer.layers.0"
        values = tensor_size(state, "patch_embedding.weight", 1, where)
        edge = math.isqrt(values // 3)
        if 3 * edge**2 != values:
            raise DataError(
                f"{where}: tensor 'patch_embedding.weight' takes {values} values a patch, which"
                " are no square RGB patch"
            )
        network = cls(
            tensor_size(state, "gene_head.1.weight", 0, where),
            edge=edge,
            position_rows=tensor_size(state, "x_embed.weight", 0, where),
            dim=tensor_size(state, "x_embed.weight", 1, where),
            layers=numbered(state, "vit.transformer.layers."),
            heads=heads,
            head_dim=max(
                1, tensor_size(state, f"{first}.0.fn.to_qkv.weight", 0, where) // 3 // heads
            ),
            hidden=tensor_size(state, f"{first}.1.fn.net.0.weight", 0, where),
            dropout=dropout,
        )
        load_strict(network, state, where)
        return network.eval()

    @property
    def genes(self) -> int:
        """Number of outputs."""
        return self.get_parameter("gene_head.1.bias").shape[0]

    def embed_patches(self, patches: Tensor) -> Tensor:
        """(n, 3 * edge**2) values of :func:`flat_patches` to (n, dim)."""
        return self.patch_embedding(patches)

    def relate(self, embedded: Tensor, position: Tensor) -> Tensor:
        """Predict embedded spots that attend to one another.

        Parameters
        ----------
        embedded : (n, dim), see :meth:`embed_patches`
        position : (n, 2) int64 rows of the two position tables

        Returns
        -------
        (n, genes)
        """
        spots = embedded + self.x_embed(position[:, 0]) + self.y_embed(position[:, 1])
        related = self.vit["transformer"](self.dropout(spots)[None])[0]
        return self.gene_head(related)

    def forward(self, patches: Tensor, position: Tensor) -> Tensor:
        """(n, 3 * edge**2) flat patches of a section and (n, 2) positions to (n, genes)."""
        return self.relate(self.embed_patches(patches), position)


def flat_patches(patches: Tensor, pixels: RawPixels) -> Tensor:
    """Patches as the released network reads them: x first, then y, then the channel.

    Parameters
    ----------
    patches : (n, 3, height, width) uint8 RGB
    pixels : ``raw255`` keeps 0..255, ``rgb01`` divides by 255

    Returns
    -------
    (n, 3 * height * width) float32
    """
    return x_first(patches, pixels).permute(0, 2, 3, 1).flatten(1)


class HisToGeneModule(TrainingModule):
    """Mean squared error, one whole section a step."""

    unit = "section"

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error over spots and genes of a section."""
        patches = flat_patches(batch["patches"], self.settings.pixels)
        return F.mse_loss(self.network(patches, batch["position"]), batch["target"])
