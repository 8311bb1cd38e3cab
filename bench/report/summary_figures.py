"""Figures over several datasets: scores and ranks of every method as heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.evaluate.scores import BY_NAME
from bench.files import printable
from bench.report.figure_style import new_figure, plain, points, signed
from bench.report.paper import PaperTable, row_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def summary_figure(table: PaperTable) -> Figure:
    """Heat maps of methods by datasets: the first score of the table, and its ranks.

    Controls and oracles have no rank, nor has a value that is not comparable with the others.
    """
    score = table.scores[0]
    labels = row_names(table.rows)
    datasets = list(dict.fromkeys(d for d, name in table.columns if name == score.name))
    found = [[row.cells.get((dataset, score.name)) for dataset in datasets] for row in table.rows]
    values = pd.DataFrame([[v.value if v else np.nan for v in row] for row in found])
    competing = pd.DataFrame([[bool(v and v.competes) for v in row] for row in found])
    ranks = values.where(competing).rank(ascending=score.better == "lower")
    figure, axes = new_figure(0.3 * len(labels) + 1.2, 2)
    scaled = values.sub(values.min()).div((values.max() - values.min()).replace(0, 1))
    if score.better == "lower":
        scaled = 1 - scaled
    shades = 1 - ranks.sub(1).div(max(competing.sum().max() - 1, 1))
    _heat(axes[0], scaled, values.map(lambda value: "" if np.isnan(value) else signed(value, 3)))
    _heat(axes[1], shades, ranks.map(lambda rank: "" if np.isnan(rank) else f"{rank:g}"))
    axes[0].set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes[1].set_yticks([])
    for place in axes:
        names = [plain(printable(dataset)) for dataset in datasets]
        place.set_xticks(
            range(len(datasets)), names, rotation=40, ha="right", rotation_mode="anchor"
        )
    how = "higher" if score.better == "higher" else "lower"
    axes[0].set_title(f"{BY_NAME[score.name].heading} ({how} is better)", fontsize=points(9))
    axes[1].set_title("rank on a dataset (1 is best)", fontsize=points(9))
    return figure


def _heat(axes: Axes, shades: pd.DataFrame, texts: pd.DataFrame) -> None:
    """Cells shaded from light to dark as they are better, each with its text."""
    axes.imshow(shades.to_numpy(dtype=float), cmap="Blues", vmin=-0.15, vmax=1.15, aspect="auto")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    for (row, column), shade in np.ndenumerate(shades.to_numpy(dtype=float)):
        colour: Any = "white" if shade > 0.6 else "black"
        axes.text(
            column,
            row,
            str(texts.iloc[row, column]) or "–",
            ha="center",
            va="center",
            color=colour,
            fontsize=points(7),
        )
