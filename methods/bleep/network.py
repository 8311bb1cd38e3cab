"""Network, loss and training of BLEEP; tensor names are those of the released checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.blocks.attention import ProjectionHead
from bench.blocks.encoders import image_encoder
from bench.blocks.images import to_network_scale
from bench.blocks.weights import Released, load_strict, released_tensors, tensor_size
from bench.training.module import ContrastiveModule


class BleepNetwork(nn.Module):
    """Image encoder with a head, and a head for expression, that meet in one space.

    Parameters
    ----------
    genes
        Panel size.
    encoder, weights
        See :func:`bench.blocks.encoders.image_encoder`.
    projection_dim, dropout
        Shared space, and dropout in the heads.
    """

    def __init__(
        self,
        genes: int,
        *,
        encoder: str = "resnet50",
        weights: str = "none",
        projection_dim: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder(encoder, weights)
        self.image_projection = ProjectionHead(self.image_encoder.features, projection_dim, dropout)
        self.spot_projection = ProjectionHead(genes, projection_dim, dropout)

    @classmethod
    def from_released(
        cls, source: Released, *, encoder: str = "resnet50", dropout: float = 0.1
    ) -> Self:
        """The network with the tensors of a released checkpoint; it tells the other sizes.

        Raises
        ------
        DataError
            A tensor is missing, unexpected or of another shape.
        """
        state, where = released_tensors(source)
        state = _with_present_names(state)
        network = cls(
            tensor_size(state, "spot_projection.projection.weight", 1, where),
            encoder=encoder,
            projection_dim=tensor_size(state, "spot_projection.projection.weight", 0, where),
            dropout=dropout,
        )
        load_strict(network, state, where)
        return network.eval()

    @property
    def genes(self) -> int:
        """Panel size."""
        return self.spot_projection.projection.in_features

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) images, on the scale they are fed at, to (n, projection)."""
        return self.image_projection(self.image_encoder(images))

    def embed_spots(self, expression: Tensor) -> Tensor:
        """(n, genes) to (n, projection)."""
        return self.spot_projection(expression)

    def forward(self, images: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of spots and of their images, each (n, projection)."""
        return self.embed_spots(expression), self.embed_images(images)


def _with_present_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Early checkpoints call a spot a well."""
    renamed = {}
    for name, tensor in state.items():
        present = "spot_" + name.removeprefix("well_") if name.startswith("well_") else name
        # A checkpoint with both names is not a released one; the stray tensor is refused later.
        renamed[name if present in state else present] = tensor
    return renamed


def pair_logits(spots: Tensor, images: Tensor, temperature: float = 1.0) -> Tensor:
    """(n, n) raw dot products over the temperature; spots in rows, images in columns."""
    return spots @ images.T / temperature


def soft_targets(spots: Tensor, images: Tensor, temperature: float = 1.0) -> Tensor:
    """How much each image belongs to each spot, by how alike images and spots are themselves.

    Parameters
    ----------
    spots, images : (n, projection) embeddings of pairs
    temperature : as for the logits

    Returns
    -------
    (n, n); rows, which are spots, sum to 1. Gradients flow through it.
    """
    return F.softmax((images @ images.T + spots @ spots.T) / 2 / temperature, dim=1)


def cross_entropy_both_ways(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of each spot over the images, and of each image over the spots.

    Parameters
    ----------
    logits, targets : (n, n), spots in rows

    Returns
    -------
    tuple of two (n,) tensors. The images' targets are the transposed ones as they are, whose rows
    do not sum to 1.
    """
    of_spots = -(targets * F.log_softmax(logits, dim=1)).sum(dim=1)
    of_images = -(targets * F.log_softmax(logits, dim=0)).sum(dim=0)
    return of_spots, of_images


def soft_target_loss(spots: Tensor, images: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean cross entropy of both ways against the soft targets.

    Logits that tell no pair from another cost log n whatever the targets, since these sum to n.

    Parameters
    ----------
    spots, images : (n, projection) embeddings of pairs
    temperature : divides the dot products of logits and targets
    """
    targets = soft_targets(spots, images, temperature)
    logits = pair_logits(spots, images, temperature)
    of_spots, of_images = cross_entropy_both_ways(logits, targets)
    return (of_spots + of_images).mean() / 2


class BleepModule(ContrastiveModule):
    """Contrastive loss with soft targets on random batches of spots."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss with soft targets of the pairs of a batch."""
        images = to_network_scale(
            batch["patches"], self.settings.pixels, self.network.image_encoder
        )
        of_spots, of_images = self.network(images, batch["expression"])
        return soft_target_loss(of_spots, of_images, self.settings.temperature)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
