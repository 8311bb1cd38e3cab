"""One self-contained HTML file with all results of a results folder."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.errors import BenchError, StoreError, UnknownNameError
from bench.files import atomic_write
from bench.inventory import named_runs, without_replaced
from bench.protocol.audit import TITLES
from bench.report.comparison_figures import comparison_figures
from bench.report.footnotes import footnotes
from bench.report.headings import comparison_heading
from bench.report.page_maps import Row, map_needs, packed_images, packed_maps, share_out
from bench.report.pairs import pair_notes, pair_table, pairs_for_people
from bench.report.presets import preset_note, shown_preset
from bench.report.seeds import by_seed
from bench.report.sheets import FIRST, leaderboard, sheet
from bench.report.tables import newest, row_name, score_table
from bench.report.templates import rendered
from bench.store import FAILURE
from bench.stored_runs import StoredRun, stored_names, stored_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_BYTES = 28_000_000
"""Maximum size of the maps and images of a page together; the rest is small."""

_FIGURES = {
    "scores": (
        "Scores",
        "Mean PCC(ACG) of every run with its 95 % interval over patients and its test sections as"
        " points; the dashed rule is the noise ceiling.",
    ),
    "genes": ("Genes", "PCC of every gene, mean over sections, as one box a run."),
    "critical-difference": (
        "Critical difference",
        "Mean rank of every run over the sections; a bar joins runs that do not differ"
        " significantly.",
    ),
    "data-efficiency": (
        "Data efficiency",
        "Mean PCC(ACG) of every method against the number of training patients in each fold, with"
        " its 95 % interval over test patients.",
    ),
    "encoders": (
        "Encoders",
        "Mean PCC(ACG) by image encoder with its 95 % interval; an open point is the encoder with"
        " random weights.",
    ),
    "gene-scatter": (
        "Two methods by gene",
        "PCC of every gene under the best method against that under the second best, means over"
        " sections.",
    ),
    "cost": (
        "Cost",
        "PCC(ACG) of every run against its seconds of training; the area is its peak memory.",
    ),
}


@dataclass(frozen=True)
class ComparedRuns:
    """Runs on one dataset under one protocol.

    Attributes
    ----------
    dataset, protocol
        Names.
    runs
        Runs on the page.
    older
        Number of runs left out, because a newer one differs only in code or versions, or because
        they failed and a later one of the method did not.
    """

    dataset: str
    protocol: str
    runs: Sequence[StoredRun]
    older: int

    @property
    def heading(self) -> str:
        """Heading of its part of the page."""
        return comparison_heading(self.dataset, self.protocol, [run.facts for run in self.runs])


def stored_comparisons(
    results: Path, dataset: str | None = None, protocol: str | None = None
) -> list[ComparedRuns]:
    """Comparisons in a results folder: all, or those of one dataset or protocol.

    Raises
    ------
    BenchError
        Nothing there.
    UnknownNameError
        No run on the dataset, or none under the protocol.
    """
    stored = stored_names(results)
    if dataset is not None and stored and dataset not in stored:
        raise UnknownNameError(f"dataset in {results}", dataset, stored)
    names = [name for name in sorted(stored) if dataset in {None, name}]
    protocols = {of for name in names for of in stored[name]}
    if protocol is not None and names and protocol not in protocols:
        raise UnknownNameError("protocol with runs", protocol, protocols)
    listed = []
    for name in names:
        for of in sorted(stored[name]):
            if protocol in {None, of} and (runs := stored_runs(results, name, of, "figures")):
                kept = named_runs(without_replaced(newest(runs)))
                listed.append(ComparedRuns(name, of, kept, len(runs) - len(kept)))
    if not listed:
        raise BenchError(f"{results}: no runs here; make some with 'bench run'")
    return listed


def write_page(results: Path, path: Path, comparisons: Sequence[ComparedRuns]) -> Path:
    """Write the page; the same results give the same bytes.

    Parameters
    ----------
    results
        Results folder, for the images beside the runs.
    path
        HTML file to write.
    comparisons
        Result of :func:`stored_comparisons`.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    text = page(results, comparisons)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); name another file with --out"
        ) from error
    return path


def page(results: Path, comparisons: Sequence[ComparedRuns]) -> str:
    """The page as text; see :func:`write_page`."""
    tables = [score_table(comparison.runs) for comparison in comparisons]
    rows = [
        named_rows(comparison.runs, table)
        for comparison, table in zip(comparisons, tables, strict=True)
    ]
    images = packed_images(results, [row for of_one in rows for row in of_one])
    maps = _maps(rows, MAP_BYTES - sum(len(image["source"]) for image in images.values()))
    one = comparisons[0]
    return rendered(
        "page.html.jinja",
        title=one.heading if len(comparisons) == 1 else "All runs",
        parts=[_part(*part) for part in zip(comparisons, tables, rows, maps, strict=True)],
        images=images,
    )


def named_rows(runs: Sequence[StoredRun], table: pd.DataFrame) -> list[Row]:
    """Rows in the order of their score table, each with a unique name and its runs."""
    by_key = {row.key: row for row in by_seed(runs)}
    return [
        Row(row_name(row, table), by_key[row["key"]].shown, by_key[row["key"]].runs)
        for row in table.to_dict("records")
    ]


def _maps(rows: Sequence[Sequence[Row]], budget: float) -> list[dict[str, Any]]:
    """Maps of each comparison, with the genes that did not fit into the budget."""
    needs = [map_needs(of_one) for of_one in rows]
    shares = share_out([need.total for need in needs], max(budget, 0.0))
    packed = []
    for of_one, need, share in zip(rows, needs, shares, strict=True):
        genes = need.within(share)
        left_out = sorted(set(need.order) - set(genes))
        packed.append({"data": packed_maps(of_one, genes), "left_out": left_out})
    return packed


def _part(
    comparison: ComparedRuns, table: pd.DataFrame, rows: Sequence[Row], maps: Mapping[str, Any]
) -> dict[str, Any]:
    notes = footnotes(comparison.runs, table, "page")
    leaks = tuple(f"{title}: " for title in TITLES.values())
    kinds = list(table["kind"])
    return {
        "dataset": comparison.dataset,
        "protocol": comparison.protocol,
        "heading": comparison.heading,
        "presets": sorted(set(table["preset"].astype(str)) - {"-"}),
        "folds": sorted(set(table["folds_hash"])),
        "sections": int(table["sections"].max()),
        "older": comparison.older,
        "table": sheet(leaderboard(table), kinds, FIRST),
        "notes": [{"text": note, "leak": note.startswith(leaks)} for note in notes],
        "pairs": _pairs(comparison.runs),
        "figures": _figures(comparison.runs),
        "cost": sheet(_cost(rows), kinds),
        "twins": any(row.run.facts["label"].startswith("shuffled") for row in rows),
        "runs": [_run(_run_name(row, run), run) for row in rows for run in row.seeds],
        "maps": maps["data"],
        "left_out": maps["left_out"],
    }


def _pairs(runs: Sequence[StoredRun]) -> dict[str, Any] | None:
    table = pair_table(runs)
    if table.empty:
        return None
    return {"table": sheet(pairs_for_people(table)), "notes": pair_notes(table)}


def _figures(runs: Sequence[StoredRun]) -> list[dict[str, str]]:
    drawn = []
    for name, figure in comparison_figures(runs).items():
        heading, said = _FIGURES.get(name, (name, name))
        drawn.append({"name": name, "heading": heading, "said": said, "source": _svg(figure)})
    return drawn


def _svg(figure: Figure) -> str:
    """Figure as a data URI; identifiers inside an image do not clash with those of the page."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "spotbench"}):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue().encode()).decode()}"


def _cost(rows: Iterable[Row]) -> pd.DataFrame:
    table = []
    for row in rows:
        folds = [run.folder.fold(index).facts() for run in row.seeds for index in run.done]
        seeds = sum(bool(run.done) for run in row.seeds)
        timings = [fold.get("timings", {}) for fold in folds]
        table.append(
            {
                "method": row.name,
                "preset": shown_preset(row.run.facts),
                "device": ", ".join(sorted({str(fold.get("device", "–")) for fold in folds})),
                "precision": ", ".join(sorted({str(f.get("precision", "–")) for f in folds})),
                "folds": f"{len(folds)}/{sum(int(run.facts['n_folds']) for run in row.seeds)}",
                "fit s": _most(sum, [of.get("fit_seconds") for of in timings], 1, seeds),
                "predict s": _most(sum, [of.get("predict_seconds") for of in timings], 1, seeds),
                "peak memory MB": _most(max, [fold.get("peak_memory_mb") for fold in folds], 0),
                "device memory MB": _most(
                    max, [fold.get("peak_device_memory_mb") for fold in folds], 0
                ),
            }
        )
    shown = pd.DataFrame(table)
    no_device = (shown["device memory MB"] == "–").all()
    return shown.drop(columns=["device memory MB"]) if no_device else shown


def _most(combine: Any, values: Iterable[float | None], digits: int, seeds: int = 1) -> str:
    known = [float(value) for value in values if value is not None]
    return f"{combine(known) / seeds:.{digits}f}" if known else "–"


def _run_name(row: Row, run: StoredRun) -> str:
    return row.name if len(row.seeds) == 1 else f"{row.name}, seed {run.facts['seed']}"


def _run(name: str, run: StoredRun) -> dict[str, Any]:
    facts = run.facts
    folds = []
    for index in range(int(facts["n_folds"])):
        folder = run.folder.fold(index)
        done = index in run.done
        folds.append(
            {
                "index": index,
                "done": done,
                "why": "" if done else _failure(folder.path / FAILURE),
                "notes": folder.facts().get("notes", []) if done else [],
            }
        )
    machines = {
        json.dumps(run.folder.fold(index).facts().get("machine", {}), sort_keys=True)
        for index in run.done
    }
    identity = {
        "run key": facts["key"],
        "kind": facts["kind"],
        "preset": shown_preset(facts),
        **({"changes": note} if (note := preset_note(facts)) else {}),
        "seed": facts["seed"],
        "created": facts.get("created", "–"),
        "commit": facts.get("git_commit") or "–",
        "dataset hash": facts.get("dataset_hash", "–"),
        "protocol hash": facts.get("protocol_hash", "–"),
        "folds hash": facts["folds_hash"],
        "machine": "; ".join(
            ", ".join(f"{name} {value}" for name, value in json.loads(text).items())
            for text in sorted(machines)
        )
        or "–",
    }
    return {
        "name": name,
        "preset": shown_preset(facts),
        "done": len(run.done),
        "n_folds": facts["n_folds"],
        "identity": {name: str(value) for name, value in identity.items()},
        "settings": json.dumps(facts.get("config", {}), indent=2, sort_keys=True),
        "packages": {str(k): str(v) for k, v in sorted(facts.get("packages", {}).items())},
        "folds": [fold for fold in folds if not fold["done"] or fold["notes"]],
        "facts": json.dumps(facts, indent=2, sort_keys=True),
    }


def _failure(path: Path) -> str:
    """Why a fold failed: the first line, or in results of the first layout the last one."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "not run"
    if not lines:
        return "failed"
    return f"failed: {lines[-1 if lines[0].startswith('Traceback') else 0].strip()}"
