"""Size, fonts and helpers of all figures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.files import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 60
"""Characters of a line of a name in a figure."""

_INCH = 25.4
"""Millimetres."""

NARROWEST, WIDEST = 50.0, 500.0
"""Widths in millimetres that figures can have."""

KINDS = ("method", "control", "oracle")

Purpose = Literal["paper", "talk"]


@dataclass(frozen=True)
class FigureStyle:
    """Size of a figure and its text.

    Attributes
    ----------
    width_mm
        Width in millimetres.
    scale
        Factor of text and lines.
    """

    width_mm: float = 177.8
    scale: float = 1.0


def figure_style(purpose: Purpose = "paper", width_mm: float | None = None) -> FigureStyle:
    """Style of a paper, whose text has 8 to 9 points, or of a talk, where it is 1.6 times larger.

    Parameters
    ----------
    purpose
        ``paper`` is 178 mm wide unless a width is named, ``talk`` 254 mm.
    width_mm
        Width in millimetres; below 120 the text of a paper is 1 point smaller.
    """
    if purpose == "talk":
        return FigureStyle(width_mm or 254.0, 1.6)
    width = width_mm or FigureStyle.width_mm
    return FigureStyle(width, 1.0 if width >= 120 else 7 / 8)


_PAGE = FigureStyle()
_style: ContextVar[FigureStyle] = ContextVar("figure_style", default=_PAGE)


@contextmanager
def styled(style: FigureStyle) -> Iterator[None]:
    """Draw figures in a style; their text stays text in PDF and SVG files."""
    import matplotlib as mpl

    token = _style.set(style)
    settings: Any = {
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "spotbench",
        "font.size": points(9),
        "axes.labelsize": points(9),
        "xtick.labelsize": points(8),
        "ytick.labelsize": points(8),
        "legend.fontsize": points(8),
        "axes.linewidth": 0.8 * style.scale,
    }
    try:
        with mpl.rc_context(settings):
            yield
    finally:
        _style.reset(token)


def points(size: float) -> float:
    """Size of text in points in the style in use."""
    return size * _style.get().scale


def figure_width() -> float:
    """Width of a figure in inches in the style in use."""
    return _style.get().width_mm / _INCH


def new_figure(height: float, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of the style's width with one row of axes.

    Parameters
    ----------
    height
        Height in inches for text of the size of a paper.
    columns
        Number of axes; one is given by itself, several as an array.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not through pyplot, which would keep every figure and look for a display.
    size = (figure_width(), height * _style.get().scale)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns)
    for one in [axes] if columns == 1 else axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=points(8))
    return figure, axes


def plain(name: str) -> str:
    """A name as figures show it: printable, at most three lines of 60 characters.

    Dollar signs are escaped, as they begin formulas in matplotlib.
    """
    lines = [printable(line) for line in str(name).split("\n")[:3]]
    short = [line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…" for line in lines]
    return "\n".join(short).replace("$", r"\$")


def label_x(axes: Axes, text: str) -> None:
    """Label the horizontal axis; in a narrow figure the label ends where the axis ends."""
    # Names of rows leave less room for the axis than a label centred on it takes.
    narrow = figure_width() < WIDE
    letters = int(0.8 * figure_width() * 72 / (0.55 * points(9)))
    axes.set_xlabel(textwrap.fill(text, letters), loc="right" if narrow else "center")


WIDE = 4.7
"""Width in inches below which a figure fills one column of a page."""


def marked(name: str, kind: str) -> str:
    """Name of a row as figures show it, with what it is if it is no method."""
    return plain(name) if kind == "method" else f"{plain(name)} ({kind})"


def signed(value: float, digits: int = 2) -> str:
    """A number with a minus sign as print has it, and no sign before zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def colours() -> dict[str, Any]:
    """Colour of each kind of row."""
    import seaborn as sns

    palette = sns.color_palette("colorblind")
    return dict(zip(KINDS, (palette[0], palette[7], palette[1]), strict=True))


def marker(kind: str) -> str:
    """Marker of a kind of row; shape encodes the same as colour."""
    return {"method": "o", "control": "s", "oracle": "D"}[kind]


def kind_legend(figure: Figure, kinds: set[str], others: list[Any]) -> None:
    """Legend of the kinds of rows above the axes, where it hides no point."""
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], linestyle="", marker=marker(kind), color=colours()[kind], label=kind)
        for kind in KINDS
        if kind in kinds
    ]
    handles += others
    figure.legend(
        handles=handles,
        fontsize=points(8),
        frameon=False,
        loc="outside upper right",
        ncols=len(handles) if figure_width() > WIDE else 2,
        columnspacing=1.2,
        handletextpad=0.4,
    )


def move_apart(figure: Figure, axes: Axes) -> None:
    """Move labels that lie on others to another side of their point, or farther from it."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    taken: list[Any] = []

    def put(text: Any, place: tuple[int, int], side: int) -> Any:
        text.set_position(place)
        text.set_horizontalalignment("left" if side > 0 else "right")
        return Text.get_window_extent(text)  # without the line to its point

    for text in axes.texts:
        boxes = [(put(text, *one), one) for one in _PLACES]
        free = [(box, one) for box, one in boxes if not box.count_overlaps(taken)]
        inside = [(box, one) for box, one in free if axes.bbox.count_contains(box.corners()) == 4]
        box, one = (inside or free or boxes)[0]
        put(text, *one)
        taken.append(box)


_PLACES = tuple(
    ((side * x, y), side)
    for x, heights in ((6, (4, -11)), (14, (14, -21)), (22, (24, -31)))
    for y in heights
    for side in (1, -1)
)


def scale_bar(axes: Axes, micrometres_per_unit: float) -> None:
    """A bar of a round number of micrometres, about a fifth of the frame, in its lower corner.

    Parameters
    ----------
    axes
        Axes with their final limits.
    micrometres_per_unit
        Micrometres of one unit of the axes.
    """
    import numpy as np

    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    wanted = abs(right - left) * micrometres_per_unit / 5
    power = 10 ** np.floor(np.log10(wanted))
    length = float(power * max(n for n in (1, 2, 5) if n * power <= wanted))
    x, y = left + 0.05 * (right - left), bottom + 0.05 * (top - bottom)
    axes.plot([x, x + length / micrometres_per_unit], [y, y], color="black", linewidth=2, zorder=4)
    axes.text(
        *(x, y + 0.02 * (top - bottom), f"{length:,.0f} µm"),
        fontsize=points(7),
        va="bottom",
        zorder=4,
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
    )
