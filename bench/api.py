"""Public names for authors of methods; those for readers of datasets are in :mod:`bench.readers`.

Importing this module does not import torch: names whose modules need torch are imported on first
use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.blocks.frozen import QUICK_ENCODER, FrozenEncoderConfig, in_image_order
from bench.data.images.patches import PatchSize
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.errors import BenchError, ConfigError, DataError, TrainingError
from bench.files import atomic_write
from bench.method import Context, Method, MethodConfig
from bench.training.estimators import load_estimator, save_estimator
from bench.training.network_method import NetworkConfig, NetworkMethod
from bench.training.retrieval_method import RetrievalConfig, RetrievalMethod

if TYPE_CHECKING:
    from bench.blocks.augment import augmentation
    from bench.blocks.encoders import ImageEncoder, image_encoder
    from bench.blocks.feature_space import FeatureSpace
    from bench.blocks.features import FrozenEncoder
    from bench.blocks.graph import neighbour_edges, neighbour_mean
    from bench.blocks.images import image_batches, to_network_scale
    from bench.blocks.positions import check_positions
    from bench.blocks.precision import ImageModule, to_device
    from bench.blocks.retrieval import retrieve, retrieve_each
    from bench.blocks.weights import (
        load_strict,
        read_tensors,
        released_tensors,
        save_network,
        tensor_size,
    )
    from bench.training.batches import (
        SectionDataset,
        ShuffledBatches,
        SpotDataset,
        section_loader,
        spot_loader,
    )
    from bench.training.fitting import learned_sections, train, train_on
    from bench.training.module import ContrastiveModule, TrainingModule

__all__ = [
    "QUICK_ENCODER",
    "BenchError",
    "ConfigError",
    "Context",
    "ContrastiveModule",
    "DataError",
    "FeatureSpace",
    "FrozenEncoder",
    "FrozenEncoderConfig",
    "ImageEncoder",
    "ImageModule",
    "Method",
    "MethodConfig",
    "NetworkConfig",
    "NetworkMethod",
    "PatchSize",
    "RetrievalConfig",
    "RetrievalMethod",
    "SectionDataset",
    "ShuffledBatches",
    "Slide",
    "SpotDataset",
    "TrainingData",
    "TrainingError",
    "TrainingModule",
    "TrainingSection",
    "atomic_write",
    "augmentation",
    "check_positions",
    "image_batches",
    "image_encoder",
    "in_image_order",
    "learned_sections",
    "load_estimator",
    "load_strict",
    "neighbour_edges",
    "neighbour_mean",
    "read_tensors",
    "released_tensors",
    "retrieve",
    "retrieve_each",
    "save_estimator",
    "save_network",
    "section_loader",
    "spot_loader",
    "tensor_size",
    "to_device",
    "to_network_scale",
    "train",
    "train_on",
]


# ruff: noqa: F401 - what __getattr__ imports is returned by name
def __getattr__(name: str) -> Any:
    """Import a name whose module needs torch, on its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Import statements, as bench.sources reads them to know what a fit depends on.
    from bench.blocks.augment import augmentation
    from bench.blocks.encoders import ImageEncoder, image_encoder
    from bench.blocks.feature_space import FeatureSpace
    from bench.blocks.features import FrozenEncoder
    from bench.blocks.graph import neighbour_edges, neighbour_mean
    from bench.blocks.images import image_batches, to_network_scale
    from bench.blocks.positions import check_positions
    from bench.blocks.precision import ImageModule, to_device
    from bench.blocks.retrieval import retrieve, retrieve_each
    from bench.blocks.weights import (
        load_strict,
        read_tensors,
        released_tensors,
        save_network,
        tensor_size,
    )
    from bench.training.batches import (
        SectionDataset,
        ShuffledBatches,
        SpotDataset,
        section_loader,
        spot_loader,
    )
    from bench.training.fitting import learned_sections, train, train_on
    from bench.training.module import ContrastiveModule, TrainingModule

    return locals()[name]
