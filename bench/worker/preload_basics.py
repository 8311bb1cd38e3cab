"""Imported by the server that is forked for every worker."""

import atexit
import gc

import numpy as np
import pydantic
import scipy.linalg
import scipy.sparse
import scipy.spatial
import sklearn.neighbors

import bench.api
import bench.registry
import bench.worker.child

# What is imported lives as long as the server; a collection in a worker would copy its pages.
gc.freeze()
# Some libraries complain at the end of a process about objects that were never released.
atexit.register(gc.unfreeze)

__all__ = ["bench", "np", "pydantic", "scipy", "sklearn"]
