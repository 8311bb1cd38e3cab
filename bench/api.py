"""All that the author of a method imports; :mod:`bench.readers` is for readers of datasets."""

from bench.data.images.patches import PatchSize
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.errors import BenchError, ConfigError, DataError, TrainingError
from bench.files import atomic_write
from bench.method import Context, Method, MethodConfig
from bench.training.network_method import NetworkConfig, NetworkMethod
from bench.training.retrieval_method import RetrievalConfig, RetrievalMethod

__all__ = [
    "BenchError",
    "ConfigError",
    "Context",
    "DataError",
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
    "atomic_write",
]
