"""All that the author of a method or of a dataset's reader imports."""

from bench.data.card import DatasetCard
from bench.data.parsing import read_bytes, read_counts, read_table
from bench.data.views import Slide, TrainingData, TrainingSection
from bench.errors import BenchError, ConfigError, DataError, TrainingError
from bench.files import atomic_write
from bench.method import Context, Method, MethodConfig

__all__ = [
    "BenchError",
    "ConfigError",
    "Context",
    "DataError",
    "DatasetCard",
    "Method",
    "MethodConfig",
    "Slide",
    "TrainingData",
    "TrainingError",
    "TrainingSection",
    "atomic_write",
    "read_bytes",
    "read_counts",
    "read_table",
]
