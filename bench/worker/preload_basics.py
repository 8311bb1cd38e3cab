"""Imported by the server that is forked for every worker."""

import numpy as np
import pydantic

import bench.api
import bench.registry
import bench.worker.child

__all__ = ["bench", "np", "pydantic"]
