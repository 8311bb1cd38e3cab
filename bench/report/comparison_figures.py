"""Figures that compare runs: scores, genes, ranks, cost. Drawn from stored results alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.evaluate.scores import BY_NAME, COMPARABLE, LEADING
from bench.evaluate.uncertainty import PATIENTS_FOR_A_TEST
from bench.report.data_efficiency import efficiency_figure
from bench.report.figure_style import (
    colours,
    kind_legend,
    label_x,
    marked,
    marker,
    move_apart,
    new_figure,
    plain,
    points,
)
from bench.report.method_figures import encoder_figure, gene_scatter
from bench.report.pairs import few_patients, pair_table, section_scores
from bench.report.seeds import by_seed
from bench.report.tables import row_names, score_table
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def comparison_figures(runs: Sequence[StoredRun]) -> dict[str, Figure]:
    """All figures that can be drawn of the runs.

    Parameters
    ----------
    runs
        Runs on one dataset under one protocol; those without a finished fold are left out.

    Returns
    -------
    dict of str to Figure
        ``scores``, ``genes``; ``cost`` of two or more runs; ``critical-difference`` where three or
        more runs have sections in common; ``encoders`` of a method with several; ``gene-scatter``
        of the two best methods; ``data-efficiency`` where training patients were limited.
    """
    done = [run for run in runs if run.done]
    figures: dict[str, Figure] = {}
    if not done:
        return figures
    figures["scores"] = score_figure(done)
    figures["genes"] = gene_figure(done)
    # Costs, ranks, encoders and genes compare methods that learned from equally many patients.
    whole = [run for run in done if run.facts.get("train_patients") is None] or done
    drawn = {
        "cost": cost_figure(whole),
        "critical-difference": rank_figure(whole),
        "encoders": encoder_figure(whole),
        "gene-scatter": gene_scatter(whole),
        "data-efficiency": efficiency_figure(done),
    }
    figures |= {name: figure for name, figure in drawn.items() if figure is not None}
    return figures


def score_figure(runs: Sequence[StoredRun], score: str = LEADING) -> Figure:
    """Mean and 95 % interval of every run, its sections as points, the ceiling as a band."""
    table = score_table(runs)
    by_section = section_scores(runs, score)
    labels = _labels(by_section)
    rows = _rows_of(table, labels)
    figure, axes = new_figure(0.34 * len(labels) + 1.1)
    palette = colours()
    rng = np.random.default_rng(0)
    for height, label in enumerate(reversed(labels)):
        values = by_section[label].dropna().to_numpy()
        row = rows[label]
        colour = palette[row["kind"]]
        if not len(values):
            axes.text(0, height, "  undefined", va="center", fontsize=points(7), color="0.4")
        jitter = height + rng.uniform(-0.12, 0.12, len(values))
        axes.scatter(values, jitter, s=points(9), color=colour, alpha=0.35, linewidths=0)
        if np.isfinite(row[f"{score}_low"]):
            axes.hlines(height, row[f"{score}_low"], row[f"{score}_high"], color=colour, lw=2)
        axes.scatter(
            [row[score]], [height], s=points(34), color=colour, zorder=3, marker=marker(row["kind"])
        )
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    ceiling = _ceiling_rule(axes, runs, score)
    axes.set_yticks(
        range(len(labels)), [marked(label, rows[label]["kind"]) for label in reversed(labels)]
    )
    said = f"{BY_NAME[score].heading} per section: mean, 95 % interval over patients"
    label_x(axes, said)
    kind_legend(figure, {row["kind"] for row in rows.values()}, ceiling)
    return figure


def _ceiling_rule(axes: Axes, runs: Sequence[StoredRun], score: str) -> list[Any]:
    """Draw the noise ceiling as a rule; give what the legend says of it.

    The rule must not squeeze the methods: where it lies far beyond their values, the axis ends
    before it and the legend gives its value.
    """
    from matplotlib.lines import Line2D

    name = BY_NAME[score].ceiling
    by_run = section_scores(runs, name).drop(columns="patient") if name else pd.DataFrame()
    ceiling = by_run.max(axis=1).dropna()
    if not len(ceiling):
        return []
    mean = float(ceiling.mean())
    low, high = axes.get_xlim()
    line: dict[str, Any] = {"color": "0.4", "linestyle": "--", "linewidth": 1.0}
    if mean <= high + _FAR * (high - low):
        axes.axvline(mean, **line)
        return [Line2D([], [], **line, label="noise ceiling")]
    axes.set_xlim(low, high)
    axes.annotate(
        "",
        (1.0, 1.0),
        xytext=(0.94, 1.0),
        xycoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": "0.4"},
        annotation_clip=False,
    )
    return [Line2D([], [], **line, label=f"noise ceiling {mean:.2f}, beyond the axis")]


_FAR = 0.6
"""Share of the range of an axis by which the noise ceiling may extend it."""


def gene_figure(runs: Sequence[StoredRun]) -> Figure:
    """Distribution over genes of the mean PCC, one box per run."""
    import seaborn as sns

    table = score_table(runs)
    by_key = {row.key: row for row in by_seed(runs)}
    labels = _labels(section_scores(runs, LEADING))
    rows = _rows_of(table, labels)
    parts = []
    for label in labels:
        genes = by_key[rows[label]["key"]].genes().groupby("gene")["pcc"].mean().dropna()
        name = marked(label, rows[label]["kind"])
        parts.append(pd.DataFrame({"run": name, "pcc": genes, "kind": rows[label]["kind"]}))
    long = pd.concat(parts)
    figure, axes = new_figure(0.34 * len(labels) + 1.1)
    palette = colours()
    names = {marked(label, rows[label]["kind"]): label for label in labels}
    shown = {name: label for name, label in names.items() if (long["run"] == name).any()}
    if len(long):
        sns.boxplot(
            long,
            x="pcc",
            y="run",
            order=list(shown),
            hue="run",
            hue_order=list(shown),
            palette=[palette[rows[label]["kind"]] for label in shown.values()],
            legend=False,
            fliersize=1.5,
            linewidth=0.9,
            width=0.65,
            ax=axes,
        )
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    label_x(axes, "PCC of a gene, mean over sections")
    axes.set_ylabel("")
    return figure


def cost_figure(runs: Sequence[StoredRun]) -> Figure | None:
    """Score against training time in seconds; the area of a point shows peak memory.

    None where fewer than two runs have a cost: controls are left out unless there is nothing else.
    """
    table = score_table(runs)
    table = _contestants(table[table[LEADING].notna()])  # controls cost nothing
    if len(table) < 2:
        return None
    memory = {row.key: max(map(peak_memory, row.runs)) for row in by_seed(runs)}
    figure, axes = new_figure(3.6)
    palette = colours()
    seconds = table["fit_seconds"].clip(lower=0.01)
    for (_, row), name, time in zip(table.iterrows(), row_names(table), seconds, strict=True):
        gigabytes = memory[row["key"]] / 1024
        axes.scatter(
            [time],
            [row[LEADING]],
            s=30 + 60 * gigabytes,
            color=palette[row["kind"]],
            alpha=0.75,
            linewidths=0,
            marker=marker(row["kind"]),
        )
        axes.annotate(
            plain(name),
            (time, row[LEADING]),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=points(8),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.18, y=0.12)
    move_apart(figure, axes)
    label_x(axes, "seconds of training, all folds (area: peak memory)")
    axes.set_ylabel(BY_NAME[LEADING].heading)
    return figure


def rank_figure(runs: Sequence[StoredRun], score: str = LEADING) -> Figure | None:
    """Critical-difference diagram: mean ranks over sections, ties joined by bars.

    Only methods if there are at least three, otherwise all runs. Bars join those that permutation
    over patients, after Holm's correction, does not tell apart. None where fewer than three runs
    share three sections.
    """
    import scikit_posthocs

    runs = _field(runs)
    scores = section_scores(runs, score).drop(columns="patient").dropna(axis=1, how="all").dropna()
    if scores.shape[1] < 3 or len(scores) < 3:
        return None
    ranks = scores.rank(axis=1, ascending=COMPARABLE[score].better == "lower").mean()
    pairs = pair_table(runs, score)
    # The library iterates over sets of names, whose order differs between processes; that of
    # sets of small numbers does not.
    number = {name: place for place, name in enumerate(ranks.index)}
    p = pd.DataFrame(1.0, index=range(len(ranks)), columns=range(len(ranks)))
    for row in pairs.to_dict("records"):
        if row["first"] in number and row["second"] in number:
            first, second = number[row["first"]], number[row["second"]]
            able = row["patients"] >= PATIENTS_FOR_A_TEST
            corrected = not np.isnan(row["permutation_holm"])
            value = row["permutation_holm" if corrected else "permutation"] if able else 1.0
            p.loc[first, second] = p.loc[second, first] = value
    figure, axes = new_figure(0.26 * len(ranks) + 1.3)
    drawn = scikit_posthocs.critical_difference_diagram(
        ranks.set_axis(range(len(ranks))),
        p,
        ax=axes,
        label_fmt_left="{label} ({rank:.3g})",
        label_fmt_right="({rank:.3g}) {label}",
        label_props={"fontsize": points(8)},
        color_palette=dict.fromkeys(range(len(ranks)), "0.15"),
        crossbar_props={"color": "0.35", "linewidth": 2.5},
        elbow_props={"linewidth": 0.8},
    )
    names = list(ranks.index)
    for text in drawn["labels"]:
        left, _, right = text.get_text().partition(" ")
        is_left = left.isdigit()
        name = plain(names[int(left if is_left else right)])
        text.set_text(f"{name} {right}" if is_left else f"{left} {name}")
    patients = int(pairs["patients"].min()) if len(pairs) else 0
    said = f"mean rank over {len(scores)} sections of {patients} patients; 1 is best"
    if patients < PATIENTS_FOR_A_TEST:
        said += "\nno test over fewer than 6 patients has power: all are joined"
    elif few_patients(pairs):
        said += f"\ntoo few patients to tell any of {len(pairs)} pairs apart: all are joined"
    axes.set_title(said, fontsize=points(9))
    return figure


def peak_memory(run: StoredRun) -> float:
    """Largest resident memory over the folds of a run, in MB; 0 where it was not measured."""
    peaks = [run.folder.fold(index).facts().get("peak_memory_mb") for index in run.done]
    return max((float(value) for value in peaks if value), default=0.0)


def _contestants(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of methods, or all rows if there are none."""
    methods = table[table["kind"] == "method"]
    return methods if len(methods) else table


def _field(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """Runs of methods if there are at least three, otherwise all runs."""
    methods = [run for run in runs if run.facts["kind"] == "method"]
    return methods if len(methods) >= 3 else list(runs)


def _labels(scores: pd.DataFrame) -> list[str]:
    return [name for name in scores.columns if name != "patient"]


def _rows_of(table: pd.DataFrame, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of the score table by the labels that :func:`section_scores` gives, in its order."""
    done = table[table["folds"] > 0]
    rows = [{str(name): value for name, value in row.items()} for row in done.to_dict("records")]
    return dict(zip(labels, rows, strict=True))
