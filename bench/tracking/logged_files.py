"""Names in a logged model, and the columns of the tables that it predicts."""

from __future__ import annotations

DATA = "data/fitted"
"""Folder of an MLflow model that MLflow passes to the loader; we chose the last name."""

FACTS = "spotbench.json"
"""File in it with facts about the model."""

COLUMNS = ("image", "x", "y", "array_col", "array_row")
"""Columns that :meth:`bench.tracking.model.FittedModel.predict` needs, one row a spot."""

SCALE = "um_per_px"
"""Column, or change of the loaded model, with the micrometres a pixel of the image."""
