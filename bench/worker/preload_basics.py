"""Imported by the server that is forked for every worker."""

import numpy as np
import pydantic
import scipy.linalg
import scipy.sparse
import scipy.spatial
import sklearn.neighbors

import bench.api
import bench.registry
import bench.worker.child

__all__ = ["bench", "np", "pydantic", "scipy", "sklearn"]
