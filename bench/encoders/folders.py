"""Folders of encoders' weights on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from bench.data.home import data_home
from bench.files import canonical_hash

_LONGEST = 100
"""Characters of an encoder's name in the name of its folder."""


def encoders_folder() -> Path:
    """Folder of all encoders' weights, beside the datasets."""
    return data_home() / "encoders"


def stored_folder(encoder: str) -> Path:
    """Folder of an encoder's weights, whether it exists or not."""
    name = re.sub(r"[^\w.-]+", "--", encoder, flags=re.ASCII).strip(".-")
    if name != encoder or len(name) > _LONGEST:  # so that two names never share a folder
        name = f"{name[:_LONGEST]}-{canonical_hash(encoder)[:8]}"
    return encoders_folder() / name
