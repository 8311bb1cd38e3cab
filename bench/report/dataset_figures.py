"""Figures of a dataset: its spots on its images, and a gene on a section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.data.images.image import thumbnail
from bench.data.section import Section
from bench.errors import BenchError, UnknownNameError
from bench.files import atomic_write
from bench.report.figure_style import plain, scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
_SIDE = 700
_DOTS_PER_INCH = 150
_PANEL = 4.2
_RING = "#00e05a"
_ENDINGS = (".png", ".pdf", ".svg")


def draw_sections(sections: Sequence[Section], path: Path) -> Path:
    """Draw the spots of each section over a thumbnail of its image.

    Parameters
    ----------
    sections
        Sections; one without an image shows its spots alone.
    path
        Image file to write; its suffix determines the format.
    """
    columns = min(_COLUMNS, len(sections))
    rows = -(-len(sections) // columns)
    figure = _figure(columns * 3.2, rows * 3.4)
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes, section in zip(grid, sections, strict=False):
        scale = _background(axes, section)
        x, y = section.spatial.T * scale
        size = _spot_points(axes, section, scale)
        axes.scatter(x, y, s=size, facecolors="none", edgecolors=_RING, linewidths=0.6)
        _crop_to_spots(axes, section, scale)
        scale_bar(axes, section.micrometres_per_pixel / scale)
        axes.set_title(plain(f"{section.name} ({section.adata.n_obs} spots)"), fontsize=8)
    for axes in grid[len(sections) :]:
        axes.set_axis_off()
    return _save(figure, path)


def draw_gene(section: Section, gene: str, path: Path) -> Path:
    """Draw a section's image beside the expression of a gene on its spots.

    Expression is log(1 + 10,000 * count / total). Spots without counts are empty rings.

    Raises
    ------
    UnknownNameError
        The gene was not measured in the section.
    """
    if gene not in section.adata.var_names:
        raise UnknownNameError(f"gene of section {section.name}", gene, section.adata.var_names)
    across, down = np.ptp(section.spatial, axis=0) + 6 * _diameter(section)
    height = float(np.clip(_PANEL * down / across, 0.5 * _PANEL, 1.6 * _PANEL))
    figure = _figure(2 * _PANEL + 1.0, height + 0.4)
    tissue, coloured = figure.subplots(1, 2)
    scale = _background(tissue, section)
    tissue.set_title(plain(f"{section.name}, patient {section.patient}"), fontsize=9)
    _background(coloured, section, alpha=0.45)
    for axes in (tissue, coloured):
        _crop_to_spots(axes, section, scale)
    scale_bar(tissue, section.micrometres_per_pixel / scale)
    coloured.set_title(plain(gene), fontsize=9, style="italic")
    values = log_expression(section, gene)
    shown = values > 0
    if not shown.any():
        coloured.text(
            *(0.5, 0.5, "no counts in this section"),
            transform=coloured.transAxes,
            ha="center",
            va="center",
            fontsize=9,
        )
        return _save(figure, path)
    low, high = np.percentile(values[shown], _ROBUST)
    size = _spot_points(coloured, section, scale)
    x, y = section.spatial.T * scale
    coloured.scatter(
        *(x[~shown], y[~shown]), s=size, facecolors="none", edgecolors="0.45", linewidths=0.3
    )
    drawn = coloured.scatter(
        x[shown],
        y[shown],
        c=values[shown],
        s=size,
        cmap="viridis",
        vmin=low,
        vmax=max(high, low + 1e-9),
        linewidths=0,
    )
    bar = figure.colorbar(drawn, ax=coloured, shrink=0.8, extend="both")
    low, high = _ROBUST
    range_shown = f"percentiles {_ROBUST[0]:g} to {_ROBUST[1]:g} of the spots with counts"
    bar.set_label(f"log(1 + counts per 10,000)\n{range_shown}", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return _save(figure, path)


_ROBUST = (2.0, 98.0)
"""Percentiles of the expressing spots that limit the colour range."""


def _crop_to_spots(axes: Axes, section: Section, scale: float) -> None:
    """Let the spots fill the frame, with a margin of two pitches."""
    x, y = section.spatial.T * scale
    margin = 3 * _diameter(section) * scale
    axes.set_xlim(x.min() - margin, x.max() + margin)
    axes.set_ylim(y.max() + margin, y.min() - margin)


def log_expression(section: Section, gene: str) -> np.ndarray:
    """(spots,) float64 log(1 + 10,000 * count / total) of one gene; 0 for a spot without counts."""
    counts = section.adata.X
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    own = counts[:, section.adata.var_names.get_loc(gene)].toarray().ravel()
    share = np.divide(own, totals, out=np.zeros_like(totals), where=totals > 0)
    return np.asarray(np.log1p(1e4 * share))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    # Not through pyplot, which would keep every figure and look for a display.
    return Figure(figsize=(width, height), layout="constrained")


def _background(axes: Axes, section: Section, alpha: float = 1.0) -> float:
    """Show the image; return its pixels per full-resolution pixel."""
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    if section.image is None:
        x, y = section.spatial.T
        edge = 0.03 * max(np.ptp(x), np.ptp(y), 1.0)
        axes.set_xlim(x.min() - edge, x.max() + edge)
        axes.set_ylim(y.max() + edge, y.min() - edge)
        return 1.0
    small, reduced = thumbnail(section.image, section.max_image_pixels, _SIDE, section.image_hash)
    axes.imshow(small, alpha=alpha)
    return reduced * section.image_scale


def _spot_points(axes: Axes, section: Section, scale: float) -> float:
    """Area of a spot in points, to the scale of the slide."""
    axes.figure.canvas.draw()  # the layout decides how large the axes are
    (left, _), (right, _) = axes.transData.transform([(0, 0), (_diameter(section) * scale, 0)])
    points = abs(right - left) * 72 / axes.figure.dpi
    return float(max(points, 0.8) ** 2)


def _diameter(section: Section) -> float:
    """Diameter of a spot in full-resolution pixels."""
    factors = section.adata.uns["spatial"][section.name]["scalefactors"]
    return float(factors["spot_diameter_fullres"])


def check_picture(path: Path) -> None:
    """Check that the format of an image file is supported.

    Raises
    ------
    BenchError
        The suffix is not .png, .pdf or .svg.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise BenchError(f"{path}: write a picture as {', '.join(_ENDINGS)}")


def _save(figure: Figure, path: Path) -> Path:
    check_picture(path)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH)
    return path
