"""What a reader of a table must know, as footnotes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.evaluate.scores import BY_NAME, LEADING, SCORES, Place, Score
from bench.evaluate.uncertainty import PATIENTS_FOR_A_TEST
from bench.files import listed
from bench.protocol.audit import TITLES
from bench.report.presets import preset_notes, small_preset_notes
from bench.report.repeats import repeat_notes
from bench.report.seeds import PATIENTS_NOTE, SEEDS_NOTE, SeedRuns, by_seed, limited, several_seeds
from bench.stored_runs import StoredRun

BY_FOLD = "pooled_pcc_acg"
"""Score that protocols with the headline ``fold`` rank by."""

BY_FOLD_HEADING = "PCC by fold"

BY_FOLD_NOTE = (
    f"{BY_FOLD_HEADING}: Pearson correlation of each gene over all test spots of a fold, mean over"
    " the genes, then over folds, ± the population standard deviation over folds, as"
    " HEST-Benchmark has it; an undefined gene is left out, where HEST-Benchmark's code gives no"
    " score."
)

INTERVAL_NOTES = (
    "95 % interval: bootstrap over patients, then their sections.",
    "95 % interval: bootstrap over patients, then their sections. With fewer than 6 patients it is"
    " too narrow, and no test over patients has power.",
)
"""Footnotes on intervals: with enough patients, and with few."""


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
    rows = by_seed(runs)
    for run in runs:
        run_notes = [
            f"{TITLES.get(finding['kind'], finding['kind'])}: {finding['message']}."
            for finding in run.facts.get("audit", ())
        ]
        run_notes += run.facts.get("footnotes", ())
        notes += [note for note in run_notes if note not in notes]
    for row in rows:
        checkpoint = row.facts.get("checkpoint")
        if checkpoint:
            notes.append(
                f"{row.facts['label']}: not trained here but read from {checkpoint['file']};"
                " whether it was trained on these test sections is not known."
            )
    if (table["kind"] == "oracle").any():
        names = ", ".join(table.loc[table["kind"] == "oracle", "method"])
        notes.append(
            f"Oracle ({names}): reads the truth on purpose, to show what the score rewards; it"
            " has a scale of its own, so scores that depend on the scale are not given."
        )
    if (table["headline"] == "fold").any():
        notes.append(BY_FOLD_NOTE)
    notes += [
        score.note
        for score in SCORES
        if score.note and score.is_in(place) and _has_values(score, table)
    ]
    if table[f"{LEADING}_low"].notna().any():
        notes.append(INTERVAL_NOTES[_patients(runs) < PATIENTS_FOR_A_TEST])
    if several_seeds(table):
        notes.append(SEEDS_NOTE)
    if table["train_patients"].notna().any():
        notes.append(PATIENTS_NOTE)
    notes += preset_notes(_in_order(rows, table))
    notes += small_preset_notes(table["preset"])
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
    notes += repeat_notes(runs)
    notes += sorted(note for row in rows for note in _missing_folds(row))
    notes += [note for row in rows for run in row.runs for note in _damage(run, _name(run, row))]
    notes += _above_ceiling(table)
    notes += sorted({*filter(None, map(_not_isolated, runs))})
    for kind, said in _DATA_NOTES.items():
        counts: dict[str, int | str] = {}
        for run in runs:
            for index in run.done:
                counts |= run.fold_facts(index).get(kind, {})
        if counts:
            mark = ": " if kind in {"left_out", "reduced_images"} else " "
            each = [f"{name}{mark}{count}" for name, count in sorted(counts.items())]
            notes.append(f"{said} ({listed(each)}).")
    warned = {
        f"{_name(run, row)}, fold {index}: {note}."
        for row in rows
        for run in row.runs
        for index in run.done
        for note in run.fold_facts(index).get("notes", [])
    }
    left_out = {name: why for run in runs for name, why in run.facts["left_out"].items()}
    if left_out:
        name, why = next(iter(left_out.items()))
        notes.append(
            f"{len(left_out)} sections were left out ({listed(list(left_out))});"
            f" for instance {name}: {why}."
        )
    return [*notes, *sorted(warned)]


def _has_values(score: Score, table: pd.DataFrame) -> bool:
    """Whether a column needs an explanation; a sum that is zero everywhere does not."""
    values = table[score.shown_as]
    return bool((values.fillna(0) > 0).any() if score.combine == "sum" else values.notna().any())


def _in_order(rows: Sequence[SeedRuns], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Facts of the rows in the order of the table."""
    places = {key: place for place, key in enumerate(table["key"])}
    return [row.facts for row in sorted(rows, key=lambda row: places.get(row.key, 0))]


def _name(run: StoredRun, row: SeedRuns) -> str:
    """Label of a run, with what tells it from others of its method."""
    name = f"{run.facts['label']}{limited(run.facts.get('train_patients'))}"
    return f"{name}, seed {run.facts['seed']}" if len(row.runs) > 1 else name


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


def _damage(run: StoredRun, name: str) -> list[str]:
    """Footnotes on damaged or edited folds of a run, which its row leaves out."""
    again = "import it again" if run.origin else "the same 'bench run' does it again"
    return [
        f"{name}: fold {index} is left out, its {damage}; {again}."
        for index, damage in sorted(run.damaged.items())
    ]


def _above_ceiling(table: pd.DataFrame) -> list[str]:
    """Footnotes on rows above the noise ceiling, which is exceeded only by leakage or by chance."""
    score = BY_NAME[LEADING]
    if not score.ceiling:
        return []
    above = table[(table["kind"] != "oracle") & (table[score.name] > table[score.ceiling])]
    return [
        f"{row['method']}{limited(row['train_patients'])}: {score.heading}"
        f" {row[score.name]:.{score.decimals}f} is above the noise"
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


def _missing_folds(row: SeedRuns) -> list[str]:
    """Footnotes on runs of a row with folds that are neither done nor damaged."""
    notes = []
    for run in row.runs:
        folds = int(run.facts["n_folds"])
        absent = (index for index in range(folds) if index not in run.done)
        missing = [str(index) for index in absent if index not in run.damaged]
        if missing:
            named = f"fold {missing[0]} is" if len(missing) == 1 else f"folds {listed(missing)} are"
            done = f"{len(run.done)} of {folds} folds {'is' if len(run.done) == 1 else 'are'} done"
            notes.append(f"{_name(run, row)}: only {done}, {named} missing.")
    return notes
