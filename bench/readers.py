"""All that the author of a reader for a new layout imports.

A reader is a module with a tuple ``ROLES`` and a function ``read``; see :class:`Reader`. A package
adds one by an entry point of the group ``spotbench.readers``, whose name is the name of the
layout in a card (``layout: NAME``); docs/datasets.md has an example.
"""

from bench.data.card import DatasetCard
from bench.data.layouts import (
    GROUP,
    IMAGE_ENDINGS,
    FoundSection,
    Layout,
    Reader,
    find_layouts,
    images_in,
    layout_faults,
    load_reader,
)
from bench.data.reading.counts import sparse_counts, unique_names, whole_counts
from bench.data.reading.hdf5 import Hdf5File, open_hdf5
from bench.data.reading.parsing import read_bytes, read_counts, read_table
from bench.errors import BenchError, DataError
from bench.files import atomic_write, one_line

__all__ = [
    "GROUP",
    "IMAGE_ENDINGS",
    "BenchError",
    "DataError",
    "DatasetCard",
    "FoundSection",
    "Hdf5File",
    "Layout",
    "Reader",
    "atomic_write",
    "find_layouts",
    "images_in",
    "layout_faults",
    "load_reader",
    "one_line",
    "open_hdf5",
    "read_bytes",
    "read_counts",
    "read_table",
    "sparse_counts",
    "unique_names",
    "whole_counts",
]
