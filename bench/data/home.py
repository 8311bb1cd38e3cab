"""Folder in which this machine keeps datasets, cards and weights."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_home() -> Path:
    """Folder of all data folders: ``SPOTBENCH_DATA``, or the platform's data folder."""
    chosen = os.environ.get("SPOTBENCH_DATA")
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("spotbench"))
