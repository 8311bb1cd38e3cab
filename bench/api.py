"""All that the author of a method or of a dataset's reader imports."""

from bench.data.card import DatasetCard
from bench.data.features import LEFT_OUT, expressed_genes
from bench.data.found import IMAGE_ENDINGS, FoundSection, files_under, images_in, not_read
from bench.data.grid import array_of_grid
from bench.data.images.image import image_size
from bench.data.images.patches import PatchSize
from bench.data.reading.counts import sparse_counts, unique_names, whole_counts
from bench.data.reading.hdf5 import Hdf5File, open_hdf5
from bench.data.reading.parsing import read_bytes, read_counts, read_table
from bench.data.views import Slide, TrainingData, TrainingSection
from bench.errors import BenchError, ConfigError, DataError, TrainingError
from bench.files import atomic_write
from bench.method import Context, Method, MethodConfig
from bench.training.network_method import NetworkConfig, NetworkMethod
from bench.training.retrieval_method import RetrievalConfig, RetrievalMethod

__all__ = [
    "IMAGE_ENDINGS",
    "LEFT_OUT",
    "BenchError",
    "ConfigError",
    "Context",
    "DataError",
    "DatasetCard",
    "FoundSection",
    "Hdf5File",
    "Method",
    "MethodConfig",
    "NetworkConfig",
    "NetworkMethod",
    "PatchSize",
    "RetrievalConfig",
    "RetrievalMethod",
    "Slide",
    "TrainingData",
    "TrainingError",
    "TrainingSection",
    "array_of_grid",
    "atomic_write",
    "expressed_genes",
    "files_under",
    "image_size",
    "images_in",
    "not_read",
    "open_hdf5",
    "read_bytes",
    "read_counts",
    "read_table",
    "sparse_counts",
    "unique_names",
    "whole_counts",
]
