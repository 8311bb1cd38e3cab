"""Output of Space Ranger, 10x Genomics' pipeline for Visium and Visium HD."""

from bench.datasets.space_ranger.folders import discover
from bench.datasets.space_ranger.reading import (
    ROLES,
    hires_scale,
    read,
    read_scalefactors,
    spot_diameter,
)

__all__ = ["ROLES", "discover", "hires_scale", "read", "read_scalefactors", "spot_diameter"]
