"""The table of a comparison, from stored scores."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench.evaluate.metrics import nanmean, nanstd
from bench.evaluate.scores import BY_NAME, LEADING, SCORES, Column, Place, Score
from bench.evaluate.uncertainty import PATIENTS_FOR_A_TEST, bootstrap_interval
from bench.files import printable
from bench.protocol.audit import TITLES
from bench.report.presets import (
    MARK,
    NO_PRESET,
    plain_preset,
    preset_notes,
    shown_preset,
    used_values,
)
from bench.store import StoredRun

Format = Literal["text", "csv", "markdown", "latex", "json"]

_FRAME = {"method": "method", "preset": "preset", "folds": "folds", "sections": "sections"}
"""Headings of the columns before the scores."""

_COSTS = {"fit_seconds": "fit s"}
"""Headings of the columns after the scores."""

_GIVE_WAY = {"fit s": 2, "sections": 5, "folds": 10}
"""Like :attr:`bench.evaluate.scores.Score.gives_way`, for columns other than scores."""

_SAME = (
    *("label", "preset", "config", "tuned", "seed"),
    *("folds_hash", "protocol_hash", "tables_hash"),
)


def newest(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The newest of each group of runs that differ only in code or versions.

    Runs that differ in folds, data, settings, preset or seed are all kept.
    """
    latest: dict[str, StoredRun] = {}
    for run in sorted(runs, key=lambda run: str(run.facts.get("created", ""))):
        latest[json.dumps([run.facts.get(name) for name in _SAME], sort_keys=True)] = run
    return list(latest.values())


def score_table(runs: Sequence[StoredRun]) -> pd.DataFrame:
    """One row per run, best value of the leading score first.

    Returns
    -------
    DataFrame
        Means over test sections, their standard deviations (``_sd``, with n - 1) and 95 %
        intervals (``_low``, ``_high``; see
        :func:`bench.evaluate.uncertainty.bootstrap_interval`), correlations as a share of their
        noise ceiling (``_share``), further scores as means over the sections that have them,
        pooled correlations as means over folds, ``undefined`` genes left out of the means (summed
        over sections), ``folds`` done of ``n_folds``, and what identifies the run; NaN for a score
        that the stored results lack. A ``preset`` with a star was changed: ``changes`` maps the
        changed settings to their values.
    """
    rows = [_row(run) for run in runs]
    table = pd.DataFrame(rows, columns=_columns())
    if table.empty:
        return table
    order = table[LEADING].to_numpy(dtype=np.float64)
    # Undefined scores and oracles are sorted last: an oracle must not lead the table.
    contestant = (table["kind"] != "oracle").to_numpy()
    ranked = np.lexsort((table["method"].to_numpy(), -np.nan_to_num(order, nan=-2), ~contestant))
    return table.iloc[ranked].reset_index(drop=True)


def _columns() -> list[str]:
    columns = ["dataset", "protocol", "method", "kind", "preset", "changes", "seed"]
    columns += ["folds", "n_folds", "sections"]
    tabled = [score for score in SCORES if score.is_in("machine")]
    for score in tabled:
        if score.spread:
            name = score.shown_as
            columns += [name, f"{name}_sd", f"{name}_low", f"{name}_high"]
    columns += [f"{score.shown_as}_share" for score in tabled if score.ceiling]
    columns += [score.shown_as for score in tabled if not score.spread]
    return [*columns, *_COSTS, "folds_hash", "data_hash", "key"]


_rows: WeakKeyDictionary[StoredRun, dict[str, Any]] = WeakKeyDictionary()


def _row(run: StoredRun) -> dict[str, Any]:
    # The tables and figures of one comparison use the same rows repeatedly.
    if run not in _rows:
        _rows[run] = _new_row(run)
    return _rows[run]


def _new_row(run: StoredRun) -> dict[str, Any]:
    facts = run.facts
    row: dict[str, Any] = {
        "dataset": facts["dataset"],
        "protocol": facts["protocol"],
        "method": facts["label"],
        "kind": facts["kind"],
        "preset": shown_preset(facts),
        "changes": used_values(facts),
        "seed": facts["seed"],
        "folds": len(run.done),
        "n_folds": facts["n_folds"],
        "sections": 0,
        "folds_hash": facts["folds_hash"][:12],
        "data_hash": str(facts.get("tables_hash", "-"))[:12],
        "key": facts["key"][:12],
    }
    if not run.done:
        return row
    names, sections, patients, values = run.score_columns()
    row["sections"] = len({*sections} - {""})
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (name, section) in enumerate(zip(names, sections, strict=True)):
        places["section" if section else "pooled", name].append(place)
    for score in SCORES:
        if not score.is_in("machine"):
            continue
        chosen, name = places[score.scope, score.name], score.shown_as
        part = values[chosen]
        row[name] = nanmean(part) if score.combine == "mean" else int(np.nansum(part))
        if score.spread:
            row[f"{name}_sd"] = nanstd(part)
            interval = bootstrap_interval(part, patients[chosen].tolist())
            row[f"{name}_low"], row[f"{name}_high"] = interval
    for score in SCORES:
        if score.ceiling:
            ceiling = row[score.ceiling]
            row[f"{score.shown_as}_share"] = row[score.name] / ceiling if ceiling > 0 else math.nan
    timings = [run.fold_facts(index).get("timings", {}) for index in run.done]
    row["fit_seconds"] = sum(timing.get("fit_seconds", 0.0) for timing in timings)
    return row


def footnotes(runs: Sequence[StoredRun], table: pd.DataFrame, place: Place = "text") -> list[str]:
    """Footnotes of a table.

    Parameters
    ----------
    runs, table
        Runs, and their :func:`score_table`.
    place
        Kind of table; only scores that it shows are explained.
    """
    notes: list[str] = []
    for run in runs:
        run_notes = [
            f"{TITLES.get(finding['kind'], finding['kind'])}: {finding['message']}."
            for finding in run.facts.get("audit", ())
        ]
        run_notes += run.facts.get("footnotes", ())
        notes += [note for note in run_notes if note not in notes]
    for run in runs:
        checkpoint = run.facts.get("checkpoint")
        if checkpoint:
            notes.append(
                f"{run.facts['label']}: not trained here but read from {checkpoint['file']};"
                " whether it was trained on these test sections is not known."
            )
    if (table["kind"] == "oracle").any():
        names = ", ".join(table.loc[table["kind"] == "oracle", "method"])
        notes.append(
            f"Oracle ({names}): reads the truth on purpose, to show what the score rewards; it"
            " has a scale of its own, so scores that depend on the scale are not given."
        )
    notes += [
        score.note
        for score in SCORES
        if score.note and score.is_in(place) and _has_values(score, table)
    ]
    if table[f"{LEADING}_low"].notna().any():
        notes.append(
            "95 % interval: bootstrap over patients, then their sections."
            + (
                " With fewer than 6 patients it is too narrow, and no test over patients has power."
                if _patients(runs) < PATIENTS_FOR_A_TEST
                else ""
            )
        )
    notes += preset_notes(_in_order(runs, table))
    presets = set(map(plain_preset, table["preset"])) - {NO_PRESET, "default"}
    if "quick" in presets:
        notes.append(
            "Preset quick: small networks and few epochs for machines without a GPU; not the"
            " authors' settings"
            + (" and not comparable with the authors' rows." if len(presets) > 1 else ".")
        )
    if table["folds_hash"].nunique() > 1:
        notes.append(
            "Rows with different folds are on different sections or divisions and are not"
            " comparable; see the fold hash column."
        )
    if table["data_hash"].nunique() > 1:
        notes.append(
            "Rows with different data are on different counts or gene lists and are not"
            " comparable; see the data hash column."
        )
    notes += sorted(filter(None, map(_missing_folds, runs)))
    notes += [note for run in runs for note in _damage(run)]
    notes += _above_ceiling(table)
    notes += sorted(filter(None, map(_not_isolated, runs)))
    for kind, said in _DATA_NOTES.items():
        counts: dict[str, int | str] = {}
        for run in runs:
            for index in run.done:
                counts |= run.fold_facts(index).get(kind, {})
        if counts:
            mark = ": " if kind in {"left_out", "reduced_images"} else " "
            listed = [f"{name}{mark}{count}" for name, count in sorted(counts.items())]
            notes.append(f"{said} ({_span(listed)}).")
    warned = {
        f"{run.facts['label']}, fold {index}: {note}."
        for run in runs
        for index in run.done
        for note in run.fold_facts(index).get("notes", [])
    }
    left_out = {name: why for run in runs for name, why in run.facts["left_out"].items()}
    if left_out:
        name, why = next(iter(left_out.items()))
        notes.append(
            f"{len(left_out)} sections were left out ({_span(list(left_out))});"
            f" for instance {name}: {why}."
        )
    return [*notes, *sorted(warned)]


def _has_values(score: Score, table: pd.DataFrame) -> bool:
    """Whether a column needs an explanation; a sum that is zero everywhere does not."""
    values = table[score.shown_as]
    return bool((values.fillna(0) > 0).any() if score.combine == "sum" else values.notna().any())


def _in_order(runs: Sequence[StoredRun], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Facts of the runs in the order of their rows."""
    places = {key: place for place, key in enumerate(table["key"])}
    return sorted((run.facts for run in runs), key=lambda facts: places.get(facts["key"][:12], 0))


def row_name(row: Mapping[Any, Any], table: pd.DataFrame) -> str:
    """Unique name of a row, marked if its preset was changed."""
    name = str(row["method"])
    if (table["method"] == name).sum() > 1:
        return f"{name} ({row['preset']}, seed {row['seed']}, {row['key'][:6]})"
    # The label of a tuned row already marks it.
    changed = row["preset"].endswith(MARK) and not name.startswith("tuned:")
    return f"{name} ({row['preset']})" if changed else name


def _patients(runs: Sequence[StoredRun]) -> int:
    """Minimum number of patients over the rows."""
    counts = [{*run.score_columns()[2]} - {""} for run in runs if run.done]
    return min(map(len, counts), default=0)


_DATA_NOTES = {
    "unmeasured_genes": "Panel genes that a test section did not measure count as zero there",
    "dropped_spots": "Spots outside the image were left out",
    "left_out": "The reader left out",
    "reduced_images": "Images smaller than the full resolution were used",
}
"""Footnotes on the data of a fold, by field of ``fold.json``."""


def _damage(run: StoredRun) -> list[str]:
    """Footnotes on damaged or edited folds of a run, which its row leaves out."""
    return [
        f"{run.facts['label']}: fold {index} is left out, its {damage}; the same 'bench run'"
        " does it again."
        for index, damage in sorted(run.damaged.items())
    ]


def _above_ceiling(table: pd.DataFrame) -> list[str]:
    """Footnotes on rows above the noise ceiling, which is exceeded only by leakage or by chance."""
    score = BY_NAME[LEADING]
    if not score.ceiling:
        return []
    above = table[(table["kind"] != "oracle") & (table[score.name] > table[score.ceiling])]
    return [
        f"{row['method']}: {score.heading} {row[score.name]:.{score.decimals}f} is above the noise"
        f" ceiling {row[score.ceiling]:.{score.decimals}f}; check whether test expression reached"
        " the method."
        for row in above.to_dict("records")
    ]


def _not_isolated(run: StoredRun) -> str:
    isolation = {run.fold_facts(index).get("isolation") for index in run.done}
    if "none" not in isolation:
        return ""
    return (
        f"{run.facts['label']}: fitted with --isolation none, in the process that holds the truth."
    )


def _missing_folds(run: StoredRun) -> str:
    folds = int(run.facts["n_folds"])
    absent = (index for index in range(folds) if index not in run.done)
    missing = [str(index) for index in absent if index not in run.damaged]
    if not missing:
        return ""
    named = f"fold {missing[0]} is" if len(missing) == 1 else f"folds {_span(missing)} are"
    return f"{run.facts['label']}: only {len(run.done)} of {folds} folds are done, {named} missing."


def _span(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])}, ..., {names[-1]}"


def render(runs: Sequence[StoredRun], how: Format, *, title: str = "", width: int = 0) -> str:
    """The table with its footnotes as text.

    Parameters
    ----------
    runs
        Rows of the table.
    how
        ``text``, ``markdown`` and ``latex`` for people, ``csv`` and ``json`` with all columns
        and full precision.
    title
        Heading for the formats that people read.
    width
        Columns of the terminal for ``text``; unlimited where 0.
    """
    table = score_table(runs)
    place: Place = "machine" if how in {"csv", "json"} else "text"
    notes = footnotes(runs, table, place)
    return write_table(table, for_people(table), notes, how, title=title, width=width)


def write_table(
    table: pd.DataFrame,
    shown: pd.DataFrame,
    notes: Sequence[str],
    how: Format,
    *,
    title: str = "",
    width: int = 0,
) -> str:
    """A table with footnotes as text.

    Parameters
    ----------
    table
        Columns for csv and json, with full precision.
    shown
        Columns for the other formats: rounded, as strings.
    notes
        Footnotes, numbered in this order.
    how, title, width
        See :func:`render`.
    """
    notes = [" ".join(note.split()) for note in notes]  # a line break would end a comment
    title = " ".join(title.split())
    if how == "csv":
        nested = {name: table[name].map(json.dumps) for name in {"changes"} & {*table}}
        return table.assign(**nested).to_csv(index=False)
    if how == "json":
        # Not pandas' own writer: it rounds to 15 decimals.
        rows = [
            {name: None if pd.isna(value) else value for name, value in row.items()}
            for row in table.to_dict("records")
        ]
        return json.dumps({"rows": rows, "footnotes": list(notes)}, indent=2) + "\n"
    if how == "latex":
        body = shown.to_latex(index=False, escape=True, caption=_latex(title) or None)
        body = body.replace("±", r"$\pm$").replace("–", "--").replace("−", "$-$")
        listed = "".join(f"% {number}. {note}\n" for number, note in enumerate(notes, 1))
        return body + listed
    if how == "text" and width:
        shown, hidden = _fitting(shown, width)
        if hidden:
            notes.append(f"Hidden on a terminal this narrow: {', '.join(hidden)}.")
        notes = [textwrap.fill(note, width - 4, subsequent_indent="   ") for note in notes]
    style = box.MARKDOWN if how == "markdown" else box.SIMPLE_HEAD
    drawn = Table(box=style)
    for number, heading in enumerate(shown.columns):
        drawn.add_column(heading, justify="left" if number < 2 else "right", no_wrap=True)
    for row in shown.itertuples(index=False):
        cells = (printable(str(cell)) for cell in row)
        drawn.add_row(*(_escaped(cell) if how == "markdown" else cell for cell in cells))
    console = Console(
        file=io.StringIO(), width=10_000, no_color=True, highlight=False, markup=False, emoji=False
    )
    console.print(drawn)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    text = "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")
    heading = f"{'### ' if how == 'markdown' else ''}{title}\n\n" if title else ""
    listed = "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))
    return heading + text + ("\n\n" + listed if listed else "") + "\n"


def _escaped(cell: str) -> str:
    """Cell of a Markdown table with bars escaped, since a bar separates cells."""
    return cell.replace("|", r"\|")


def _fitting(shown: pd.DataFrame, width: int) -> tuple[pd.DataFrame, list[str]]:
    """Table without the columns that do not fit, and the headings of those."""
    widths = {str(name): _column_width(shown, name) for name in shown}
    hidden = [
        heading
        for heading in _expendable()
        if sum(widths.values()) > width and widths.pop(heading, 0)
    ]
    shown = shown[list(widths)]
    if sum(widths.values()) > width:
        shown = shown.replace(r" ± .*", "", regex=True)
        hidden.append("standard deviations")
    return shown, hidden


def _expendable() -> list[str]:
    """Headings of columns hidden on a narrow terminal, in the order in which they are hidden."""
    ranks = dict(_GIVE_WAY)
    for score in SCORES:
        columns = (Column(score.heading, score.gives_way), score.interval, score.share)
        ranks |= {column.heading: column.gives_way for column in columns if column}
    return sorted((name for name, rank in ranks.items() if rank), key=ranks.__getitem__)


def _column_width(shown: pd.DataFrame, name: Any) -> int:
    return 3 + max(map(len, [str(name), *shown[name]]))


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


_IF_SEVERAL = (
    *(("seed", "seed"), ("folds_hash", "fold hash"), ("data_hash", "data hash")),
    ("key", "run"),
)


def for_people(table: pd.DataFrame, place: Place = "text") -> pd.DataFrame:
    """Table with rounded numbers, and of the identifying columns only those in which rows differ.

    Parameters
    ----------
    table
        Result of :func:`score_table`.
    place
        ``text`` for the columns of every table, ``page`` for those of the HTML page.
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
    # A ceiling is placed next to its score.
    ceilings = {score.ceiling: score for score in SCORES if score.ceiling}
    for score in SCORES:
        if score.is_in(place) and score.name not in ceilings:
            shown = shown.assign(**_score_columns(score, table, place))
    for name, heading in _COSTS.items():
        shown[heading] = [_number(value, 1) for value in table[name]]
    for name, heading in _IF_SEVERAL:
        several = table[name].nunique() > 1
        repeated = table.duplicated(["method", "preset", "seed", "folds_hash", "data_hash"]).any()
        if several and (name != "key" or repeated):
            shown[heading] = table[name].astype(str)
    return shown


def _score_columns(score: Score, table: pd.DataFrame, place: Place) -> dict[str, list[str]]:
    """Columns of a score for people: value, interval, ceiling and share of the ceiling."""
    name, digits = score.shown_as, score.decimals
    columns = {score.heading: [_number(value, digits) for value in table[name]]}
    if score.spread:
        pairs = zip(table[name], table[f"{name}_sd"], strict=True)
        columns[score.heading] = [_with_sd(mean, sd, digits) for mean, sd in pairs]
    if score.interval:
        pairs = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        columns[score.interval.heading] = [_interval(low, high) for low, high in pairs]
    if score.ceiling and (ceiling := BY_NAME[score.ceiling]).is_in(place):
        columns |= _score_columns(ceiling, table, place)
    if score.share:
        columns[score.share.heading] = [_percent(value) for value in table[f"{name}_share"]]
    return columns


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Table for reading: numbers with four decimals, underscores as spaces."""
    shown = pd.DataFrame()
    for name in table:
        values = table[name]
        if pd.api.types.is_float_dtype(values):
            shown[str(name).replace("_", " ")] = [_number(value, 4) for value in values]
        else:
            shown[str(name).replace("_", " ")] = values.astype(str)
    return shown


def _number(value: float, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) or math.isnan(high) else f"{low:.3f} to {high:.3f}"


def _percent(share: float) -> str:
    # Adding zero turns minus zero into zero.
    return "–" if math.isnan(share) else f"{round(100 * share) + 0} %"


def _with_sd(mean: float, sd: float, digits: int) -> str:
    if mean is None or math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"
