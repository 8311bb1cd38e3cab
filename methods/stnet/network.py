"""Network and training of ST-Net; tensor names are those of torchvision's DenseNet."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.blocks.encoders import image_encoder
from bench.blocks.precision import ImageModule
from bench.blocks.weights import Released, load_strict, released_tensors, tensor_size
from bench.training.module import TrainingModule


class STNetNetwork(ImageModule):
    """Image encoder and linear head.

    Parameters
    ----------
    genes
        Outputs.
    encoder, weights
        See :func:`bench.blocks.encoders.image_encoder`. DenseNet's feature maps go through the
        final ReLU here, as in torchvision's own forward.
    """

    def __init__(self, genes: int, *, encoder: str = "densenet121", weights: str = "none") -> None:
        super().__init__()
        built = image_encoder(encoder, weights)
        self._is_densenet = encoder == "densenet121"
        self.features = built.model.get_submodule("0") if self._is_densenet else built
        self.classifier = nn.Linear(built.features, genes)

    @classmethod
    def from_released(cls, source: Released, *, encoder: str = "densenet121") -> Self:
        """The network with the tensors of a released checkpoint.

        Raises
        ------
        DataError
            A tensor is missing, unexpected or of another shape.
        """
        state, where = released_tensors(source)
        network = cls(tensor_size(state, "classifier.weight", 0, where), encoder=encoder)
        load_strict(network, state, where)
        return network.eval()

    @property
    def image_encoder(self) -> nn.Module:
        """All layers before the head."""
        return self.features

    @property
    def genes(self) -> int:
        """Number of outputs."""
        return self.classifier.out_features

    def start_from(self, mean: np.ndarray) -> None:
        """Let the head predict the (genes,) mean target whatever the image, as released."""
        with torch.no_grad():
            self.classifier.weight.zero_()
            self.classifier.bias.copy_(torch.from_numpy(np.asarray(mean)))

    def embed(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) standardised images to (n, features)."""
        if not self._is_densenet:
            return self.features(images)
        return self.compute(self._pooled, images)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) standardised images to (n, genes)."""
        return self.classifier(self.embed(images))

    def _pooled(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.relu(self.features(images)), 1).flatten(1)


def summed_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error, averaged over genes and summed over spots."""
    return (prediction - target).square().sum() / target.shape[1]


def standardise(patches: Tensor, mean: np.ndarray, std: np.ndarray) -> Tensor:
    """(n, 3, height, width) uint8 patches to float32, less `mean` over `std` on the 0..1 scale."""
    centre = torch.from_numpy(mean).to(patches.device).view(1, 3, 1, 1)
    width = torch.from_numpy(std).to(patches.device).view(1, 3, 1, 1)
    return (patches.float() / 255 - centre) / width


def symmetries(images: Tensor) -> list[Tensor]:
    """The eight symmetries of the square, in the order of the released evaluation."""
    views = []
    for mirrored in (False, True):
        for upended in (False, True):
            for turns in (0, 1):
                view = torch.rot90(images, turns, dims=(-2, -1))
                view = view.flip(-2) if upended else view
                views.append(view.flip(-1) if mirrored else view)
    return views


class STNetModule(TrainingModule):
    """Stochastic gradient descent on the squared error summed over a batch."""

    def __init__(
        self, network: STNetNetwork, config: Any, colour: tuple[np.ndarray, np.ndarray]
    ) -> None:
        # Two coin-tossed flips and a quarter turn reach each of the eight symmetries equally.
        super().__init__(network, config, "quarter_turns" if config.augment else "none")
        self.colour = colour

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch; what is logged is the loss per spot."""
        loss = self._summed(self.augmented(batch))
        self.record(batch, train_loss=loss / len(batch["patches"]))
        return loss

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss per spot."""
        return self._summed(batch) / len(batch["patches"])

    def _summed(self, batch: dict[str, Tensor]) -> Tensor:
        return summed_loss(
            self.network(standardise(batch["patches"], *self.colour)), batch["target"]
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
