"""Network and training of Hist2ST; tensor names are those of the released checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from bench.api import DataError
from bench.blocks.attention import AttentionBlock
from bench.blocks.graph import neighbour_max, neighbour_mean, neighbour_mean_as_released
from bench.blocks.images import x_first
from bench.blocks.weights import Released, load_strict, numbered, released_tensors, tensor_size
from bench.methods.hist2st.losses import section_losses
from bench.training.module import TrainingModule

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

_NARROWING = 8
"""Channels of the mixer over those it hands on."""


class ConvMixer(nn.Module):
    """Two depthwise convolutions with a residual, then a convolution over channels.

    Parameters
    ----------
    channels
        Of the feature maps.
    kernel
        Edge of the depthwise kernels.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        depthwise: list[nn.Module] = []
        for _ in range(2):
            depthwise += [
                nn.Conv2d(channels, channels, kernel, padding="same", groups=channels),
                nn.BatchNorm2d(channels),
                nn.GELU(),
            ]
        self.dw = nn.Sequential(*depthwise)
        self.pw = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.GELU(), nn.BatchNorm2d(channels)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, side, side) to the same."""
        return self.pw(maps + self.dw(maps))


class GraphLayer(nn.Module):
    """A linear map of the mean over each spot's neighbours, ReLU, unit length.

    A spot's own features do not enter, unless it has no neighbour.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, neighbours: Tensor) -> Tensor:
        """(n, dim) means over neighbours to (n, dim)."""
        return F.normalize(F.relu(F.linear(neighbours, self.weight)), dim=1)


class SpotEncoder(nn.Module):
    """From feature maps to one vector a spot that knows of the others.

    Parameters
    ----------
    dim, channels
        Width of a spot's vector, and channels of its feature maps.
    mixer_kernel, mixer_layers
        Shape of the ConvMixer.
    attention_layers, heads, head_dim, hidden, dropout
        Shape of the attention over all spots.
    graph_layers
        Layers over the graph of neighbours.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        *,
        mixer_kernel: int,
        mixer_layers: int,
        attention_layers: int,
        heads: int,
        head_dim: int,
        hidden: int,
        graph_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(
            *(ConvMixer(channels, mixer_kernel) for _ in range(mixer_layers))
        )
        self.layer2 = nn.Sequential(
            *(
                AttentionBlock(dim, heads, head_dim, hidden, dropout)
                for _ in range(attention_layers)
            )
        )
        self.layer3 = nn.ModuleList(GraphLayer(dim) for _ in range(graph_layers))
        self.jknet = nn.ModuleList([nn.LSTM(dim, dim, 2)])
        self.down = nn.Sequential(nn.Conv2d(channels, channels // _NARROWING, 1), nn.Flatten())

    def narrow(self, maps: Tensor) -> Tensor:
        """(n, channels, side, side) to (n, dim)."""
        # On a CPU depthwise convolutions are several times faster in this order of memory.
        return self.down(self.layer1(maps.contiguous(memory_format=torch.channels_last)))

    def graph(self, spots: Tensor, edges: Tensor, pool: Callable[..., Tensor]) -> Tensor:
        """(n, dim) to the outputs of all graph layers, (graph layers, n, dim)."""
        outputs = []
        for layer in self.layer3:
            spots = layer(pool(spots, edges))
            outputs.append(spots)
        return torch.stack(outputs)

    def join(self, outputs: Tensor) -> Tensor:
        """(graph layers, n, dim), read as a sequence, to (n, dim)."""
        read, _ = self.jknet[0](outputs)
        return read.mean(dim=0)


class Hist2STNetwork(nn.Module):
    """ConvMixer, attention over all spots, and a graph network over neighbouring ones.

    Parameters
    ----------
    genes
        Panel size.
    edge, tile
        Edge in pixels of a patch, and of the tiles it is cut into.
    channels, mixer_kernel, mixer_layers
        Shape of the ConvMixer; a spot's vector has ``(edge // tile)**2 * channels // 8`` values.
    attention_layers, heads, head_dim, hidden, graph_layers, dropout
        See :class:`SpotEncoder`.
    position_rows
        Rows of each of the two position tables, N(0, 1) at the start.
    count_head
        Likelihood of the counts that there are heads for: ``zinb``, ``nb`` or None.
    view_head
        Whether there is a head for the weight of a view in the distillation. Heads without their
        loss would never be trained.
    pooling
        ``mean`` or ``max`` over a spot's neighbours.
    as_released
        A spot without neighbours makes the features of all spots NaN, and is refused by ``max``.
    """

    def __init__(
        self,
        genes: int,
        *,
        edge: int = 112,
        tile: int = 7,
        channels: int = 32,
        mixer_kernel: int = 5,
        mixer_layers: int = 2,
        attention_layers: int = 8,
        heads: int = 16,
        head_dim: int = 64,
        hidden: int = 1024,
        graph_layers: int = 4,
        dropout: float = 0.2,
        position_rows: int = 64,
        count_head: Literal["zinb", "nb"] | None = "zinb",
        view_head: bool = True,
        pooling: Literal["mean", "max"] = "mean",
        as_released: bool = False,
    ) -> None:
        super().__init__()
        self.edge = edge
        self.count_head = count_head
        self.pooling = pooling
        self.as_released = as_released
        dim = (edge // tile) ** 2 * (channels // _NARROWING)
        self.patch_embedding = nn.Conv2d(3, channels, tile, tile)
        self.x_embed = nn.Embedding(position_rows, dim)
        self.y_embed = nn.Embedding(position_rows, dim)
        self.dropout = nn.Dropout(dropout)
        encoder = SpotEncoder(
            dim,
            channels,
            mixer_kernel=mixer_kernel,
            mixer_layers=mixer_layers,
            attention_layers=attention_layers,
            heads=heads,
            head_dim=head_dim,
            hidden=hidden,
            graph_layers=graph_layers,
            dropout=dropout,
        )
        self.vit = nn.ModuleDict({"transformer": encoder})
        if count_head == "nb":
            self.hr = nn.Linear(dim, genes)
            self.hp = nn.Linear(dim, genes)
        elif count_head == "zinb":
            self.mean = nn.Sequential(nn.Linear(dim, genes))
            self.disp = nn.Sequential(nn.Linear(dim, genes))
            self.pi = nn.Sequential(nn.Linear(dim, genes))
        if view_head:
            self.coef = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.gene_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, genes))

    @classmethod
    def from_released(
        cls,
        source: Released,
        *,
        heads: int = 16,
        dropout: float = 0.2,
        pooling: Literal["mean", "max"] = "mean",
        as_released: bool = False,
    ) -> Self:
        """The network with the tensors of a released checkpoint; it tells the other sizes.

        Raises
        ------
        DataError
            A tensor is missing, unexpected or of another shape.
        """
        state, where = released_tensors(source)

        def size(name: str, axis: int) -> int:
            return tensor_size(state, name, axis, where)

        tile = size("patch_embedding.weight", 2)
        dim = size("x_embed.weight", 1)
        channels = size("patch_embedding.weight", 0)
        side = math.isqrt(dim // max(1, channels // _NARROWING))
        if channels % _NARROWING or side**2 * (channels // _NARROWING) != dim:
            raise DataError(
                f"{where}: tensors 'patch_embedding.weight' and 'x_embed.weight': {channels}"
                f" channels of a square of tiles do not make {dim} values"
            )
        inner = size("vit.transformer.layer2.0.attn.fn.to_qkv.weight", 0)
        network = cls(
            size("gene_head.1.weight", 0),
            edge=side * tile,
            tile=tile,
            channels=channels,
            mixer_kernel=size("vit.transformer.layer1.0.dw.0.weight", 2),
            mixer_layers=numbered(state, "vit.transformer.layer1."),
            attention_layers=numbered(state, "vit.transformer.layer2."),
            heads=heads,
            head_dim=max(1, inner // (3 * heads)),
            hidden=size("vit.transformer.layer2.0.ff.fn.net.0.weight", 0),
            graph_layers=numbered(state, "vit.transformer.layer3."),
            dropout=dropout,
            position_rows=size("x_embed.weight", 0),
            count_head=_count_head(state),
            view_head=any(name.startswith("coef.") for name in state),
            pooling=pooling,
            as_released=as_released,
        )
        load_strict(network, state, where)
        return network.eval()

    @property
    def _encoder(self) -> SpotEncoder:
        encoder = self.vit["transformer"]
        assert isinstance(encoder, SpotEncoder)
        return encoder

    @property
    def genes(self) -> int:
        """Number of outputs."""
        return self.get_parameter("gene_head.1.bias").shape[0]

    def embed_patches(self, images: Tensor) -> Tensor:
        """(n, 3, edge, edge) images, see :func:`bench.blocks.images.x_first`, to (n, dim)."""
        maps = self.dropout(self.patch_embedding(images))
        return self._encoder.narrow(maps)

    def relate(self, embedded: Tensor, position: Tensor, edges: Tensor) -> Tensor:
        """What the heads read: embedded spots that know of the others of their section.

        Parameters
        ----------
        embedded : (n, dim), see :meth:`embed_patches`
        position : (n, 2) int64 rows of the two position tables
        edges : (2, edges) int64, see :func:`bench.blocks.graph.neighbour_edges`

        Returns
        -------
        (n, dim)
        """
        encoder = self._encoder
        spots = embedded + self.x_embed(position[:, 0]) + self.y_embed(position[:, 1])
        spots = encoder.layer2(spots[None])[0]
        return encoder.join(encoder.graph(spots, edges, self._pool))

    def _pool(self, values: Tensor, edges: Tensor) -> Tensor:
        if self.pooling == "mean":
            mean = neighbour_mean_as_released if self.as_released else neighbour_mean
            return mean(values, edges)
        if self.as_released and len(edges[0].unique()) < len(values):
            raise DataError(
                "hist2st: a spot has no neighbour, of which the released pooling by maximum"
                " fails (as_released, pooling)"
            )
        return neighbour_max(values, edges)

    def forward(self, images: Tensor, position: Tensor, edges: Tensor) -> Tensor:
        """(n, 3, edge, edge) images of a section, positions and graph to (n, dim) features."""
        return self.relate(self.embed_patches(images), position, edges)

    def counts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, dim) features to mean, dispersion and dropout of the counts, each (n, genes)."""
        return (
            self.mean(features).exp().clamp(1e-5, 1e6),
            F.softplus(self.disp(features)).clamp(1e-4, 1e4),
            self.pi(features).sigmoid(),
        )

    def plain_counts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n, dim) features to log dispersion and logit of the counts, each (n, genes)."""
        return self.hr(features), self.hp(features)


def _count_head(state: Mapping[str, Tensor]) -> Literal["zinb", "nb"] | None:
    if any(name.startswith(("mean.", "disp.", "pi.")) for name in state):
        return "zinb"
    return "nb" if any(name.startswith(("hr.", "hp.")) for name in state) else None


class Hist2STModule(TrainingModule):
    """Squared error, count likelihood and self-distillation, one whole section a step."""

    unit = "section"

    def __init__(self, network: Hist2STNetwork, config: Any) -> None:
        super().__init__(network, config)
        # Given a whole section, each change is drawn once for all of its patches.
        self.change = v2.Compose(
            [v2.RandomGrayscale(0.1), v2.RandomRotation(90), v2.RandomHorizontalFlip(0.2)]
        )

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a section, its parts logged beside it."""
        settings = self.settings
        images = x_first(batch["patches"], settings.pixels)
        views = [self.change(images) for _ in range(settings.views)]
        parts = section_losses(self.network, images, views, batch, counts=settings.zinb > 0)
        weights = {"mse": 1.0, "counts": settings.zinb, "distillation": settings.distillation}
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        self.record(batch, train_loss=loss, **parts)
        return loss

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Squared error alone, by which validation sections are judged."""
        images = x_first(batch["patches"], self.settings.pixels)
        features = self.network(images, batch["position"], batch["edges"])
        return F.mse_loss(self.network.gene_head(features), batch["target"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, its rate lowered every so many epochs."""
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.StepLR(
            optimizer, self.settings.decay_epochs, self.settings.decay
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}
