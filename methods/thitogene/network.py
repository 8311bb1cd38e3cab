"""Network and training of THItoGene; tensor names are those of the released checkpoints."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import ConfigError
from bench.blocks.attention import PreNormTransformer
from bench.blocks.images import x_first
from bench.blocks.weights import Released, load_strict, numbered, released_tensors, tensor_size
from bench.training.module import TrainingModule

PRIMARY_DIM = 8
"""Values of a primary capsule."""

_LEAKY_SLOPE = 0.01


def map_edge(patch: int, stem: int) -> int:
    """Edge of the last feature map, which one primary capsule convolution covers whole.

    Parameters
    ----------
    patch : edge of a patch in pixels
    stem : edge and stride of the first convolution

    Raises
    ------
    ConfigError
        The patch is too small for the four convolutions.
    """
    edge = (patch // stem - 4 - 2 - 2 - 3) // 2 + 1
    if edge < 1:
        raise ConfigError(
            f"thitogene: patches of {patch} px are too small for a first convolution of {stem} px;"
            f" at least {11 * stem} px are needed (input_size, stem)"
        )
    return edge


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation by its stored statistics where a batch is one value per channel."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of the base class
        """(n, channels, height, width) to the same."""
        if input.numel() > input.shape[1]:
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class DynamicAttention(NamedTuple):
    """How a dynamic convolution weighs its kernels for each of n images.

    Attributes
    ----------
    channel : (n, input channels) in 0..1
    filter : (n, filters) in 0..1
    spatial : (n, kernel height * kernel width) in 0..1
    kernel : (n, kernels), which add up to 1
    """

    channel: Tensor
    filter: Tensor
    spatial: Tensor
    kernel: Tensor


class KernelAttention(nn.Module):
    """The four attentions of a dynamic convolution, from the mean colour of an image."""

    def __init__(
        self, channels: int, filters: int, positions: int, kernels: int, hidden: int
    ) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = BatchNorm(hidden)
        self.channel_fc = nn.Conv2d(hidden, channels, 1)
        self.filter_fc = nn.Conv2d(hidden, filters, 1)
        self.spatial_fc = nn.Conv2d(hidden, positions, 1)
        self.kernel_fc = nn.Conv2d(hidden, kernels, 1)

    def forward(self, images: Tensor) -> DynamicAttention:
        """(n, channels, height, width) to the weights of each image."""
        hidden = F.relu(self.bn(self.fc(F.adaptive_avg_pool2d(images, 1))))
        return DynamicAttention(
            self.channel_fc(hidden).flatten(1).sigmoid(),
            self.filter_fc(hidden).flatten(1).sigmoid(),
            self.spatial_fc(hidden).flatten(1).sigmoid(),
            self.kernel_fc(hidden).flatten(1).softmax(dim=1),
        )


class DynamicConvolution(nn.Module):
    """Omni-dimensional dynamic convolution whose windows touch without overlapping.

    Every image is convolved with a kernel of its own: a mixture of several, weighed along input
    channels, filters and positions (Li et al., ICLR 2022).
    """

    def __init__(
        self, channels: int, filters: int, size: int, kernels: int = 4, hidden: int = 16
    ) -> None:
        super().__init__()
        self.size = size
        self.attention = KernelAttention(channels, filters, size * size, kernels, hidden)
        self.weight = nn.Parameter(torch.empty(kernels, filters, channels, size, size))
        for kernel in self.weight:
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, filters, h // size, w // size)."""
        attention = self.attention(images)
        kernels = torch.einsum("nk,kfcp->nfcp", attention.kernel, self.weight.flatten(-2))
        kernels = kernels * attention.spatial[:, None, None, :]
        kernels = kernels * attention.channel[:, None, :, None]
        kernels = kernels * attention.filter[:, :, None, None]
        height, width = (edge - edge % self.size for edge in images.shape[-2:])
        windows = F.pixel_unshuffle(images[..., :height, :width], self.size)
        # One matrix product an image: a grouped convolution of n groups takes many times longer.
        outputs = kernels.flatten(2) @ windows.flatten(2)
        return outputs.unflatten(2, windows.shape[-2:])


def squash(capsules: Tensor) -> Tensor:
    """(..., dim) vectors at their direction, their length l made ``1 - exp(-l)``."""
    length = torch.linalg.vector_norm(capsules, dim=-1, keepdim=True)
    length = length.clamp_min(torch.finfo(length.dtype).tiny)
    return capsules * (-torch.expm1(-length) / length)


class PrimaryCapsules(nn.Module):
    """One kernel as large as the map for each channel; eight channels are a capsule."""

    def __init__(self, channels: int, edge: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, edge, groups=channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, edge, edge) to (n, channels / 8, 8)."""
        edge = self.depthwise_conv.kernel_size[0]
        if maps.shape[-2:] != (edge, edge):
            raise ConfigError(
                f"thitogene: the last feature map is {tuple(maps.shape[-2:])}, not ({edge}, {edge})"
                " as in training; patches must have the same size (patch_size, input_size)"
            )
        return squash(self.depthwise_conv(maps).flatten(1).unflatten(1, (-1, PRIMARY_DIM)))


class DigitCapsules(nn.Module):
    """Capsules whose inputs are routed by how much they agree with one another, in one step."""

    def __init__(self, inputs: int, outputs: int, dim: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(outputs, inputs, PRIMARY_DIM, dim) / PRIMARY_DIM**0.5)
        self.b = nn.Parameter(torch.zeros(outputs, inputs, 1))

    def forward(self, capsules: Tensor) -> Tensor:
        """(n, inputs, 8) to (n, outputs, dim)."""
        votes = torch.einsum("nip,oipd->noid", capsules, self.W)
        # The sum over all pairs with a vote is its product with the sum of the votes.
        agreement = (votes * votes.sum(dim=2, keepdim=True)).sum(dim=3, keepdim=True)
        share = (agreement / math.sqrt(votes.shape[-1])).softmax(dim=1) + self.b
        return squash((votes * share).sum(dim=2))


class CapsuleLayer(nn.Module):
    """Four convolutions, primary capsules, digit capsules."""

    def __init__(
        self, channels: tuple[int, int, int, int, int], edge: int, capsules: int, dim: int
    ) -> None:
        super().__init__()
        stem, first, second, third, fourth = channels
        self.conv1 = nn.Conv2d(stem, first, 5)
        self.batch_norm1 = BatchNorm(first)
        self.conv2 = nn.Conv2d(first, second, 3)
        self.batch_norm2 = BatchNorm(second)
        self.conv3 = nn.Conv2d(second, third, 3)
        self.batch_norm3 = BatchNorm(third)
        self.conv4 = nn.Conv2d(third, fourth, 3, stride=2)
        self.batch_norm4 = BatchNorm(fourth)
        self.primary_caps = PrimaryCapsules(fourth, edge)
        self.digit_caps = DigitCapsules(fourth // PRIMARY_DIM, capsules, dim)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, capsules, dim)."""
        maps = F.relu(self.batch_norm1(self.conv1(maps)))
        maps = F.relu(self.batch_norm2(self.conv2(maps)))
        maps = F.relu(self.batch_norm3(self.conv3(maps)))
        maps = F.relu(self.batch_norm4(self.conv4(maps)))
        return self.digit_caps(self.primary_caps(maps))


class GraphAttentionHead(nn.Module):
    """One head of attention along the edges of a graph of spots (Velickovic et al., ICLR 2018)."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(inputs, outputs))
        self.a = nn.Parameter(torch.empty(2 * outputs, 1))
        self.dropout = dropout
        for parameter in (self.W, self.a):
            nn.init.xavier_uniform_(parameter, gain=math.sqrt(2))

    def forward(self, spots: Tensor, edges: Tensor, as_released: bool) -> Tensor:
        """(n, inputs) and (2, edges) to (n, outputs); see :class:`GraphAttention`."""
        spot, neighbour = edges
        values = spots @ self.W
        asks, answers = (values @ self.a.view(2, -1).T).unbind(dim=1)
        scores = F.leaky_relu(asks[spot] + answers[neighbour], _LEAKY_SLOPE)
        weights = softmax_within(scores, neighbour if as_released else spot, len(spots))
        weights = F.dropout(weights, self.dropout, self.training)
        mixed = torch.zeros_like(values).index_add(0, spot, weights[:, None] * values[neighbour])
        if as_released:
            # A column without an edge was a softmax over equal numbers: the spot goes to everyone.
            unasked = torch.ones(len(spots), dtype=torch.bool, device=spots.device)
            unasked[neighbour] = False
            share = values.new_full((len(spots), int(unasked.sum())), 1 / len(spots))
            mixed = mixed + F.dropout(share, self.dropout, self.training) @ values[unasked]
        return F.elu(mixed)


class GraphAttention(nn.Module):
    """Several heads of graph attention, and one more over their concatenated outputs.

    Parameters
    ----------
    inputs, heads, hidden, outputs, dropout
        Width of a spot, number of heads and width of each, width of the result.
    """

    def __init__(
        self, inputs: int, heads: int, hidden: int, outputs: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        for head in range(heads):
            self.add_module(f"attention_{head}", GraphAttentionHead(inputs, hidden, dropout))
        self.out_att = GraphAttentionHead(heads * hidden, outputs, dropout)

    def forward(self, spots: Tensor, edges: Tensor, as_released: bool = False) -> Tensor:
        """Attend along the edges of one section.

        Parameters
        ----------
        spots : (n, inputs)
        edges : (2, edges) int64: spot, and the neighbour it attends to
        as_released : normalise the attention that a neighbour gets, over the spots that attend to
            it, and hand 1 / n of a spot that is nobody's neighbour to every spot. Otherwise the
            attention that a spot gives is normalised, over its neighbours; a spot that has none
            attends to itself.

        Returns
        -------
        (n, outputs)
        """
        if not as_released:
            edges = with_loops_where_alone(edges, len(spots))
        spots = self.dropout(spots)
        heads = [self.get_submodule(f"attention_{head}") for head in range(self.heads)]
        features = torch.cat([head(spots, edges, as_released) for head in heads], dim=1)
        return self.out_att(self.dropout(features), edges, as_released)


def with_loops_where_alone(edges: Tensor, spots: int) -> Tensor:
    """(2, edges) with an edge to itself for each of `spots` that has no neighbour."""
    alone = torch.ones(spots, dtype=torch.bool, device=edges.device)
    alone[edges[0]] = False
    loops = alone.nonzero().T.expand(2, -1)
    return torch.cat([edges, loops], dim=1)


def softmax_within(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """Softmax among the scores of the same group.

    Parameters
    ----------
    scores : (edges,)
    group : (edges,) int64 below `groups`

    Returns
    -------
    (edges,) which add up to 1 within each group
    """
    peak = scores.new_full((groups,), -torch.inf)
    peak = peak.scatter_reduce(0, group, scores.detach(), "amax")
    raised = (scores - peak[group]).exp()
    total = scores.new_zeros(groups).index_add(0, group, raised)
    return raised / total[group]


class VisionTransformer(nn.Module):
    """Dropout and the transformer over the spots of a section."""

    def __init__(
        self, dim: int, layers: int, heads: int, head_dim: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.transformer = PreNormTransformer(dim, layers, heads, head_dim, hidden, dropout)

    def forward(self, spots: Tensor) -> Tensor:
        """(n, dim) to (n, dim)."""
        return self.transformer(self.dropout(spots)[None])[0]


class THItoGeneNetwork(nn.Module):
    """Capsules of each patch, a transformer over the section, attention along the spot graph.

    Parameters
    ----------
    genes
        Outputs.
    patch
        Edge of a patch in pixels. The primary capsules' kernel covers the last feature map, so
        that patches of about this size alone can be read: 108 to 115 where it is 112.
    stem, channels
        Edge of the first convolution's windows; filters of the five convolutions, the last a
        multiple of eight.
    capsules, capsule_dim
        Digit capsules; their length is also the width of a position table.
    position_rows
        Rows of each of the two position tables, N(0, 1) at the start.
    layers, heads, head_dim, hidden
        Shape of the transformer.
    gat_heads, gat_dim, gat_out
        Graph attention: heads, width of each, width of the result.
    gene_head_dim
        Hidden width of the gene head.
    dropout
        In the transformer and in the graph attention.
    norm_momentum
        Weight of the newest batch in the stored statistics of the batch normalisations.
    as_released
        Which attention is normalised, see :meth:`GraphAttention.forward`.
    """

    def __init__(
        self,
        genes: int,
        *,
        patch: int = 112,
        stem: int = 4,
        channels: tuple[int, int, int, int, int] = (16, 32, 64, 64, 128),
        capsules: int = 20,
        capsule_dim: int = 64,
        position_rows: int = 64,
        layers: int = 4,
        heads: int = 16,
        head_dim: int = 64,
        hidden: int = 2048,
        gat_heads: int = 8,
        gat_dim: int = 1024,
        gat_out: int = 512,
        gene_head_dim: int = 1024,
        dropout: float = 0.2,
        norm_momentum: float = 0.1,
        as_released: bool = False,
    ) -> None:
        super().__init__()
        self.genes = genes
        self.as_released = as_released
        width = (capsules + 2) * capsule_dim
        self.odconv2d = DynamicConvolution(3, channels[0], stem)
        self.caps_layer = CapsuleLayer(channels, map_edge(patch, stem), capsules, capsule_dim)
        self.x_embed = nn.Embedding(position_rows, capsule_dim)
        self.y_embed = nn.Embedding(position_rows, capsule_dim)
        self.vit = VisionTransformer(width, layers, heads, head_dim, hidden, dropout)
        self.gat = GraphAttention(width, gat_heads, gat_dim, gat_out, dropout)
        self.gene_head = nn.Sequential(
            nn.Linear(gat_out, gene_head_dim),
            nn.ReLU(),
            nn.LayerNorm(gene_head_dim),
            nn.Linear(gene_head_dim, genes),
        )
        for part in self.modules():
            if isinstance(part, BatchNorm):
                part.momentum = norm_momentum

    @classmethod
    def from_released(
        cls,
        source: Released,
        *,
        heads: int = 16,
        dropout: float = 0.2,
        as_released: bool = True,
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

        stem = size("odconv2d.weight", 3)
        edge = size("caps_layer.primary_caps.depthwise_conv.weight", 2)
        layers = numbered(state, "vit.transformer.layers.")
        inner = hidden = 0
        if layers:
            inner = size("vit.transformer.layers.0.0.fn.to_qkv.weight", 0)
            hidden = size("vit.transformer.layers.0.1.fn.net.0.weight", 0)
        first, second, third, fourth = (
            size(f"caps_layer.conv{number}.weight", 0) for number in (1, 2, 3, 4)
        )
        network = cls(
            size("gene_head.3.weight", 0),
            patch=(2 * edge + 10) * stem,
            stem=stem,
            channels=(size("odconv2d.weight", 1), first, second, third, fourth),
            capsules=size("caps_layer.digit_caps.W", 0),
            capsule_dim=size("caps_layer.digit_caps.W", 3),
            position_rows=size("x_embed.weight", 0),
            layers=layers,
            heads=heads,
            head_dim=max(1, inner // (3 * heads)),
            hidden=hidden,
            gat_heads=numbered(state, "gat.attention_"),
            gat_dim=size("gat.attention_0.W", 1),
            gat_out=size("gat.out_att.W", 1),
            gene_head_dim=size("gene_head.0.weight", 0),
            dropout=dropout,
            as_released=as_released,
        )
        load_strict(network, state, where)
        return network.eval()

    def start_from(self, mean: Tensor) -> None:
        """Let the bias of the last layer be the (genes,) mean target."""
        with torch.no_grad():
            self.get_parameter("gene_head.3.bias").copy_(mean)

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, width, height) images, on the scale they are fed at, to (n, capsules, dim)."""
        return self.caps_layer(F.relu(self.odconv2d(images)))

    def place(self, capsules: Tensor, position: Tensor) -> Tensor:
        """(n, capsules, dim) and (n, 2) int64 rows of the position tables to (n, width)."""
        x, y = self.x_embed(position[:, 0]), self.y_embed(position[:, 1])
        return torch.cat([capsules.flatten(1), x, y], dim=1)

    def relate(self, capsules: Tensor, position: Tensor, edges: Tensor) -> Tensor:
        """Expression of a section from its capsules.

        Parameters
        ----------
        capsules : (n, capsules, dim)
        position : (n, 2) int64 rows of the position tables
        edges : (2, edges) int64: spot, and neighbour

        Returns
        -------
        (n, genes)
        """
        spots = self.vit(self.place(capsules, position))
        return self.gene_head(self.gat(spots, edges, self.as_released))

    def forward(self, images: Tensor, position: Tensor, edges: Tensor) -> Tensor:
        """All spots of a section: (n, 3, width, height) images to (n, genes)."""
        return self.relate(self.embed_images(images), position, edges)


class THItoGeneModule(TrainingModule):
    """Mean squared error over a whole section, one section a step."""

    unit = "section"

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error over spots and genes of a section."""
        images = x_first(batch["patches"], self.settings.pixels)
        prediction = self.network(images, batch["position"], batch["edges"])
        return F.mse_loss(prediction, batch["target"])
