"""What all figures share: an empty figure of the width of a page, and names as they show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.files import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0
"""Inches: the width of a page; every figure is readable at half of it."""

_LONGEST = 60
"""Characters of a line of a name in a figure."""


def blank_figure(height: float) -> tuple[Figure, Axes]:
    """Figure of the width of a page with one pair of axes; the height is in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def plain(name: str) -> str:
    """A name as figures show it: printable, at most three lines of 60 characters.

    Dollar signs are escaped, as they begin formulas in matplotlib.
    """
    lines = [printable(line) for line in str(name).split("\n")[:3]]
    short = [line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…" for line in lines]
    return "\n".join(short).replace("$", r"\$")
