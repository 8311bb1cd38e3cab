"""Numbers and images as text inside of a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

BASE64 = 4 / 3
"""Characters a byte."""

STEPS = 255
"""Largest step of a quantised value."""


def quantised(values: np.ndarray) -> dict[str, str]:
    """Lowest and highest value of each column, and all values in 256 steps between them.

    Parameters
    ----------
    values
        (spots, genes) finite numbers.

    Returns
    -------
    dict
        ``low`` and ``high``: (genes,) float32; ``values``: (genes, spots) uint8, empty where every
        gene is constant. Arrays are little-endian and in base64.
    """
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, 1)
    steps = np.rint((values - low) / span * STEPS).astype(np.uint8)
    return {
        "low": as_base64(low, "<f4"),
        "high": as_base64(high, "<f4"),
        "values": as_base64(steps.T, "u1") if steps.any() else "",
    }


def as_base64(values: np.ndarray, kind: str) -> str:
    """Bytes of an array of a NumPy type, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


def pitch(spatial: np.ndarray) -> float:
    """Median distance of a spot to the nearest other one, in pixels of the image."""
    if len(spatial) < 2:
        return 1.0
    nearest = cKDTree(spatial).query(spatial, k=2)[0][:, 1]
    median = float(np.median(nearest))
    return round(median, 3) if median > 0 else 1.0


def image_address(image: Image.Image, quality: int) -> str:
    """An RGB image as the data address of a JPEG."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
