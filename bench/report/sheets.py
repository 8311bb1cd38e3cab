"""Tables as the templates of the HTML pages take them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.evaluate.scores import BY_NAME, SCORES
from bench.report.footnotes import BY_FOLD_HEADING
from bench.report.tables import for_people

_LOW_IS_BEST = {
    *(score.heading for score in SCORES if score.better == "lower"),
    *("p (patients)", "p (sections)"),
}

FIRST = (
    BY_FOLD_HEADING,
    *(BY_NAME[name].heading for name in ("pcc_acg", "pcc_heg", "mse", "mae")),
    "preset",
)
"""Columns that the leaderboard shows first; a reader adds the others."""

_NUMBER = re.compile(r"(?:< )?([+-]?\d+(?:\.\d+)?)(?: ± .*| to .*| %|/\d+)?")
"""Pattern of a cell that is sorted by its first number."""


def leaderboard(table: pd.DataFrame) -> pd.DataFrame:
    """Table of the page: the usual scores directly after the method, then all other columns."""
    shown = for_people(table, "page")
    first = [heading for heading in ("method", *FIRST, "from") if heading in shown]
    return shown[[*first, *(heading for heading in shown if heading not in first)]]


def sheet(
    shown: pd.DataFrame,
    kinds: Sequence[str] = (),
    first: Sequence[str] = (),
    links: Sequence[str] = (),
) -> dict[str, Any]:
    """Table for ``sheet.html.jinja``: headings, and cells with their numbers for sorting.

    Parameters
    ----------
    shown
        Cells as texts.
    kinds
        Class of each row; all ``method`` where empty.
    first
        Columns that are shown at once, all where empty; a reader adds the others.
    links
        Relative address that the first cell of each row leads to; none where empty.
    """
    columns = []
    for heading in shown:
        texts = [str(text) for text in shown[heading]]
        matches = [_NUMBER.fullmatch(text) for text in texts]
        numeric = any(matches) and all(
            match or text in {"–", "no power"} for match, text in zip(matches, texts, strict=True)
        )
        keys = [match[1] if match else "" for match in matches] if numeric else texts
        columns.append((str(heading), numeric, list(zip(texts, keys, strict=True))))
    return {
        "headings": [
            {
                "text": heading,
                "numeric": numeric,
                "best": "high" if numeric and heading not in _LOW_IS_BEST else "low",
                "more": bool(first) and place > 0 and heading not in first,
            }
            for place, (heading, numeric, _) in enumerate(columns)
        ],
        "rows": [
            {
                "kind": kinds[number] if kinds else "method",
                "cells": [
                    {
                        "text": cells[number][0],
                        "key": cells[number][1],
                        "link": links[number] if links and not place else "",
                    }
                    for place, (_, _, cells) in enumerate(columns)
                ],
            }
            for number in range(len(shown))
        ],
    }
