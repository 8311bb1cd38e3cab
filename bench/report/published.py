"""Comparison of our scores with published numbers."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import BenchError, DataError
from bench.report.formats import Format, with_deviation, write_table
from bench.report.presets import preset_notes
from bench.report.seeds import by_seed, limited
from bench.report.tables import score_table
from bench.report.views import AS_IT_IS, View, check_wanted, is_wanted
from bench.stored_runs import StoredRun

COLUMNS = (
    *("dataset", "protocol", "method", "score", "value", "sd"),
    *("source", "obtained", "comparable", "reason"),
)


def read_published(dataset: str, folder: Path | None = None) -> pd.DataFrame:
    """Published numbers on a dataset.

    Parameters
    ----------
    dataset
        Name of the dataset.
    folder
        Folder with the CSV files; None: those of the package.

    Returns
    -------
    DataFrame
        :data:`COLUMNS`: ``obtained`` is the origin of the number, ``comparable`` is ``yes`` or
        ``no`` with the ``reason`` in the last column. Empty if no number is known.

    Raises
    ------
    DataError
        A file that is no such table.
    """
    path = (folder or Path(str(files("bench.published")))) / f"{dataset}.csv"
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        table = pd.read_csv(path, dtype={name: str for name in COLUMNS if name not in _NUMBERS})
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a table of published numbers ({error})") from error
    if tuple(table.columns) != COLUMNS:
        raise DataError(f"{path}: the columns must be {', '.join(COLUMNS)}")
    if not table["comparable"].isin(["yes", "no"]).all() or not all(
        pd.api.types.is_numeric_dtype(table[name]) for name in _NUMBERS
    ):
        raise DataError(f"{path}: value and sd must be numbers, comparable yes or no")
    return table.fillna({"reason": ""})


_NUMBERS = ("value", "sd")


def beside_published(
    runs: Sequence[StoredRun], published: pd.DataFrame, protocol: str
) -> pd.DataFrame:
    """Our scores and those published for the same method under the same protocol.

    Returns
    -------
    DataFrame
        ``method``, ``preset``, ``score``, ``ours``, ``ours_sd``, ``published``, ``published_sd``,
        ``difference``, ``comparable``, ``reason``, ``source``, ``obtained``; a published method
        that has not been run has no value of ours, and a run without a published number has its
        row, with the score that is published first.
    """
    ours = score_table(runs)
    given = {r.facts["key"][:12]: r.facts for r in runs if "method_label" in r.facts}
    made_by = {key: facts["method_label"] for key, facts in given.items()}
    ours["row"] = [
        published_label(made_by.get(row["key"], row["method"]), row["changes"])
        + limited(row["train_patients"])
        for row in ours.to_dict("records")
    ]
    wanted = published[published["protocol"] == protocol]
    rows: list[dict[str, Any]] = []
    for said in wanted.to_dict("records"):
        mine = ours[ours["row"] == said["method"]].to_dict("records") or [{}]
        for row in mine:
            value = row.get(said["score"], float("nan"))
            rows.append(
                {
                    "method": given.get(row.get("key", ""), {}).get("label", said["method"]),
                    "preset": row.get("preset", "not run"),
                    "score": said["score"],
                    "ours": value,
                    "ours_sd": row.get(f"{said['score']}_sd", float("nan")),
                    "published": said["value"],
                    "published_sd": said["sd"],
                    "difference": value - said["value"],
                    "comparable": said["comparable"] == "yes",
                    "reason": said["reason"],
                    "source": said["source"],
                    "obtained": said["obtained"],
                }
            )
    if rows:
        others = ours[~ours["row"].isin(wanted["method"])]
        rows += [_ours_alone(row, rows[0]["score"], given) for row in others.to_dict("records")]
    columns = [
        *("method", "preset", "score", "ours", "ours_sd", "published", "published_sd"),
        *("difference", "comparable", "reason", "source", "obtained"),
    ]
    return pd.DataFrame(rows, columns=columns)


def published_label(method: str, changes: Mapping[str, Any]) -> str:
    """Name under which a row is published: a method with another encoder than its own names it.

    Examples
    --------
    >>> published_label("ridge", {"encoder": "uni"}), published_label("mean", {})
    ('ridge[uni]', 'mean')
    """
    encoder = changes.get("encoder")
    return method if "[" in method or not isinstance(encoder, str) else f"{method}[{encoder}]"


def _ours_alone(row: Mapping[Any, Any], score: str, given: Container[str]) -> dict[str, Any]:
    """Row of a run without a published number."""
    nothing = float("nan")
    return {
        "method": row["row"] if row["key"] not in given else row["method"],
        "preset": row["preset"],
        "score": score,
        "ours": row.get(score, nothing),
        "ours_sd": row.get(f"{score}_sd", nothing),
        "published": nothing,
        "published_sd": nothing,
        "difference": nothing,
        "comparable": False,
        "reason": "",
        "source": "",
        "obtained": "",
    }


def render_published(
    runs: Sequence[StoredRun],
    dataset: str,
    protocol: str,
    how: Format,
    *,
    title: str = "",
    width: int = 0,
    view: View = AS_IT_IS,
    published: pd.DataFrame | None = None,
) -> str:
    """Comparison with published numbers as text; see :func:`bench.report.tables.render`.

    Parameters
    ----------
    runs, dataset, protocol, how, title, width, view
        What is compared, and how it is shown.
    published
        Published numbers as of :func:`read_published`; None: all on the dataset.

    Raises
    ------
    BenchError
        No published number on the dataset under the protocol is known.
    """
    known = read_published(dataset) if published is None else published
    table = beside_published(runs, known, protocol)
    digits = 4 if view.decimals is None else view.decimals
    if not table.empty:
        check_wanted(view.methods, table["method"])
        chosen_rows = [is_wanted(method, view.methods) for method in table["method"]]
        table = table[chosen_rows].reset_index(drop=True)
    if table.empty:
        raise BenchError(f"no published number on {dataset} under protocol {protocol} is known")
    notes: list[str] = []

    def number(note: str) -> int:
        if note not in notes:
            notes.append(note)
        return notes.index(note) + 1

    marks = [
        f"[{number(f'Not comparable: {reason}.')}]" if reason else "" for reason in table["reason"]
    ]
    sources = [
        f"[{number(f'{source}; {obtained}.')}]" if source else "–"
        for source, obtained in zip(table["source"], table["obtained"], strict=True)
    ]
    shown = pd.DataFrame(
        {
            "method": table["method"],
            "preset": table["preset"],
            "score": table["score"],
            "ours": _with_sd(table["ours"], table["ours_sd"], digits),
            "published": _with_sd(table["published"], table["published_sd"], digits),
            "difference": [
                "–" if pd.isna(value) else f"{value:+.{digits}f} {mark}".strip()
                for value, mark in zip(table["difference"], marks, strict=True)
            ],
            "comparable": [
                "–" if not source else f"no {mark}" if mark else "yes"
                for source, mark in zip(table["source"], marks, strict=True)
            ],
            "source": sources,
        }
    )
    quick = set(table["preset"]) - {"authors", "-", "not run"}
    if quick:
        notes.append(
            f"Preset {', '.join(sorted(quick))} is not the authors' setting: the difference says"
            " nothing of a reproduction."
        )
    compared = {name.partition("[")[0] for name in table["method"]}
    rows = [row.facts for row in by_seed(runs)]
    chosen = [facts for facts in rows if facts["label"].partition("[")[0] in compared]
    notes += preset_notes(chosen)
    sizes = {run.facts["n_sections"] for run in runs if "n_sections" in run.facts}
    left_out = {name for run in runs for name in run.facts["left_out"]}
    if left_out:
        notes.append(
            f"Ours are over {', '.join(map(str, sorted(sizes)))} sections: {len(left_out)} of"
            " theirs could not be used here."
        )
    return write_table(table, shown, notes, how, title=title, width=width, columns=view.columns)


def _with_sd(values: pd.Series, deviations: pd.Series, digits: int) -> list[str]:
    return [
        "–" if pd.isna(value) else with_deviation(value, sd, digits)
        for value, sd in zip(values, deviations, strict=True)
    ]
