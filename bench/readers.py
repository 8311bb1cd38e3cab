"""Public names for readers of new dataset layouts.

A reader is a module with a tuple ``ROLES`` and a function ``read``; see :class:`Reader`. A package
adds one by an entry point of the group ``spotbench.readers``, whose name is the name of the
layout in a card (``layout: NAME``); docs/datasets.md has an example.
"""

from bench.data.card import DatasetCard, read_card
from bench.data.discovery import (
    IMAGE_ENDINGS,
    FoundSection,
    chosen_bin,
    files_under,
    images_in,
    not_read,
    stores_under,
)
from bench.data.features import LEFT_OUT, expressed_genes
from bench.data.grid import array_of_grid
from bench.data.images.expected_size import ReducedImage, disagreement, other_size
from bench.data.images.image import image_size
from bench.data.images.raster import on_white
from bench.data.images.stored_patches import stored_edge
from bench.data.layouts import (
    GROUP,
    Layout,
    Reader,
    find_layouts,
    layout_faults,
    load_reader,
)
from bench.data.reading.counts import check_names, sparse_counts, unique_names, whole_counts
from bench.data.reading.hdf5 import Hdf5File, open_hdf5
from bench.data.reading.parquet import check_unpacked_size
from bench.data.reading.parsing import (
    MAX_BYTES,
    read_bytes,
    read_counts,
    read_json,
    read_table,
)
from bench.data.reading.positions import first_fields, read_positions
from bench.data.reading.symbols import read_json_symbols
from bench.data.reading.zarr_store import ZarrNode, check_image_pieces, check_store
from bench.data.section import PATCH_ROW
from bench.errors import BenchError, DataError
from bench.files import atomic_write, one_line

__all__ = [
    "GROUP",
    "IMAGE_ENDINGS",
    "LEFT_OUT",
    "MAX_BYTES",
    "PATCH_ROW",
    "BenchError",
    "DataError",
    "DatasetCard",
    "FoundSection",
    "Hdf5File",
    "Layout",
    "Reader",
    "ReducedImage",
    "ZarrNode",
    "array_of_grid",
    "atomic_write",
    "check_image_pieces",
    "check_names",
    "check_store",
    "check_unpacked_size",
    "chosen_bin",
    "disagreement",
    "expressed_genes",
    "files_under",
    "find_layouts",
    "first_fields",
    "image_size",
    "images_in",
    "layout_faults",
    "load_reader",
    "not_read",
    "on_white",
    "one_line",
    "open_hdf5",
    "other_size",
    "read_bytes",
    "read_card",
    "read_counts",
    "read_json",
    "read_json_symbols",
    "read_positions",
    "read_table",
    "sparse_counts",
    "stored_edge",
    "stores_under",
    "unique_names",
    "whole_counts",
]
