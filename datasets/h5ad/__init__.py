"""AnnData files (``.h5ad``), as scanpy, squidpy, HEST and others write them."""

from bench.datasets.h5ad.folders import discover, embedded_image, is_of_hest, is_of_hest_bench
from bench.datasets.h5ad.reading import ROLES, read

__all__ = ["ROLES", "discover", "embedded_image", "is_of_hest", "is_of_hest_bench", "read"]
