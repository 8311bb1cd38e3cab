"""Figures of methods beside each other: encoders of one method, and two methods gene by gene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.evaluate.scores import BY_NAME, LEADING
from bench.method_references import RANDOM, split_encoder
from bench.report.figure_style import (
    colours,
    figure_width,
    label_x,
    move_apart,
    new_figure,
    plain,
    points,
)
from bench.report.published import published_label
from bench.report.tables import row_name, score_table
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 6
"""Genes that are named in a scatter plot: those with the largest differences."""


def encoder_figure(runs: Sequence[StoredRun], score: str = LEADING) -> Figure | None:
    """Mean and 95 % interval by encoder, one colour a method.

    The same encoder with random weights is shown as an open point. None where no method has runs
    with two encoders or more.
    """
    rows = _encoder_rows(runs, score)
    several = rows.groupby("method")["encoder"].nunique() if len(rows) else pd.Series(dtype=int)
    rows = rows[rows["method"].isin(several[several > 1].index)] if len(rows) else rows
    if rows.empty:
        return None
    best = rows[~rows["random"]].groupby("encoder")[score].max()
    best = best.reindex(rows["encoder"].unique()).sort_values(na_position="first")
    figure, axes = new_figure(0.34 * max(len(best), 3) + 1.0)
    palette = _palette(rows["method"].unique())
    shift = {name: 0.16 * n for n, name in enumerate(palette)}
    middle = 0.16 * (len(palette) - 1) / 2
    for row in rows.to_dict("records"):
        height = list(best.index).index(row["encoder"]) + middle - shift[row["method"]]
        colour = palette[row["method"]]
        if np.isfinite(row[f"{score}_low"]):
            axes.hlines(height, row[f"{score}_low"], row[f"{score}_high"], color=colour, lw=1.6)
        axes.scatter(
            [row[score]],
            [height],
            s=points(50 if row["random"] else 26),
            facecolors="white" if row["random"] else [colour],
            edgecolors=[colour],
            zorder=2 if row["random"] else 3,
        )
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(best)), [plain(name) for name in best.index])
    axes.set_ylabel("image encoder")
    axes.set_ylim(-0.6, len(best) - 0.4)
    label_x(axes, f"{BY_NAME[score].heading}: mean, 95 % interval over patients")
    _encoder_legend(figure, palette, bool(rows["random"].any()))
    return figure


def _encoder_rows(runs: Sequence[StoredRun], score: str) -> pd.DataFrame:
    """Rows of the score table that name an encoder, with their method and encoder."""
    table = score_table(runs)
    by_key = {run.facts["key"][:12]: run.facts for run in runs}
    rows = []
    for row in table[table[score].notna()].to_dict("records"):
        facts = by_key[row["key"]]
        label = str(facts.get("method_label", facts["label"]))
        method, encoder = split_encoder(published_label(label, row["changes"]))
        config = facts.get("config")
        if not encoder and isinstance(config, dict):
            encoder = config.get("encoder") or ""
        if row["kind"] == "oracle" or not isinstance(encoder, str) or not encoder:
            continue
        is_random = encoder.startswith(RANDOM)
        rows.append(
            {
                "method": method,
                "encoder": encoder.removeprefix(RANDOM),
                "random": is_random,
                **{name: row[name] for name in (score, f"{score}_low", f"{score}_high")},
            }
        )
    columns = ["method", "encoder", "random", score, f"{score}_low", f"{score}_high"]
    return pd.DataFrame(rows, columns=columns)


def _palette(names: Any) -> dict[str, Any]:
    import seaborn as sns

    return dict(zip(map(str, names), sns.color_palette("colorblind", len(names)), strict=True))


def _encoder_legend(figure: Figure, palette: dict[str, Any], random: bool) -> None:
    from matplotlib.lines import Line2D

    point: dict[str, Any] = {"linestyle": "", "marker": "o"}
    handles = [Line2D([], [], color=c, label=plain(m), **point) for m, c in palette.items()]
    if random:
        open_point: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": "0.3"}
        handles.append(Line2D([], [], label="random weights", **point, **open_point))
    figure.legend(
        handles=handles,
        fontsize=points(8),
        frameon=False,
        loc="outside upper right",
        ncols=min(len(handles), 4),
    )


def gene_scatter(runs: Sequence[StoredRun]) -> Figure | None:
    """PCC of every gene under the best method against that under the second best.

    Means over the sections that both have. None where fewer than two methods share genes.
    """
    table = score_table(runs)
    table = table[(table["kind"] == "method") & table[LEADING].notna()]
    if len(table) < 2:
        return None
    by_key = {run.facts["key"][:12]: run for run in runs}
    first, second = table.head(2).to_dict("records")
    genes = [
        by_key[row["key"]].genes().set_index(["section", "gene"])["pcc"] for row in (first, second)
    ]
    both = pd.concat(genes, axis=1, keys=["first", "second"], join="inner").dropna()
    means = both.groupby("gene").mean()
    if len(means) < 2:
        return None
    figure, axes = new_figure(min(4.2, figure_width() + 0.4))
    axes.scatter(
        means["second"], means["first"], s=points(7), color=colours()["method"], alpha=0.45, lw=0
    )
    low, high = float(means.min().min()), float(means.max().max())
    margin = 0.05 * max(high - low, 1e-6)
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="0.5", linewidth=0.8, zorder=0)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_aspect("equal")
    difference = means["first"] - means["second"]
    for gene in difference.abs().nlargest(NAMED).index:
        axes.annotate(
            plain(gene),
            (means.loc[gene, "second"], means.loc[gene, "first"]),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=points(7),
            style="italic",
            # Points lie close, so a name shows which is its own.
            arrowprops={"arrowstyle": "-", "color": "0.3", "lw": 0.5, "shrinkA": 0, "shrinkB": 1},
        )
    move_apart(figure, axes)
    axes.set_xlabel(f"PCC of a gene, {plain(row_name(second, table))}")
    axes.set_ylabel(f"PCC of a gene, {plain(row_name(first, table))}")
    better = int((difference > 0).sum())
    sections = both.index.get_level_values("section").nunique()
    axes.set_title(
        f"above the line: {better} of {len(means)} genes\nmeans over {sections} sections",
        fontsize=points(8),
    )
    return figure
