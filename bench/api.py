"""All that the author of a method or of a dataset's reader imports.

Importing it imports no torch: names of modules that need torch are imported when they are first
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.blocks.frozen import QUICK_ENCODER, FrozenEncoderConfig, in_image_order
from bench.data.card import DatasetCard
from bench.data.found import IMAGE_ENDINGS, FoundSection, images_in
from bench.data.images.patches import PatchSize
from bench.data.reading.counts import sparse_counts, unique_names, whole_counts
from bench.data.reading.hdf5 import Hdf5File, open_hdf5
from bench.data.reading.parsing import read_bytes, read_counts, read_table
from bench.data.views import Slide, TrainingData, TrainingSection
from bench.errors import BenchError, ConfigError, DataError, TrainingError
from bench.files import atomic_write
from bench.method import Context, Method, MethodConfig
from bench.training.estimators import load_estimator, save_estimator
from bench.training.network_method import NetworkConfig, NetworkMethod
from bench.training.retrieval_method import RetrievalConfig, RetrievalMethod

if TYPE_CHECKING:
    from bench.blocks.augment import augmentation
    from bench.blocks.features import FeatureSpace, FrozenEncoder
    from bench.blocks.graph import neighbour_edges, neighbour_mean
    from bench.blocks.images import (
        ImageEncoder,
        image_batches,
        image_encoder,
        to_network_scale,
    )
    from bench.blocks.positions import table_rows
    from bench.blocks.precision import ImageModule, place
    from bench.blocks.retrieval import retrieve, retrieve_each
    from bench.blocks.weights import (
        load_exactly,
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
    "IMAGE_ENDINGS",
    "QUICK_ENCODER",
    "BenchError",
    "ConfigError",
    "Context",
    "ContrastiveModule",
    "DataError",
    "DatasetCard",
    "FeatureSpace",
    "FoundSection",
    "FrozenEncoder",
    "FrozenEncoderConfig",
    "Hdf5File",
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
    "image_batches",
    "image_encoder",
    "images_in",
    "in_image_order",
    "learned_sections",
    "load_estimator",
    "load_exactly",
    "neighbour_edges",
    "neighbour_mean",
    "open_hdf5",
    "place",
    "read_bytes",
    "read_counts",
    "read_table",
    "read_tensors",
    "released_tensors",
    "retrieve",
    "retrieve_each",
    "save_estimator",
    "save_network",
    "section_loader",
    "sparse_counts",
    "spot_loader",
    "table_rows",
    "tensor_size",
    "to_network_scale",
    "train",
    "train_on",
    "unique_names",
    "whole_counts",
]


# ruff: noqa: F401 - what __getattr__ imports is returned by name
def __getattr__(name: str) -> Any:
    """A name whose module needs torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Import statements, as bench.sources reads them to know what a fit depends on.
    from bench.blocks.augment import augmentation
    from bench.blocks.features import FeatureSpace, FrozenEncoder
    from bench.blocks.graph import neighbour_edges, neighbour_mean
    from bench.blocks.images import ImageEncoder, image_batches, image_encoder, to_network_scale
    from bench.blocks.positions import table_rows
    from bench.blocks.precision import ImageModule, place
    from bench.blocks.retrieval import retrieve, retrieve_each
    from bench.blocks.weights import (
        load_exactly,
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
