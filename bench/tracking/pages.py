"""Content of MLflow's own pages on stored runs: descriptions, the sorted table, the dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.evaluate.scores import BY_NAME, COMPARABLE, LEADING, SCORES
from bench.files import canonical_hash
from bench.records import read_record
from bench.report.formats import write_table
from bench.report.presets import NO_PRESET, shown_preset
from bench.report.tables import for_people, newest, score_table, table_notes
from bench.store import MANIFEST, FoldFolder, RunFolder, read_run
from bench.stored_runs import StoredRun
from bench.tracking.logged_files import COLUMNS

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

    from bench.data.card import DatasetCard

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as the description of an experiment or run."""

VIEW = "spotbench"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of the view of all runs."""

_ALL_RUNS = "tags.level = 'run'"

NOTE_LENGTH = 5000
"""Number of characters that every version of MLflow accepts in a tag of an experiment."""

_DIGEST = 36
_GENES_COMPARED = 2
_DPI = 150
_SHOWN = (
    *(f"metrics.`{name}`" for name, score in COMPARABLE.items() if score.is_in("text")),
    *("tags.`kind`", "tags.`preset`", "tags.`folds_done`", "attributes.`Dataset`"),
)
"""Chosen columns of the runs' table, by MLflow's own names."""

_BY_SECTION = {score.name for score in SCORES if score.spread}
"""Scores logged for each section in a fold's run."""

_EXPENDABLE = [
    *("sections", "fit s"),
    *(score.heading for score in SCORES if score.scope == "pooled" or score.better is None),
    *(score.share.heading for score in SCORES if score.share and score.name != LEADING),
]
"""Columns left out of a description for lack of space."""

_HOW_TO_COMPARE = (
    "A row of the runs' table is a run; its folds are below it. The view *Leaderboard* sorts runs"
    f" by `{LEADING}`. Select runs and press Compare for what differs between them; the chart view"
    " has their curves and, side by side, their prediction maps."
)


def page(experiment: str) -> str:
    """Path of an experiment's table of runs, sorted by PCC(ACG), under a server's address."""
    return (
        f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
    )


def view_tag(view: str) -> str:
    """Tag in which MLflow's pages keep a saved view."""
    return f"mlflow.sharedViewState.{view}"


def saved_view(created: int, name: str = "Leaderboard", search: str = _ALL_RUNS) -> str:
    """Saved view of the runs' table, in the form of MLflow's menu *Views*.

    A version of MLflow that does not know this form shows its default table.

    Parameters
    ----------
    created
        Milliseconds since 1970.
    name, search
        Name in the menu, and which runs it shows.
    """
    state = {
        "searchFilter": search,
        "orderByKey": f"metrics.`{LEADING}`",
        "orderByAsc": BY_NAME[LEADING].better == "lower",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(_SHOWN),
        "columnOrder": ["attributes.`Run Name`", *_SHOWN, "duration", "runDateAndNestInfo"],
    }
    view = {"name": name, "createdAt": created, "state": json.dumps(state)}
    return json.dumps(view)


def experiment_note(runs: Sequence[StoredRun]) -> str:
    """Markdown table of all newest runs with footnotes, and a hint on MLflow's comparison views.

    Parameters
    ----------
    runs
        All runs on a dataset under a protocol.
    """
    facts = runs[0].facts
    title = f"{facts['dataset']}, protocol {facts['protocol']}"
    return _fitted(f"{_table(newest(runs), title)}\n{_HOW_TO_COMPARE}")


def run_note(run: StoredRun) -> str:
    """Markdown description of a run: its identity, its row of the table, its footnotes."""
    facts = run.facts
    what = {"oracle": "an oracle", "control": "a control", "method": "a method"}[facts["kind"]]
    shown = shown_preset(facts)
    preset = "" if shown == NO_PRESET else f", preset {shown}"
    said = (
        f"**{facts['label']}**, {what}{preset}, seed {facts['seed']}, on {facts['dataset']} under"
        f" protocol {facts['protocol']}: {len(run.done)} of {facts['n_folds']} folds."
        " Scores are means over test sections, curves means over folds; the runs of its folds are"
        " below it."
    )
    return _fitted(f"{said}\n\n{_table([run])}")


def run_metrics(run: StoredRun) -> dict[str, float]:
    """Metrics of a run by name, without undefined ones.

    MLflow groups charts by the prefix before a slash, and shows ``system/`` last.
    """
    row = score_table([run]).iloc[0]
    names = ["fit_seconds"]
    for score in SCORES:
        name = score.shown_as
        if score.is_in("page") or score.scope == "pooled":
            names.append(name)
            names += [f"{name}_sd"] if score.spread else []
            names += [f"{name}_share"] if score.ceiling else []
    values = {name: float(row[name]) for name in names if pd.notna(row[name])}
    values["system/fit_seconds"] = values.pop("fit_seconds")
    return values


def fold_scores(fold: FoldFolder) -> dict[str, float]:
    """Scores of a fold by metric name: means over its sections, and each section's own."""
    scores = fold.read_table("scores.parquet")
    of_sections = scores[scores["section"] != ""]
    values = of_sections.groupby("score")["value"].mean().to_dict()
    pooled = scores[scores["section"] == ""]
    values |= dict(zip(pooled["score"], pooled["value"], strict=True))
    for row in of_sections.itertuples():
        if str(row.score) in _BY_SECTION:
            values[f"sections/{row.section!s} {row.score!s}"] = row.value
    return {str(name): float(value) for name, value in values.items() if pd.notna(value)}


def fold_costs(fold: FoldFolder) -> dict[str, float]:
    """Seconds and memory of a fold by metric name, as far as they were measured."""
    facts = fold.facts()
    costs = {**facts["timings"]}
    costs |= {name: facts[name] for name in ("peak_memory_mb", "peak_device_memory_mb")}
    return {f"system/{name}": float(value) for name, value in costs.items() if value is not None}


def fold_curves(fold: FoldFolder) -> pd.DataFrame:
    """Training curves of a fold in long form: ``name``, ``epoch``, ``value``."""
    return _long(fold.read_table("curves.parquet"))


def mean_curves(run: StoredRun) -> pd.DataFrame:
    """Training curves averaged over folds, in long form: ``name``, ``epoch``, ``value``.

    Folds that stopped early are left out of the later epochs.
    """
    curves = [fold_curves(run.folder.fold(index)) for index in run.done]
    together = pd.concat(curves, ignore_index=True)
    return together.groupby(["name", "epoch"], as_index=False).agg({"value": "mean"})


def _long(curves: pd.DataFrame) -> pd.DataFrame:
    if "epoch" not in curves:
        return pd.DataFrame({"name": [], "epoch": [], "value": []})
    return curves.melt("epoch", var_name="name").dropna()


def compared_map(run: StoredRun, index: int) -> np.ndarray | None:
    """Figure of a fold's predictions for comparison with other runs, as pixels.

    Measured beside predicted expression of the best-measured genes of the first test section,
    which are the same for all runs on the same folds; None for an oracle, which has another scale.
    The figure of the fold's own run shows all sections.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from bench.report.maps import gene_maps
    from bench.report.section_maps import section_map

    if run.facts["kind"] == "oracle":
        return None
    genes = run.folder.fold(index).read_table("genes.parquet")
    section = min(genes["section"])
    order = genes[genes["section"] == section].sort_values(["heg", "truth_mean"], ascending=False)
    maps = section_map([StoredRun(run.folder, run.facts, (index,))], section)
    figure = gene_maps(maps, list(order["gene"][:_GENES_COMPARED]))
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def model_note(genes: int) -> str:
    """Markdown description of a fitted model."""
    columns = ", ".join(f"`{name}`" for name in COLUMNS)
    return (
        f"Predicts {genes} genes of spots: a table with a row a spot and the columns {columns}."
        " Read it with `mlflow.pyfunc.load_model('models:/<Model ID>')`, or, from a store that"
        " you do not trust, with `bench.tracking.model.fetch_model`. For an image:"
        " `bench predict models:/<Model ID> slide.jpg --spots spots.csv --out slide.h5ad`."
    )


def dataset_input(run: StoredRun, card: DatasetCard | None) -> DatasetInput:
    """The run's dataset as an MLflow dataset, under the first 36 digits of its hash.

    Parameters
    ----------
    run
        The run.
    card
        Card of the dataset, with its source; None if not available.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    facts = run.facts
    source = card.source if card else facts["dataset"]
    is_address = source.startswith(("http://", "https://"))
    profile = {"sections": facts["n_sections"], "folds": facts["n_folds"]}
    dataset = Dataset(
        name=facts["dataset"],
        digest=facts["dataset_hash"][:_DIGEST],
        source_type="http" if is_address else "card",
        source=json.dumps({"url": source} if is_address else {"source": source}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])


def listed_runs(results: Path, dataset: str, protocol: str) -> list[StoredRun]:
    """Stored runs by their manifests, without verifying hashes; used only for the description."""
    runs = []
    for path in sorted((results / "runs" / dataset / protocol).glob("*/run.json")):
        facts = read_run(path.parent)
        if facts is not None:
            folder = RunFolder(path.parent, facts["key"])
            done = [i for i in range(int(facts["n_folds"])) if _has_manifest(folder, i)]
            runs.append(StoredRun(folder, facts, tuple(done)))
    return [run for run in runs if run.done]


def _has_manifest(run: RunFolder, index: int) -> bool:
    manifest = read_record(run.fold(index).path / MANIFEST)
    of_today = (manifest.get("run"), manifest.get("fold")) == (run.key, index)
    return of_today or manifest.get("key") == fold_key(run, index)


def fold_key(run: RunFolder, index: int) -> str:
    """Key of a fold in a tracking store."""
    return canonical_hash([run.key, index])


def _table(runs: Sequence[StoredRun], title: str = "") -> str:
    """Markdown table with footnotes, narrow enough for MLflow's description."""
    table = score_table(runs)
    shown = for_people(table).drop(columns=_EXPENDABLE, errors="ignore")
    text = write_table(table, shown, table_notes(runs, table, shown), "markdown", title=title)
    # No padding: it counts towards the maximum length, and MLflow does not show it.
    text = re.sub(r"-{4,}", "---", re.sub(r" {2,}", " ", text))
    return re.sub(r"(?m)(?<=[^|\n-]) \|(?!$)", "&emsp;|", text)


def _fitted(text: str) -> str:
    if len(text) <= NOTE_LENGTH:
        return text
    end = text.rfind("\n", 0, NOTE_LENGTH - 40)
    return f"{text[:end]}\n\nThe rest: `bench tables`."


def public(text: Any) -> str:
    """Text with user names and passwords removed from all URLs."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", str(text))
