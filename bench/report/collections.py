"""One table over the datasets of a collection: a column a dataset, and their mean."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.evaluate.metrics import nanmean
from bench.evaluate.scores import BY_NAME, LEADING
from bench.report.footnotes import BY_FOLD, BY_FOLD_NOTE, footnotes
from bench.report.formats import Format, shown_number, with_deviation, write_table
from bench.report.literature import MEAN
from bench.report.published import published_label, read_published
from bench.report.seeds import by_seed, limited
from bench.report.tables import leads_by_fold, score_table
from bench.report.views import AS_IT_IS, View, check_wanted, is_wanted
from bench.stored_runs import StoredRun

_BESIDE = ("ceiling_acg", "pcc_acg_given_depth")
"""Scores whose mean over the datasets is shown beside the leading one's."""

_PUBLISHED = "published"


def collection_table(
    name: str, runs: Mapping[str, Sequence[StoredRun]], *, protocol: str = "", published: bool
) -> pd.DataFrame:
    """One row per method, settings and seed, best mean first.

    Parameters
    ----------
    name
        Name of the collection.
    runs
        Runs by dataset, one entry for every dataset of the collection.
    protocol
        Protocol of the published numbers.
    published
        Add a row for every published one.

    Returns
    -------
    DataFrame
        ``method``, ``kind``, ``preset``, ``seed``; by dataset the leading score and its standard
        deviation (``_sd``); ``mean`` over all datasets, NaN where one is missing; number of
        ``datasets`` done; means of the noise ceiling and of the correlation given depth;
        ``source`` of a published row.
    """
    tables = {dataset: score_table(list(of)) for dataset, of in runs.items()}
    by_fold = any(leads_by_fold(table) for table in tables.values())
    score = BY_FOLD if by_fold else LEADING
    rows: dict[str, dict[str, Any]] = {}
    beside: dict[str, dict[str, list[float]]] = {}
    for dataset, table in tables.items():
        configs = {row.key: row.facts.get("config") for row in by_seed(runs[dataset])}
        for of_run in table.to_dict("records"):
            method = of_run["method"] + limited(of_run["train_patients"])
            key = json.dumps(
                [
                    *(method, of_run["preset"], of_run["seed"]),
                    *(configs[of_run["key"]], of_run.get("origin", "")),
                ],
                sort_keys=True,
            )
            row = rows.setdefault(
                key,
                {
                    "method": published_label(of_run["method"], of_run["changes"])
                    + limited(of_run["train_patients"]),
                    "kind": of_run["kind"],
                    "preset": of_run["preset"],
                    "seed": of_run["seed"],
                    "source": "",
                },
            )
            complete = of_run["folds"] == of_run["n_folds"]
            row[dataset] = of_run[score] if complete else float("nan")
            row[f"{dataset}_sd"] = of_run[f"{score}_sd"] if complete else float("nan")
            for other in _BESIDE:
                beside.setdefault(key, {}).setdefault(other, []).append(of_run[other])
    for key, row in rows.items():
        row |= {other: nanmean(np.array(values)) for other, values in beside[key].items()}
    lines = [*rows.values(), *(_published(name, list(runs), protocol, score) if published else ())]
    columns = ["method", "kind", "preset", "seed"]
    columns += [column for dataset in runs for column in (dataset, f"{dataset}_sd")]
    table = pd.DataFrame(lines, columns=[*columns, MEAN, "datasets", *_BESIDE, "source"])
    values = table[list(runs)].to_numpy(dtype=np.float64)
    done = np.isfinite(values).sum(axis=1)
    table["datasets"] = done
    # A published mean without the values it is of stays as it was published.
    whole = done == len(runs)
    table[MEAN] = table[MEAN].astype(np.float64)
    table.loc[whole, MEAN] = values[whole].mean(axis=1)
    ranked = np.lexsort(
        (
            table["method"].to_numpy(),
            -np.nan_to_num(table[MEAN].to_numpy(), nan=-2),
            (table["kind"] == "oracle").to_numpy(),
        )
    )
    return table.iloc[ranked].reset_index(drop=True)


def _published(
    name: str, datasets: Sequence[str], protocol: str, score: str
) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for dataset in (*datasets, name):
        numbers = read_published(dataset)
        wanted = numbers[(numbers["protocol"] == protocol) & (numbers["score"] == score)]
        for number in wanted.to_dict("records"):
            row = rows.setdefault(
                (number["method"], number["source"]),
                {
                    "method": number["method"],
                    "kind": _PUBLISHED,
                    "preset": _PUBLISHED,
                    "source": number["source"],
                },
            )
            row[MEAN if dataset == name else dataset] = number["value"]
    return list(rows.values())


def render_collection(
    name: str,
    runs: Mapping[str, Sequence[StoredRun]],
    how: Format,
    *,
    protocol: str,
    published: bool = False,
    title: str = "",
    width: int = 0,
    view: View = AS_IT_IS,
) -> str:
    """The table with its footnotes as text; see :func:`bench.report.tables.render`."""
    table = collection_table(name, runs, protocol=protocol, published=published)
    check_wanted(view.methods, table["method"])
    table = table[[is_wanted(method, view.methods) for method in table["method"]]]
    digits = 4 if view.decimals is None else view.decimals
    notes = _notes(runs, table)
    shown = pd.DataFrame()
    marks = {"oracle": " (oracle)", "control": " (control)"}
    pairs = zip(table["method"], table["kind"], strict=True)
    shown["method"] = [f"{method}{marks.get(kind, '')}" for method, kind in pairs]
    shown["preset"] = table["preset"].astype(str)
    for dataset in runs:
        values = zip(table[dataset], table[f"{dataset}_sd"], strict=True)
        heading = dataset.removeprefix(f"{name}-").upper()
        shown[heading] = [
            with_deviation(mean, sd if view.spread != "none" else math.nan, digits)
            for mean, sd in values
        ]
    shown[MEAN] = [shown_number(value, digits) for value in table[MEAN]]
    for other in _BESIDE:
        if table[other].notna().any():
            shown[BY_NAME[other].heading] = [shown_number(value, digits) for value in table[other]]
    if table["seed"].nunique() > 1:
        shown["seed"] = ["–" if pd.isna(seed) else str(seed) for seed in table["seed"]]
    if published:
        shown["source"] = [
            f"[{_number(notes, f'{source}.')}]" if source else "ours" for source in table["source"]
        ]
    return write_table(table, shown, notes, how, title=title, width=width, columns=view.columns)


def _number(notes: list[str], note: str) -> int:
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def _notes(runs: Mapping[str, Sequence[StoredRun]], table: pd.DataFrame) -> list[str]:
    """Definition of the score, and what the footnotes of each dataset's own table say."""
    notes = []
    by_dataset: dict[str, list[str]] = {}
    for dataset, of in runs.items():
        for note in footnotes(of, score_table(list(of))) if of else ():
            by_dataset.setdefault(note, []).append(dataset)
    if BY_FOLD_NOTE in by_dataset:
        notes.append(BY_FOLD_NOTE)
    notes.append(f"{MEAN}: unweighted mean over the {len(runs)} datasets.")
    missing = [dataset for dataset, of in runs.items() if not of]
    if missing:
        notes.append(f"No run on {', '.join(missing)}, so that rows of ours have no mean.")
    for note, datasets in by_dataset.items():
        if note != BY_FOLD_NOTE:
            where = "" if len(datasets) == len(runs) else f"{', '.join(datasets)}: "
            notes.append(where + note)
    return notes
