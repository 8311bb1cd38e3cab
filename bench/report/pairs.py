"""The table of paired comparisons between methods."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.errors import BenchError, UnknownNameError
from bench.evaluate.scores import COMPARABLE, LEADING
from bench.evaluate.uncertainty import PATIENTS_FOR_A_TEST, compare_pairs, holm
from bench.report.formats import Format, write_table
from bench.report.presets import preset_notes, shown_preset, small_preset_notes
from bench.report.seeds import by_seed
from bench.report.tables import row_name, score_table
from bench.report.views import AS_IT_IS, View, check_wanted, chosen_columns, is_wanted
from bench.stored_runs import StoredRun

SIGNIFICANT = 0.05

_UNCORRECTED = "†"

_GIVE_WAY = ("patients", "p (sections)", "sections")
"""Columns hidden on a narrow terminal, in this order."""


def section_scores(runs: Sequence[StoredRun], score: str) -> pd.DataFrame:
    """Table of one score for every row and test section; of several seeds the mean over them.

    Returns
    -------
    DataFrame
        Sections in rows (index ``section``, column ``patient`` first), then one column per row in
        the order of the score table; NaN if a row lacks a section. Names are those of
        :func:`bench.report.tables.row_name`.
    """
    table = score_table(runs)
    by_key = {row.key: row for row in by_seed(runs)}
    columns: dict[str, pd.Series] = {}
    patients: dict[str, str] = {}
    for row in table.to_dict("records"):
        runs_of_row = by_key[row["key"]]
        if not runs_of_row.done:
            continue
        part = runs_of_row.of_sections(score)
        patients |= dict(zip(part.index, part["patient"], strict=True))
        columns[row_name(row, table)] = part["value"]
    values = pd.DataFrame(columns)
    values.index.name = "section"
    values.insert(0, "patient", [patients[section] for section in values.index])
    return values.sort_index()


def pair_table(
    runs: Sequence[StoredRun], score: str = LEADING, against: str | None = None
) -> pd.DataFrame:
    """All pairs of rows on the same folds, the better row first, with Holm's correction.

    Rows that learned from different numbers of training patients are not paired, so that they do
    not count for the correction either.

    The correction counts pairs of methods; pairs with an oracle or a control have uncorrected p
    values alone.

    Parameters
    ----------
    runs
        The runs.
    score
        Score that is compared.
    against
        Name of the row that all others are compared with; all pairs where None.

    Returns
    -------
    DataFrame
        See :class:`bench.evaluate.uncertainty.Comparison`; ``difference`` is of the plain score,
        so that a lower error has a negative difference.

    Raises
    ------
    UnknownNameError
        No run has the name `against`.
    BenchError
        The run `against` has finished folds and no such score in any of them.
    """
    if against is not None:
        against = _row(against, runs)
        if against in _without(runs, score):
            raise BenchError(f"{against} has no {score} to compare with{_other_score(score)}")
    folds = [(run.facts["folds_hash"], run.facts.get("train_patients")) for run in runs]
    tables = [
        _pairs([run for run, of in zip(runs, folds, strict=True) if of == one], score, against)
        for one in dict.fromkeys(folds)
    ]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _without(runs: Sequence[StoredRun], score: str) -> list[str]:
    """Names of the rows with finished folds that have a score in no section."""
    scores = section_scores(runs, score).drop(columns="patient")
    return [str(name) for name in scores if scores[name].isna().all()]


def _other_score(score: str) -> str:
    """Advice where a correlation is undefined, as it is for constant predictions."""
    return "" if COMPARABLE[score].better == "lower" else "; --score mse compares errors"


def _row(name: str, runs: Sequence[StoredRun]) -> str:
    """Name of a row as the tables have it; the part in brackets after it may be left out."""
    table = score_table(runs)
    rows = {row_name(row, table): row["method"] for row in table.to_dict("records")}
    if name in rows:
        return name
    matching = [row for row, label in rows.items() if name == label]
    if len(matching) != 1:
        raise UnknownNameError("row", name, rows)
    return matching[0]


def _pairs(runs: Sequence[StoredRun], score: str, against: str | None) -> pd.DataFrame:
    scores = section_scores(runs, score)
    table = score_table(runs)
    outside = {row_name(row, table) for row in table.to_dict("records") if row["kind"] != "method"}
    patients = {str(name): str(of) for name, of in scores.pop("patient").items()}
    lower = COMPARABLE[score].better == "lower"
    best_first = scores.mean().sort_values(ascending=lower, kind="stable").index
    series = {str(name): scores[name].dropna() for name in best_first}
    columns = [
        *("first", "second", "difference", "low", "high", "sections", "patients"),
        *("wilcoxon", "permutation", "wilcoxon_holm", "permutation_holm"),
    ]
    compared = compare_pairs(series, patients, outside=outside, against=against)
    rows = [vars(one) for one in compared]
    return pd.DataFrame(rows, columns=columns)


def tuned_pairs(runs: Sequence[StoredRun], score: str = LEADING) -> pd.DataFrame:
    """Pairs of each method's tuned and default run, in the form of :func:`pair_table`."""
    labels = {run.facts["label"]: run for run in runs}
    tables = [
        pair_table([labels[f"tuned:{name}"], run], score)
        for name, run in labels.items()
        if f"tuned:{name}" in labels
    ]
    pairs = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    for test in ("wilcoxon", "permutation"):
        pairs[f"{test}_holm"] = holm(pairs[test].to_list())
    return pairs


def render_pairs(
    runs: Sequence[StoredRun],
    how: Format,
    *,
    score: str = LEADING,
    title: str = "",
    against: str | None = None,
    view: View = AS_IT_IS,
    width: int = 0,
) -> str:
    """Table of pairs as text; see :func:`pair_table` and :func:`bench.report.tables.render`."""
    check_wanted(view.methods, [run.facts["label"] for run in runs])
    runs = [run for run in runs if is_wanted(run.facts["label"], view.methods)]
    facts = [row.facts for row in by_seed(runs)]
    notes = [*preset_notes(facts), *small_preset_notes(map(shown_preset, facts))]
    told = [*notes, *pair_notes(table := pair_table(runs, score, against), score)]
    if without := _without(runs, score):
        told.append(f"Without {score}, so not compared: {', '.join(without)}{_other_score(score)}.")
    shown = pairs_for_people(table)
    if not view.names_columns:
        return write_table(table, shown, told, how, title=title, width=width, give_way=_GIVE_WAY)
    if how in {"csv", "json"}:
        table = chosen_columns(table, view.columns, ("first", "second"))
    shown = chosen_columns(shown, view.columns, ("better", "than"))
    return write_table(table, shown, told, how, title=title)


def write_pairs(
    table: pd.DataFrame,
    how: Format,
    *,
    score: str = LEADING,
    title: str = "",
    notes: Sequence[str] = (),
    width: int = 0,
) -> str:
    """A table of pairs with its footnotes as text; see :func:`bench.report.tables.render`.

    Parameters
    ----------
    table
        Result of :func:`pair_table`.
    how, score, title, width
        See :func:`render_pairs`.
    notes
        Footnotes on the runs, before those on the comparison.
    """
    told = [*notes, *pair_notes(table, score)]
    return write_table(
        table,
        pairs_for_people(table),
        told,
        how,
        title=title,
        width=width,
        give_way=_GIVE_WAY,
        hint="--json has all",
    )


def pairs_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Table of :func:`pair_table` with rounded numbers, and a remark if a test has no power."""
    power = table["patients"] >= PATIENTS_FOR_A_TEST
    return pd.DataFrame(
        {
            "better": table["first"],
            "than": table["second"],
            "difference": [f"{value:+.4f}" for value in table["difference"]],
            "95 % interval": [
                "–" if pd.isna(low) else f"{low:+.3f} to {high:+.3f}"
                for low, high in zip(table["low"], table["high"], strict=True)
            ],
            "sections": table["sections"].astype(str),
            "patients": table["patients"].astype(str),
            "p (patients)": [
                text if able else "no power"
                for text, able in zip(_corrected(table, "permutation"), power, strict=True)
            ],
            "p (sections)": _corrected(table, "wilcoxon"),
        }
    )


def pair_notes(table: pd.DataFrame, score: str = LEADING) -> list[str]:
    """Footnotes of a table of pairs."""
    notes = [
        f"Differences of {score} on the sections that both methods have; 95 % interval: bootstrap"
        " over patients, then their sections.",
        "p (patients): permutation test with sign flips of whole patients; p (sections): Wilcoxon"
        " signed-rank test, which treats sections of one patient as independent and therefore"
        " overstates significance. Both are two-sided, with Holm's correction over the pairs of"
        " methods, without controls and oracles.",
    ]
    if _uncorrected(table, "permutation").any():
        notes.append(
            f"{_UNCORRECTED}: a pair with an oracle or a control; not corrected, and not counted by"
            " the correction."
        )
    if (table["patients"] < PATIENTS_FOR_A_TEST).any():
        notes.append(
            f"No power: with fewer than {PATIENTS_FOR_A_TEST} patients no test over patients can"
            " fall below 0.05, whatever the difference."
        )
    notes += filter(None, [few_patients(table)])
    return notes


def few_patients(table: pd.DataFrame) -> str:
    """Footnote if the patients suffice for one test but not for all tests; otherwise empty."""
    patients = int(table["patients"].max()) if len(table) else 0
    counted = int((~_uncorrected(table, "permutation")).sum())
    smallest = counted * 2.0 ** (1 - patients)
    if patients < PATIENTS_FOR_A_TEST or smallest <= SIGNIFICANT:
        return ""
    return (
        f"With {patients} patients and {counted} pairs the smallest corrected p (patients) that"
        f" can come out is {min(smallest, 1):.2g}; compare fewer methods for a test with power."
    )


def _uncorrected(table: pd.DataFrame, test: str) -> pd.Series:
    return table[f"{test}_holm"].isna() & table[test].notna()


def _corrected(table: pd.DataFrame, test: str) -> list[str]:
    marks = _uncorrected(table, test)
    values = table[f"{test}_holm"].where(~marks, table[test])
    return [_p(v) + (_UNCORRECTED if mark else "") for v, mark in zip(values, marks, strict=True)]


def _p(value: float) -> str:
    if pd.isna(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
