"""Scores against the number of training patients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.evaluate.scores import BY_NAME, LEADING
from bench.report.figure_style import new_figure, plain
from bench.report.seeds import SAME, SeedRuns, by_seed
from bench.report.tables import score_table
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_APART = 0.04
"""Distance between the points of two methods, in patients, so that intervals do not hide others."""


def efficiency_figure(runs: Sequence[StoredRun], score: str = LEADING) -> Figure | None:
    """Mean and 95 % interval of a score against the number of training patients, a line a method.

    Parameters
    ----------
    runs
        Runs with a finished fold. A run with all patients is placed at their mean number over the
        folds.
    score
        The score.

    Returns
    -------
    Figure or None
        None where no method with limited training patients has a value.
    """
    lines = efficiency_lines(runs)
    if not lines:
        return None
    table = score_table(runs)
    rows = {str(row["key"]): row for row in table.to_dict("records")}
    figure, axes = new_figure(3.6)
    ticks: set[float] = set()
    for number, (name, line) in enumerate(sorted(lines.items())):
        points = [
            (count, rows[row.key]) for count, row in line if not np.isnan(rows[row.key][score])
        ]
        if not points:
            continue
        counts = np.array([count for count, _ in points])
        low, mean, high = (
            np.array([float(row[f"{score}{end}"]) for _, row in points])
            for end in ("_low", "", "_high")
        )
        known = np.isfinite(low)
        axes.errorbar(
            counts + _APART * (number - (len(lines) - 1) / 2),
            mean,
            yerr=np.where(known, [mean - low, high - mean], 0.0),
            marker="os^Dv<>P"[number % 8],
            markersize=5,
            linewidth=1.2,
            elinewidth=1,
            capsize=2,
            label=plain(name),
        )
        ticks |= set(counts)
    if not ticks:
        return None
    axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
    axes.set_xlabel("training patients in each fold, beside those for validation")
    axes.set_ylabel(f"{BY_NAME[score].heading}, 95 % interval")
    axes.legend(fontsize=8, frameon=False)
    return figure


def efficiency_lines(runs: Sequence[StoredRun]) -> dict[str, list[tuple[float, SeedRuns]]]:
    """Rows that differ in the number of training patients alone, by name, in ascending number.

    Methods without a limited row are left out, as are oracles, which learn nothing.
    """
    together: dict[str, list[tuple[float, SeedRuns]]] = {}
    for row in by_seed(runs):
        count = row.facts.get("train_patients") or row.facts.get("training_patients")
        if row.facts["kind"] == "oracle" or count is None or not row.done:
            continue
        same = [row.facts.get(name) for name in SAME if name != "train_patients"]
        together.setdefault(json.dumps([*same, row.seed], sort_keys=True), []).append(
            (float(count), row)
        )
    lines: dict[str, list[tuple[float, SeedRuns]]] = {}
    for line in together.values():
        if any("train_patients" in row.facts for _, row in line):
            facts: dict[str, Any] = line[0][1].facts
            name = str(facts["label"])
            if name in lines:
                name = f"{name} ({facts['preset']}, seed {line[0][1].seed}, {line[0][1].key[:6]})"
            lines[name] = sorted(line, key=lambda point: point[0])
    return lines
