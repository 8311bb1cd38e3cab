"""The table of a comparison, from stored scores."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from bench.evaluate.metrics import nanmean, nanstd
from bench.evaluate.scores import BY_NAME, LEADING, SCORES, Place, Score
from bench.evaluate.uncertainty import bootstrap_interval
from bench.report.footnotes import BY_FOLD, BY_FOLD_HEADING, footnotes
from bench.report.formats import (
    SPREAD_NOTE,
    Format,
    shown_interval,
    shown_number,
    shown_percent,
    with_deviation,
    with_interval,
    write_table,
)
from bench.report.presets import (
    MARK,
    NO_PRESET,
    shown_preset,
    used_values,
)
from bench.report.seeds import (
    DEVIATION_HEADING,
    SeedRuns,
    by_seed,
    deviation_column,
    frame_columns,
    limited,
)
from bench.report.views import AS_IT_IS, View, check_wanted, is_wanted, shown_names
from bench.stored_runs import StoredRun

_FRAME = {"method": "method", "preset": "preset", "folds": "folds", "sections": "sections"}
"""Headings of the columns before the scores."""

_COSTS = {"fit_seconds": "fit s"}
"""Headings of the columns after the scores."""

_SAME = (
    *("label", "preset", "config", "tuned", "seed", "train_patients"),
    *("folds_hash", "protocol_hash", "tables_hash"),
)


def newest(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The newest of each group of runs that differ only in code or versions.

    Runs that differ in folds, data, settings, preset, seed or source are all kept. Runs with one
    key from several sources are one row: that made here, or else the oldest; the others are its
    ``repeats``.
    """
    latest: dict[str, StoredRun] = {}
    for run in sorted(runs, key=lambda run: str(run.facts.get("created", ""))):
        same = [*(run.facts.get(name) for name in _SAME), run.origin.get("sha256")]
        latest[json.dumps(same, sort_keys=True)] = run
    by_key: dict[str, list[StoredRun]] = {}
    for run in sorted(latest.values(), key=lambda run: bool(run.origin)):
        by_key.setdefault(run.facts["key"], []).append(run)
    chosen = {id(of[0]) for of in by_key.values()}
    kept = [run for run in latest.values() if id(run) in chosen]
    repeats = {key: tuple(of[1:]) for key, of in by_key.items()}
    return [
        replace(run, repeats=repeats[run.facts["key"]]) if repeats[run.facts["key"]] else run
        for run in kept
    ]


def score_table(runs: Sequence[StoredRun]) -> pd.DataFrame:
    """One row per run, or per runs that differ in their seed alone; best leading score first.

    Returns
    -------
    DataFrame
        Means over test sections, their standard deviations (``_sd``, with n - 1) and 95 %
        intervals (``_low``, ``_high``; see
        :func:`bench.evaluate.uncertainty.bootstrap_interval`), correlations as a share of their
        noise ceiling (``_share``), further scores as means over the sections that have them,
        pooled correlations as means over folds (``pooled_pcc_acg_sd`` is their population standard
        deviation), ``undefined`` genes left out of the means (summed over sections), ``folds`` done
        of ``n_folds``, the protocol's ``headline``, and what identifies the run; NaN for a score
        that the stored results lack. A ``preset`` with a star was changed: ``changes`` maps the
        changed settings to their values. ``origin``, the source of imported runs, is a column
        where the rows have several; it is empty for runs made here.

        With several seeds the value of a section is its mean over them, ``seed`` lists them,
        ``seeds`` is the number of those with a finished fold, ``folds`` counts those of all seeds,
        ``fit_seconds`` is the mean over seeds, and ``_sd_seeds`` is the standard deviation (n - 1)
        over seeds of each seed's mean. ``train_patients`` is the number of training patients of a
        fold where it was limited.
    """
    rows = [_row(row) for row in by_seed(runs)]
    origins = ["origin"] if len({row["origin"] for row in rows}) > 1 else []
    table = pd.DataFrame(rows, columns=[*_columns(), *origins])
    if table.empty:
        return table
    table["train_patients"] = table["train_patients"].astype(np.float64)
    order = table[BY_FOLD if leads_by_fold(table) else LEADING].to_numpy(dtype=np.float64)
    # Undefined scores and oracles are sorted last: an oracle must not lead the table.
    contestant = (table["kind"] != "oracle").to_numpy()
    ranked = np.lexsort((table["method"].to_numpy(), -np.nan_to_num(order, nan=-2), ~contestant))
    return table.iloc[ranked].reset_index(drop=True)


def _columns() -> list[str]:
    columns = ["dataset", "protocol", "method", "kind", "preset", "changes", "seed"]
    columns += ["seeds", "train_patients", "folds", "n_folds", "sections"]
    tabled = [score for score in SCORES if score.is_in("machine")]
    for score in tabled:
        if score.spread:
            name = score.shown_as
            columns += [name, f"{name}_sd", f"{name}_low", f"{name}_high", f"{name}_sd_seeds"]
    columns += [f"{score.shown_as}_share" for score in tabled if score.ceiling]
    columns += [score.shown_as for score in tabled if not score.spread]
    return [
        *columns,
        f"{BY_FOLD}_sd",
        f"{BY_FOLD}_sd_seeds",
        *_COSTS,
        "headline",
        "folds_hash",
        "data_hash",
        "key",
    ]


def leads_by_fold(table: pd.DataFrame) -> bool:
    """Whether the rows are ranked by the score over all test spots of a fold."""
    return not table.empty and bool((table["headline"] == "fold").all())


_Row = dict[str, Any]
_rows: WeakKeyDictionary[StoredRun, tuple[tuple[StoredRun, ...], _Row]] = WeakKeyDictionary()
"""Rows by their first run, with the other runs that they are of."""


def _row(row: SeedRuns) -> _Row:
    # The tables and figures of one comparison use the same rows repeatedly.
    first, *others = row.runs
    known = _rows.get(first)
    if known is None or known[0] != tuple(others):
        known = _rows[first] = (tuple(others), _new_row(row))
    return known[1]


def _new_row(of: SeedRuns) -> _Row:
    facts = of.facts
    row: _Row = {
        "dataset": facts["dataset"],
        "protocol": facts["protocol"],
        "method": facts["label"],
        "kind": facts["kind"],
        "preset": shown_preset(facts),
        "changes": used_values(facts),
        "seed": of.seed,
        "seeds": len(of.done),
        "train_patients": facts.get("train_patients"),
        "folds": sum(len(run.done) for run in of.runs),
        "n_folds": sum(int(run.facts["n_folds"]) for run in of.runs),
        "sections": 0,
        "headline": facts.get("rules", {}).get("headline", "section"),
        "folds_hash": facts["folds_hash"][:12],
        "data_hash": str(facts.get("tables_hash", "-"))[:12],
        "key": of.key,
        "origin": of.runs[0].origin.get("name", ""),
    }
    if not of.done:
        return row
    names, sections, patients, values = of.means
    row["sections"] = len({*sections} - {""})
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (name, section) in enumerate(zip(names, sections, strict=True)):
        places["section" if section else "pooled", name].append(place)
    for score in SCORES:
        if not score.is_in("machine"):
            continue
        chosen, name = places[score.scope, score.name], score.shown_as
        part = values[chosen]
        total = np.nansum(part)
        row[name] = nanmean(part) if score.combine == "mean" else _whole(total)
        if score.spread:
            row[f"{name}_sd"] = nanstd(part)
            interval = bootstrap_interval(part, patients[chosen].tolist())
            row[f"{name}_low"], row[f"{name}_high"] = interval
            row[f"{name}_sd_seeds"] = of.deviation(score.name)
        if score.name == BY_FOLD and np.isfinite(part).sum() > 1:
            row[f"{name}_sd"] = float(np.nanstd(part))
            row[f"{name}_sd_seeds"] = of.deviation(score.name, pooled=True)
    for score in SCORES:
        if score.ceiling:
            ceiling = row[score.ceiling]
            row[f"{score.shown_as}_share"] = row[score.name] / ceiling if ceiling > 0 else math.nan
    timings = [run.fold_facts(index).get("timings", {}) for run in of.done for index in run.done]
    seconds = sum(timing.get("fit_seconds", 0.0) for timing in timings)
    row["fit_seconds"] = seconds if len(of.done) == 1 else seconds / len(of.done)
    return row


def _whole(total: float) -> float:
    """A sum as an integer, unless it is the mean over seeds of several."""
    return int(total) if total == int(total) else float(total)


def row_name(row: Mapping[Any, Any], table: pd.DataFrame) -> str:
    """Unique name of a row, marked if its preset was changed."""
    rows = table.to_dict("records")
    return _named(row, [other for other in rows if _plain_name(other) == _plain_name(row)])


def row_names(table: pd.DataFrame) -> list[str]:
    """:func:`row_name` of all rows of a table."""
    rows = table.to_dict("records")
    alike: dict[str, list[Mapping[Any, Any]]] = {}
    for row in rows:
        alike.setdefault(_plain_name(row), []).append(row)
    return [_named(row, alike[_plain_name(row)]) for row in rows]


def _plain_name(row: Mapping[Any, Any]) -> str:
    return f"{row['method']}{limited(row['train_patients'])}"


def _named(row: Mapping[Any, Any], alike: Sequence[Mapping[Any, Any]]) -> str:
    """Name of a row among those of its plain name, with no more marks than tell them apart."""
    name = _plain_name(row)
    if len(alike) > 1:
        marks = [_marks(other) for other in alike]
        enough = next(n for n in range(2, 5) if n == 4 or len({m[:n] for m in marks}) == len(marks))
        return f"{name} ({', '.join(filter(None, _marks(row)[:enough]))})".removesuffix(" ()")
    # The label of a tuned row already marks it.
    changed = row["preset"].endswith(MARK) and not name.startswith("tuned:")
    return f"{name} ({row['preset']})" if changed else name


def _marks(row: Mapping[Any, Any]) -> tuple[str, str, str, str]:
    """What tells rows of one name apart: source, preset, seed, beginning of the key."""
    preset = "" if row["preset"] == NO_PRESET else row["preset"]
    return str(row.get("origin") or ""), preset, f"seed {row['seed']}", row["key"][:6]


def render(
    runs: Sequence[StoredRun],
    how: Format,
    *,
    title: str = "",
    width: int = 0,
    view: View = AS_IT_IS,
) -> str:
    """The table with its footnotes as text.

    Parameters
    ----------
    runs
        Rows of the table.
    how
        ``text``, ``markdown``, ``latex`` and ``html`` for people, ``csv`` and ``json`` with all
        columns and full precision.
    title
        Heading for the formats that people read.
    width
        Columns of the terminal for ``text``; unlimited where 0.
    view
        Rows, columns and digits to show.

    Raises
    ------
    UnknownNameError
        A row or a column that there is not.
    """
    check_wanted(view.methods, (run.facts["label"] for run in runs))
    runs = [run for run in runs if is_wanted(run.facts["label"], view.methods)]
    table = score_table(runs)
    # Columns that are asked for by name may be those of other places.
    shown = for_people(table, "machine" if view.names_columns else "text", view)
    if view.names_columns and not {"preset"} & {name.casefold() for name in view.columns}:
        shown["method"] = shown_names(table.to_dict("records"), list(shown["method"]))
    for_machines = how in {"csv", "json"}
    notes = footnotes(runs, table, "machine") if for_machines else table_notes(runs, table, shown)
    columns = view.columns
    return write_table(table, shown, notes, how, title=title, width=width, columns=columns)


def table_notes(runs: Sequence[StoredRun], table: pd.DataFrame, shown: pd.DataFrame) -> list[str]:
    """Footnotes of a table for people, with one on the deviations that it shows.

    Parameters
    ----------
    runs, table, shown
        Runs, their :func:`score_table`, and that table as :func:`for_people` has it.
    """
    notes = footnotes(runs, table)
    spread = any(" ± " in str(cell) for name in shown for cell in shown[name])
    # Scores by fold have a note of their own.
    return [SPREAD_NOTE, *notes] if spread and not leads_by_fold(table) else notes


_IDENTITY = ["method", "preset", "seed", "train_patients", "folds_hash", "data_hash"]

_IF_SEVERAL = (
    *(("seed", "seed"), ("folds_hash", "fold hash"), ("data_hash", "data hash")),
    ("key", "run"),
)


def for_people(table: pd.DataFrame, place: Place = "text", view: View = AS_IT_IS) -> pd.DataFrame:
    """Table with rounded numbers, and of the identifying columns only those in which rows differ.

    Parameters
    ----------
    table
        Result of :func:`score_table`.
    place
        ``text`` for the columns of every table, ``page`` for those of the HTML page.
    view
        Digits of the scores and their measure of spread.
    """
    shown = pd.DataFrame()
    for name, heading in _FRAME.items():
        if name == "folds":
            done = zip(table["folds"], table["n_folds"], strict=True)
            shown[heading] = [f"{folds}/{of}" for folds, of in done]
        elif name == "method":
            marks = {"oracle": " (oracle)", "control": " (control)"}
            pairs = zip(table["method"], table["kind"], strict=True)
            shown[heading] = [method + marks.get(kind, "") for method, kind in pairs]
        else:
            shown[heading] = table[name].astype(str)
    shown = shown.assign(**frame_columns(table))
    by_fold = leads_by_fold(table)
    if by_fold:
        pairs = zip(table[BY_FOLD], table[f"{BY_FOLD}_sd"], strict=True)
        digits = view.digits(BY_NAME[BY_FOLD])
        shown[BY_FOLD_HEADING] = [
            with_deviation(mean, sd if view.spread in {None, "sd"} else math.nan, digits)
            for mean, sd in pairs
        ]
        shown = shown.assign(**deviation_column(table, BY_FOLD))
    # A ceiling is placed next to its score.
    ceilings = {score.ceiling: score for score in SCORES if score.ceiling}
    for score in SCORES:
        if by_fold and score.name == BY_FOLD:
            continue
        if score.is_in(place) and score.name not in ceilings:
            shown = shown.assign(**_score_columns(score, table, place, view))
            if DEVIATION_HEADING not in shown:
                shown = shown.assign(**deviation_column(table, score.name))
    for name, heading in _COSTS.items():
        shown[heading] = [shown_number(value, 1) for value in table[name]]
    if "origin" in table:
        shown["from"] = [origin or "here" for origin in table["origin"]]
    for name, heading in _IF_SEVERAL:
        # An oracle has no seed of its own: it is run once.
        several = table.loc[(table["kind"] != "oracle") | (name != "seed"), name].nunique() > 1
        repeated = table.duplicated(_IDENTITY).any()
        if several and (name != "key" or repeated):
            shown[heading] = table[name].astype(str)
    return shown


def _score_columns(
    score: Score, table: pd.DataFrame, place: Place, view: View
) -> dict[str, list[str]]:
    """Columns of a score for people: value, interval, ceiling and share of the ceiling."""
    name, digits = score.shown_as, view.digits(score)
    columns = {score.heading: [shown_number(value, digits) for value in table[name]]}
    if score.spread and view.spread in {None, "sd"}:
        pairs = zip(table[name], table[f"{name}_sd"], strict=True)
        columns[score.heading] = [with_deviation(mean, sd, digits) for mean, sd in pairs]
    if score.spread and view.spread == "interval":
        ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        columns[score.heading] = [with_interval(*of_row, digits) for of_row in ends]
    if score.interval and view.spread is None:
        pairs = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        columns[score.interval.heading] = [shown_interval(low, high) for low, high in pairs]
    if score.ceiling and (ceiling := BY_NAME[score.ceiling]).is_in(place):
        columns |= _score_columns(ceiling, table, place, view)
    if score.share:
        columns[score.share.heading] = [shown_percent(value) for value in table[f"{name}_share"]]
    return columns
