"""Lists of seeds as users write them: ``0-4``, ``0,1,7``, or both."""

from __future__ import annotations

import re

from bench.execute.request import MOST_SEEDS

_PART = re.compile(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", re.ASCII)


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds in the order in which they are written.

    Raises
    ------
    ValueError
        It is no such list, a range ends before it begins, or there are too many seeds.
    """
    ranges = []
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None and re.fullmatch(r"\s*\d{19,}\s*", part, re.ASCII):
            raise ValueError("a seed has 18 digits at most")
        if match is None:
            raise ValueError("write seeds such as 0-4 or 0,1,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{first}-{last} ends before it begins")
        ranges.append(range(first, last + 1))
    count = sum(map(len, ranges))
    if count > MOST_SEEDS:
        raise ValueError(f"{count:,} seeds are asked for; at most {MOST_SEEDS:,} are run")
    return tuple(seed for each in ranges for seed in each)
