"""Network and training of mclSTExp; tensor names are those of the released checkpoints."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor, nn

from bench.blocks.attention import AttentionBlock, ProjectionHead, symmetric_contrastive_loss
from bench.blocks.encoders import image_encoder
from bench.blocks.images import to_network_scale
from bench.blocks.positions import sinusoids
from bench.blocks.weights import (
    Released,
    load_strict,
    numbered,
    released_tensors,
    tensor_size,
)
from bench.training.module import ContrastiveModule


class MclSTExpNetwork(nn.Module):
    """Image encoder and spot encoder that meet in one space.

    Parameters
    ----------
    genes
        Panel size; also the width of the spot encoder.
    encoder, weights
        See :func:`bench.blocks.encoders.image_encoder`.
    position_rows
        Rows of each of the two position tables, N(0, 1) at the start.
    layers, heads, head_dim, projection_dim, dropout
        Shape of the spot encoder and of the shared space.
    temperature
        Divides the dot products.
    """

    def __init__(
        self,
        genes: int,
        *,
        encoder: str = "densenet121",
        weights: str = "none",
        position_rows: int = 65536,
        layers: int = 2,
        heads: int = 8,
        head_dim: int = 64,
        projection_dim: int = 256,
        dropout: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.genes = genes
        self.temperature = temperature
        self.x_embed = nn.Embedding(position_rows, genes)
        self.y_embed = nn.Embedding(position_rows, genes)
        self.image_encoder = image_encoder(encoder, weights)
        self.spot_encoder = nn.Sequential(
            *(AttentionBlock(genes, heads, head_dim, genes, dropout) for _ in range(layers))
        )
        self.image_projection = ProjectionHead(self.image_encoder.features, projection_dim, dropout)
        self.spot_projection = ProjectionHead(genes, projection_dim, dropout)

    @classmethod
    def from_released(
        cls,
        source: Released,
        *,
        encoder: str = "densenet121",
        heads: int = 8,
        dropout: float = 0.0,
        temperature: float = 1.0,
    ) -> Self:
        """The network with the tensors of a released checkpoint; it tells the other sizes.

        Raises
        ------
        DataError
            A tensor is missing, unexpected or of another shape.
        """
        state, where = released_tensors(source)
        inner = 0
        if layers := numbered(state, "spot_encoder."):
            inner = tensor_size(state, "spot_encoder.0.attn.fn.to_qkv.weight", 0, where)
        network = cls(
            tensor_size(state, "x_embed.weight", 1, where),
            encoder=encoder,
            position_rows=tensor_size(state, "x_embed.weight", 0, where),
            layers=layers,
            heads=heads,
            head_dim=max(1, inner // (3 * heads)),
            projection_dim=tensor_size(state, "spot_projection.fc.weight", 0, where),
            dropout=dropout,
            temperature=temperature,
        )
        load_strict(network, state, where)
        return network.eval()

    def fix_positions(self, kind: Literal["none", "sinusoid"]) -> None:
        """Replace the trained position tables by zeros or sinusoids, which are not trained."""
        for table in (self.x_embed, self.y_embed):
            rows, width = table.weight.shape
            fixed = torch.from_numpy(sinusoids(rows, width)) * (kind == "sinusoid")
            table.weight.requires_grad_(False).copy_(fixed)

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) images, on the scale they are fed at, to (n, projection)."""
        return self.image_projection(self.image_encoder(images))

    def embed_spots(self, expression: Tensor, position: Tensor) -> Tensor:
        """Embed spots that attend to one another.

        Parameters
        ----------
        expression : (n, genes)
        position : (n, 2) int64 rows of the two position tables

        Returns
        -------
        (n, projection)
        """
        spots = expression + self.x_embed(position[:, 0]) + self.y_embed(position[:, 1])
        return self.spot_projection(self.spot_encoder(spots[None]))[0]

    def forward(self, images: Tensor, expression: Tensor, position: Tensor) -> Tensor:
        """(n, n) logits: raw dot products over the temperature, spots in rows."""
        spots = self.embed_spots(expression, position)
        return spots @ self.embed_images(images).T / self.temperature


class MclSTExpModule(ContrastiveModule):
    """Symmetric contrastive loss on random batches of spots, which are one sequence each."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Symmetric contrastive loss of the pairs of a batch."""
        images = to_network_scale(
            batch["patches"], self.settings.pixels, self.network.image_encoder
        )
        return symmetric_contrastive_loss(
            self.network(images, batch["expression"], batch["position"]),
            self.settings.image_share,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with L2 decay as released, or AdamW as the paper says."""
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.settings.optimizer]
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return kind(
            trained,
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
