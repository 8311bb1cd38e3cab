"""SpatialData stores (``.zarr``), as spatialdata and the readers of spatialdata-io write them.

Marconato et al., Nature Methods 22, 58 (2025). A store holds images, shapes and tables; a table
says which shapes its rows are the spots of. The package ``spatialdata`` is needed.
"""

from bench.datasets.spatialdata.folders import discover, embedded_image
from bench.datasets.spatialdata.reading import ROLES, read

__all__ = ["ROLES", "discover", "embedded_image", "read"]
