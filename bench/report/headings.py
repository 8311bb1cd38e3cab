"""Headings of the tables of a dataset under a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def comparison_heading(dataset: str, protocol: str, facts: Sequence[Mapping[str, Any]]) -> str:
    """Heading of a table; of a test on another dataset it names both.

    Parameters
    ----------
    dataset, protocol
        Names under which the runs are stored.
    facts
        Contents of ``run.json`` of the runs.

    Examples
    --------
    >>> comparison_heading("her2st", "strict", [{}])
    'her2st, protocol strict'
    """
    tested = next((of["test_dataset"] for of in facts if "test_dataset" in of), None)
    if not isinstance(tested, Mapping):
        return f"{dataset}, protocol {protocol}"
    return f"fitted on {dataset}, tested on {tested['name']}, protocol {tested['protocol']}"
