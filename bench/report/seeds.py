"""Runs that differ in their seed alone, which are one row of a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bench.evaluate.metrics import nanmean, nanstd
from bench.evaluate.scores import BY_NAME, LEADING
from bench.report.formats import shown_number
from bench.stored_runs import StoredRun

SAME = (
    *("dataset", "label", "preset", "config", "tuned", "checkpoint", "train_patients"),
    *("folds_hash", "protocol_hash", "tables_hash"),
)
"""Facts in which the runs of a row agree."""

SEEDS_HEADING, DEVIATION_HEADING = "seeds", "sd over seeds"
PATIENTS_HEADING = "train patients"

SEEDS_NOTE = (
    f"{SEEDS_HEADING}: the score of a section is its mean over the seeds; means, ± and 95 %"
    f" interval are over sections as for one seed. {DEVIATION_HEADING}: standard deviation"
    " (n - 1) of the mean score of each seed, for seeds with all folds of the row."
)

PATIENTS_NOTE = (
    f"{PATIENTS_HEADING}: number of training patients that a method was given in each fold, in"
    " nested subsets, beside the validation patient; panel, highly expressed genes, validation and"
    " test sections are those of the whole fold."
)


@dataclass(frozen=True, eq=False)
class SeedRuns:
    """Runs of one row, in the order of their seeds; often a single one.

    Attributes
    ----------
    runs
        Runs that differ in their seed alone, or in code and versions beside it.
    """

    runs: tuple[StoredRun, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Contents of ``run.json`` of the run with the lowest seed."""
        return self.runs[0].facts

    @property
    def key(self) -> str:
        """Beginning of the key of the run with the lowest seed, by which rows are found."""
        return str(self.facts["key"])[:12]

    @property
    def seed(self) -> int | str:
        """The seed, or all seeds as text, such as ``0-4``."""
        seeds = [int(run.facts["seed"]) for run in self.runs]
        return seeds[0] if len(seeds) == 1 else shown_seeds(seeds)

    @cached_property
    def done(self) -> tuple[StoredRun, ...]:
        """Runs with a finished fold."""
        return tuple(run for run in self.runs if run.done)

    @property
    def shown(self) -> StoredRun:
        """Run whose predictions and settings stand for the row: the lowest seed with a fold."""
        return self.done[0] if self.done else self.runs[0]

    @cached_property
    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Score, section, patient and mean value over the seeds, as of one run's scores.

        A value that is undefined for a seed is left out of the mean.
        """
        if len(self.done) == 1:
            return self.done[0].score_columns()
        keys = ["score", "section", "patient", "fold"]
        scores = pd.concat([run.scores()[[*keys, "value"]] for run in self.done])
        table = scores.groupby(keys, sort=False)["value"].mean().reset_index()
        score, section, patient, value = (
            table[name].to_numpy() for name in ("score", "section", "patient", "value")
        )
        return score, section, patient, value

    def of_sections(self, score: str) -> pd.DataFrame:
        """``patient`` and ``value`` of one score by test section, the value over the seeds."""
        names, sections, patients, values = self.means
        chosen = (names == score) & (sections != "")
        content = {"patient": patients[chosen], "value": values[chosen].astype(np.float64)}
        return pd.DataFrame(content, index=pd.Index(sections[chosen], name="section"))

    def genes(self) -> pd.DataFrame:
        """Rows of genes and sections of all seeds."""
        return pd.concat([run.genes() for run in self.done], ignore_index=True)

    def deviation(self, score: str, *, pooled: bool = False) -> float:
        """Standard deviation (n - 1) over seeds of the mean of a score.

        Of seeds that have all folds of the row; NaN where they are fewer than two.
        """
        folds = {index for run in self.done for index in run.done}
        means = []
        for run in self.done:
            if len(self.done) > 1 and set(run.done) == folds:
                names, sections, _, values = run.score_columns()
                means.append(nanmean(values[(names == score) & ((sections == "") == pooled)]))
        return nanstd(np.array(means, dtype=np.float64))


def by_seed(runs: Sequence[StoredRun]) -> list[SeedRuns]:
    """Rows of a table: runs of one source that differ in their seed alone are together.

    Several runs of one seed, for example of different code, are in rows of their own.
    """
    rows: dict[str, list[dict[int, StoredRun]]] = {}
    for run in sorted(runs, key=lambda run: str(run.facts.get("created", ""))):
        same_facts = [*(run.facts.get(name) for name in SAME), run.origin.get("sha256")]
        key = json.dumps(same_facts, sort_keys=True)
        seed = int(run.facts["seed"])
        same = rows.setdefault(key, [])
        row = next((row for row in same if seed not in row), None)
        if row is None:
            row = {}
            same.append(row)
        row[seed] = run
    listed = [row for same in rows.values() for row in same]
    return [SeedRuns(tuple(run for _, run in sorted(row.items()))) for row in listed]


def shown_seeds(seeds: Sequence[int]) -> str:
    """Seeds as ``--seeds`` takes them, such as ``0-4`` or ``0,1,7``.

    Examples
    --------
    >>> shown_seeds([0, 1, 2, 7])
    '0-2,7'
    """
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(
        f"{part[0]}-{part[-1]}" if len(part) > 2 else ",".join(map(str, part)) for part in parts
    )


def limited(patients: float | None) -> str:
    """Addition to the name of a row whose training patients are limited; empty where not."""
    if patients is None or pd.isna(patients):
        return ""
    return f", {int(patients)} training patient{'s' if patients > 1 else ''}"


def several_seeds(table: pd.DataFrame) -> bool:
    """Whether a row of a score table is of several seeds."""
    return bool((table["seeds"] > 1).any())


def frame_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """Columns for people before the scores: number of seeds, and of training patients."""
    columns: dict[str, list[str]] = {}
    if several_seeds(table):
        columns[SEEDS_HEADING] = [str(count) for count in table["seeds"]]
    if table["train_patients"].notna().any():
        columns[PATIENTS_HEADING] = [
            "all" if pd.isna(count) else str(int(count)) for count in table["train_patients"]
        ]
    return columns


def deviation_column(table: pd.DataFrame, score: str = LEADING) -> dict[str, list[str]]:
    """Column for people of the deviation over seeds; none where no row has several."""
    if not several_seeds(table):
        return {}
    digits = BY_NAME[score].decimals
    return {
        DEVIATION_HEADING: [shown_number(value, digits) for value in table[f"{score}_sd_seeds"]]
    }
