"""Maps on the tissue: measured and predicted genes, and domains beside a pathologist's labels."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.evaluate.spatial import UNLABELLED, domain_agreement, spatial_domains
from bench.files import printable
from bench.report.figure_style import WIDE, figure_width, plain, points, scale_bar, signed
from bench.report.genes import gene_ranking, marker_sets
from bench.report.section_maps import SectionMap
from bench.report.tables import score_table
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
"""Maps per row, limited by the width of a page."""

GENES_SHOWN = 3
RUNS_SHOWN = 6
"""Number of runs whose domains are drawn; gene maps show as many as fit in a row."""


def shown_genes(runs: Sequence[StoredRun], panel: Sequence[str]) -> list[str]:
    """Marker genes of the panel best predicted by the best run, then its other best genes."""
    best = score_table([run for run in runs if run.done])
    best = best[best["kind"] == "method"] if (best["kind"] == "method").any() else best
    key = best.iloc[0]["key"]
    run = next(run for run in runs if run.facts["key"][:12] == key)
    ranked = [gene for gene in gene_ranking(run)["gene"] if gene in set(panel)]
    markers = set().union(*marker_sets().values())
    first = [gene for gene in ranked if gene in markers]
    return [*first, *(gene for gene in ranked if gene not in markers)][:GENES_SHOWN]


def gene_maps(section: SectionMap, genes: Sequence[str]) -> Figure:
    """Measured beside predicted expression of some genes, on the H&E image where it is stored.

    Every map has its own colour range, because methods differ in scale and the maps compare
    spatial structure.

    Raises
    ------
    BenchError
        A gene that is not in the panel.
    """
    from bench.evaluate.metrics import pearson_per_gene

    missing = [gene for gene in genes if gene not in section.genes]
    if missing:
        raise BenchError(f"gene {missing[0]} is not in the panel of section {section.section}")
    runs = list(section.predictions)[: COLUMNS - 1]
    figure, grid = _panels(len(genes), 1 + len(runs), section)
    for row, gene in enumerate(genes):
        number = section.genes.index(gene)
        truth = section.truth[:, [number]]
        _values(grid[row, 0], section, truth[:, 0], "measured")
        _gene_name(grid[row, 0], gene)
        for column, label in enumerate(runs, 1):
            prediction = section.predictions[label][:, [number]]
            r = pearson_per_gene(truth, prediction)[0]
            said = "PCC undefined" if np.isnan(r) else f"PCC {signed(r)}"
            _values(grid[row, column], section, prediction[:, 0], f"{section.name(label)}\n{said}")
    if section.micrometres_per_pixel is not None:
        scale_bar(grid[0, 0], section.micrometres_per_pixel)
    title = f"section {plain(section.section)}; each map has its own colour range"
    if section.unit:
        title += f"\ncolour: {section.unit}"
    figure.suptitle(title, fontsize=points(9))
    return figure


def predicted_maps(section: SectionMap, titles: Mapping[str, str]) -> Figure:
    """Predicted expression of genes on the H&E image of a section without truth.

    Parameters
    ----------
    section
        A section with the predictions of one model.
    titles
        Title of each map, by gene.
    """
    ((label, values),) = section.predictions.items()
    columns = min(COLUMNS, len(titles))
    figure, grid = _panels(-(-len(titles) // columns), columns, section)
    axes = grid.ravel()
    for unused in axes[len(titles) :]:
        unused.set_axis_off()
    for place, (gene, title) in zip(axes, titles.items(), strict=False):
        said = title.removeprefix(gene).strip()
        _values(place, section, values[:, section.genes.index(gene)], "")
        place.set_title(plain(gene), fontsize=points(8), style="italic", loc="left")
        place.set_title(plain(said), fontsize=points(8), loc="right")
    if section.micrometres_per_pixel is not None:
        scale_bar(axes[0], section.micrometres_per_pixel)
    title = (
        f"{plain(section.section)}, predicted by {plain(label)}\n"
        "PCC on unseen sections; each map has its own colour range"
    )
    if section.unit:
        title += f"\ncolour: {section.unit}"
    figure.suptitle(title, fontsize=points(9))
    return figure


def domain_maps(section: SectionMap) -> Figure | None:
    """Domains of measured and predicted expression beside the pathologist's labels.

    None where the section has fewer than two labels.
    """
    names = sorted(name for name in set(section.labels) if name.lower() not in UNLABELLED)
    if len(names) < 2:
        return None
    runs = list(section.predictions)[:RUNS_SHOWN]
    shown = 2 + len(runs)
    figure, grid = _panels(-(-shown // COLUMNS), min(shown, COLUMNS), section)
    axes = grid.ravel()
    for unused in axes[shown:]:
        unused.set_axis_off()
    named = np.isin(section.labels, names)
    codes = np.array([names.index(name) if name in names else -1 for name in section.labels])
    _codes(axes[0], section, codes, "pathologist")
    if section.micrometres_per_pixel is not None:
        scale_bar(axes[0], section.micrometres_per_pixel)
    panels = {"measured": section.truth, **{label: section.predictions[label] for label in runs}}
    for column, (label, expression) in enumerate(panels.items(), 1):
        clusters = np.full(len(section.labels), -1)
        clusters[named] = _matched(spatial_domains(expression[named], len(names)), codes[named])
        ari, _ = domain_agreement(expression, list(section.labels))
        _codes(axes[column], section, clusters, f"{section.name(label)}\nARI {signed(ari)}")
    figure.suptitle(
        textwrap.fill(
            f"section {plain(section.section)}: k-means domains, coloured by the label that they"
            " overlap most",
            int(figure_width() * 12),
        ),
        fontsize=points(9),
    )
    _label_legend(figure, names)
    return figure


def _matched(clusters: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Clusters renumbered to maximise the number of spots whose cluster matches their label."""
    from scipy.optimize import linear_sum_assignment

    size = int(max(clusters.max(), codes.max())) + 1
    overlap = np.zeros((size, size))
    np.add.at(overlap, (clusters, codes), 1)
    rows, columns = linear_sum_assignment(-overlap)
    return columns[np.argsort(rows)][clusters]


def _panels(rows: int, columns: int, section: SectionMap) -> tuple[Figure, np.ndarray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    extent = np.ptp(section.spatial, axis=0)
    tall = float(np.clip(extent[1] / max(extent[0], 1.0), 0.6, 1.6))
    # Maps of a figure with fewer columns are as large as those of a full row.
    panel = figure_width() / COLUMNS
    size = (panel * columns, (panel * tall + points(0.075) * 9) * rows + points(0.05) * 9)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _background(axes: Axes, section: SectionMap) -> None:
    low, high = section.spatial.min(axis=0), section.spatial.max(axis=0)
    margin = 0.05 * (high - low).max()
    if section.image is not None:
        pixels, (width, height) = _pale(section.image)
        axes.imshow(pixels, extent=(0, width / section.scale, height / section.scale, 0))
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(high[1] + margin, low[1] - margin)
    axes.set_aspect("equal")
    axes.set_axis_off()


@lru_cache(maxsize=1)
def _pale(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Image in pale colours at the resolution of a map, and its original size."""
    from PIL import Image

    with Image.open(path, formats=("JPEG",)) as image:
        size = image.size
        small = image.convert("RGB")
    small.thumbnail((_MAP_PIXELS, _MAP_PIXELS))
    return np.asarray(Image.blend(small, Image.new("RGB", small.size, "white"), 0.3)), size


_MAP_PIXELS = 400


def _spot_area(section: SectionMap) -> float:
    """Area of a spot in points, such that neighbours nearly touch."""
    from scipy.spatial import cKDTree

    if len(section.spatial) < 2:
        return 40.0
    pitch = float(np.median(cKDTree(section.spatial).query(section.spatial, k=2)[0][:, 1]))
    width = 1.1 * max(np.ptp(section.spatial, axis=0).max(), 1.0)
    return float((0.8 * pitch / width * figure_width() / COLUMNS * 72) ** 2)


def _fitted(title: str) -> str:
    """Title of a map with long names broken into two lines, the rest of them left out."""
    letters = int(figure_width() / COLUMNS * 72 / (0.55 * points(8)))
    lines = [
        part
        for line in title.split("\n")
        for part in textwrap.wrap(printable(line), letters, max_lines=2, placeholder="…")
    ]
    return "\n".join(map(plain, lines))


def _gene_name(axes: Axes, gene: str) -> None:
    """Symbol of a gene in italics, beside the first map of its row."""
    axes.text(
        *(-0.06, 0.5, plain(gene)),
        transform=axes.transAxes,
        rotation=90,
        ha="right",
        va="center",
        style="italic",
        fontsize=points(9),
    )


def _values(axes: Axes, section: SectionMap, values: np.ndarray, title: str) -> None:
    """One map with its colour bar, whose ends are the lowest and the highest value."""
    _background(axes, section)
    drawn = axes.scatter(
        section.spatial[:, 0],
        section.spatial[:, 1],
        c=values,
        s=_spot_area(section),
        cmap="viridis",
        linewidths=0,
        alpha=0.9,
    )
    axes.set_title(_fitted(title), fontsize=points(8))
    low, high = float(values.min()), float(values.max())
    bar = axes.figure.colorbar(
        drawn, ax=axes, orientation="horizontal", fraction=0.05, pad=0.02, aspect=25, shrink=0.8
    )
    if low == high:
        bar.ax.set_visible(False)  # one value has no range; its map lies beside the others
        return
    digits = 1 if high - low >= 1 else 2
    bar.set_ticks([low, high], labels=[signed(low, digits), signed(high, digits)])
    bar.ax.tick_params(labelsize=points(6.5), length=2, pad=1.5)
    bar.outline.set_visible(False)


def _palette(number: int) -> list[Any]:
    import seaborn as sns

    return list(sns.color_palette("colorblind", number))


def _codes(axes: Axes, section: SectionMap, codes: np.ndarray, title: str) -> None:
    _background(axes, section)
    palette = _palette(max(int(codes.max()) + 1, 1))
    colours = [palette[code] if code >= 0 else (0.8, 0.8, 0.8) for code in codes]
    x, y = section.spatial[:, 0], section.spatial[:, 1]
    axes.scatter(x, y, c=colours, s=_spot_area(section), linewidths=0, alpha=0.9)
    axes.set_title(_fitted(title), fontsize=points(8))


def _label_legend(figure: Figure, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    palette = _palette(len(names))
    handles = [Patch(color=palette[number], label=plain(name)) for number, name in enumerate(names)]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(names), 5 if figure_width() >= WIDE else 3),
        fontsize=points(8),
        frameon=False,
    )
