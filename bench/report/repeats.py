"""Agreement of runs with one key from several sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.evaluate.scores import BY_NAME
from bench.stored_runs import StoredRun


@dataclass(frozen=True)
class Agreement:
    """Largest difference of a score of one section between two results.

    Attributes
    ----------
    difference
        Absolute difference; infinite where the score is defined in one alone, NaN where nothing
        could be compared.
    score, section
        Where it occurs; `section` is empty for a score over all spots of a fold.
    compared
        Number of scores in both.
    """

    difference: float
    score: str = ""
    section: str = ""
    compared: int = 0

    @property
    def said(self) -> str:
        """Difference in words, for a note."""
        if not self.compared:
            return "no section in common"
        if self.difference == 0:
            return f"all {self.compared:,} scores of sections are equal"
        heading = BY_NAME[self.score].heading if self.score in BY_NAME else self.score
        where = f"section {self.section}" if self.section else "all spots of a fold"
        if np.isinf(self.difference):
            return f"{heading} of {where} is defined in one of them alone"
        return f"largest difference of a section's score {self.difference:.2g} ({heading}, {where})"


def agreement(first: StoredRun, second: StoredRun) -> Agreement:
    """Largest difference between the scores of two runs in the folds that both have."""
    scores = _scores(first), _scores(second)
    return largest_difference(*scores)


def largest_difference(
    first: dict[tuple[int, str, str], float], second: dict[tuple[int, str, str], float]
) -> Agreement:
    """Largest difference between two mappings of fold, score and section to a value."""
    common = sorted(first.keys() & second.keys())
    if not common:
        return Agreement(float("nan"))
    pairs = np.array([[first[place], second[place]] for place in common])
    undefined = np.isnan(pairs)
    gaps = np.abs(pairs[:, 0] - pairs[:, 1])
    gaps[undefined.all(axis=1)] = 0.0
    gaps[undefined[:, 0] != undefined[:, 1]] = np.inf
    worst = int(gaps.argmax())
    if not gaps[worst]:
        return Agreement(0.0, compared=len(common))
    _, score, section = common[worst]
    return Agreement(float(gaps[worst]), score, section, len(common))


def _scores(run: StoredRun) -> dict[tuple[int, str, str], float]:
    if not run.done:
        return {}
    table = run.scores()
    columns = (table[name].tolist() for name in ("fold", "score", "section", "value"))
    return {
        (fold, score, section): value for fold, score, section, value in zip(*columns, strict=True)
    }


def repeat_notes(runs: Sequence[StoredRun]) -> list[str]:
    """Footnotes on rows that another source has as well, each with the largest difference."""
    return [
        f"{run.facts['label']} (run {run.facts['key'][:12]}): also from"
        f" {repeat.origin.get('name', 'here')}; {agreement(run, repeat).said}."
        for run in runs
        for repeat in run.repeats
    ]
