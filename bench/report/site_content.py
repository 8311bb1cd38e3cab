"""What the pages of a site show, from the runs of results folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import BenchError
from bench.evaluate.scores import BY_NAME, LEADING
from bench.inventory import named_runs
from bench.protocol.audit import TITLES
from bench.report.footnotes import BY_FOLD_HEADING, footnotes
from bench.report.headings import comparison_heading
from bench.report.presets import shown_preset
from bench.report.seeds import SeedRuns, by_seed
from bench.report.tables import for_people, newest, row_names, score_table
from bench.stored_runs import StoredRun, stored_names, stored_runs

_LEADING = BY_NAME[LEADING]
INDEX_COLUMNS = (
    "method",
    BY_FOLD_HEADING,
    _LEADING.heading,
    *([_LEADING.interval.heading] if _LEADING.interval else []),
    *([BY_NAME[_LEADING.ceiling].heading] if _LEADING.ceiling else []),
    *([_LEADING.share.heading] if _LEADING.share else []),
    "preset",
    "from",
)
"""Columns of a ranking on the first page and on the page of a method."""


@dataclass(frozen=True)
class SiteRow:
    """One row of a ranking, as the pages of methods and of the history need it.

    Attributes
    ----------
    method
        Method that it belongs to: a name, or the label of a row without one.
    name
        Unique name of the row in its ranking.
    rank
        Place among the methods, from 1; None for controls and oracles.
    cells
        Texts of :data:`INDEX_COLUMNS`.
    facts
        Contents of ``run.json`` of its run with the lowest seed.
    runs
        Its runs, one per seed: time, beginning of the key, seed.
    """

    method: str
    name: str
    rank: int | None
    cells: dict[str, str]
    facts: dict[str, Any]
    runs: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, eq=False)
class Ranking:
    """All runs on a dataset under a protocol.

    Attributes
    ----------
    slug
        Name of its files.
    dataset, protocol, heading
        What was run on what.
    table, shown
        Score table with full precision, and the one for people.
    lines, rows
        Rows in this order, with their runs, and what other pages show of them.
    notes
        Footnotes.
    """

    slug: str
    dataset: str
    protocol: str
    heading: str
    table: pd.DataFrame
    shown: pd.DataFrame
    lines: tuple[SeedRuns, ...]
    rows: tuple[SiteRow, ...]
    notes: tuple[str, ...]

    @property
    def kinds(self) -> list[str]:
        """``method``, ``control`` or ``oracle`` of each row."""
        return [str(kind) for kind in self.table["kind"]]

    @property
    def leaks(self) -> list[int]:
        """Numbers of the footnotes that are findings of the audit."""
        begins = tuple(f"{title}: " for title in TITLES.values())
        return [number for number, note in enumerate(self.notes, 1) if note.startswith(begins)]


def site_places(sources: Sequence[Path]) -> list[tuple[str, str]]:
    """Dataset and protocol of all runs in some results folders.

    Raises
    ------
    BenchError
        A folder has no runs.
    """
    places: set[tuple[str, str]] = set()
    for source in sources:
        names = stored_names(source)
        if not names:
            raise BenchError(f"{source}: no runs here; make some with 'bench run'")
        places |= {(dataset, protocol) for dataset, of in names.items() for protocol in of}
    return sorted(places)


def read_ranking(
    sources: Sequence[Path], dataset: str, protocol: str, slug: str = ""
) -> Ranking | None:
    """Ranking of the newest runs with a finished fold; None where there are none.

    Of several folders, the runs of each bear the folder's name as their source.
    """
    runs: list[StoredRun] = []
    for number, source in enumerate(sources):
        of_source = stored_runs(source, dataset, protocol)
        if len(sources) > 1:
            origin = {"name": source.resolve().name, "sha256": str(number)}
            of_source = [
                run if run.origin else replace(run, facts={**run.facts, "origin": origin})
                for run in of_source
            ]
        runs += of_source
    kept = named_runs([run for run in newest(runs) if run.done])
    if not kept:
        return None
    table = score_table(kept)
    by_key = {line.key: line for line in by_seed(kept)}
    lines = tuple(by_key[key] for key in table["key"])
    shown = for_people(table, "page")
    names = row_names(table)
    ranks = np.where(table["kind"] == "method", (table["kind"] == "method").cumsum(), 0)
    columns = [name for name in INDEX_COLUMNS if name in shown]
    cells = shown[columns].to_dict("records")
    rows = tuple(
        SiteRow(
            method=str(line.facts["method"] or line.facts["label"]),
            name=name,
            rank=int(rank) or None,
            cells={str(heading): str(text) for heading, text in texts.items()},
            facts=line.facts,
            runs=tuple(
                (str(run.facts.get("created", "")), run.facts["key"][:12], int(run.facts["seed"]))
                for run in line.runs
            ),
        )
        for line, name, rank, texts in zip(lines, names, ranks, cells, strict=True)
    )
    return Ranking(
        slug=slug or file_name(f"{dataset}--{protocol}"),
        dataset=dataset,
        protocol=protocol,
        heading=comparison_heading(dataset, protocol, [run.facts for run in kept]),
        table=table,
        shown=shown,
        lines=lines,
        rows=rows,
        notes=tuple(footnotes(kept, table, "page")),
    )


def file_name(label: str) -> str:
    """A label as a file name of every system and address."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-.")[:100] or "row"


def settings_of_rows(rows: Sequence[tuple[str, SiteRow]]) -> list[dict[str, Any]]:
    """Distinct settings of some rows, each with the rows that have them.

    Parameters
    ----------
    rows
        Heading of the ranking, and the row.
    """
    import json

    groups: dict[str, list[str]] = {}
    for heading, row in rows:
        config = row.facts.get("tuned") or row.facts.get("config", {})
        text = json.dumps(config, indent=2, sort_keys=True)
        preset = shown_preset(row.facts)
        named = f"{row.facts['label']}{'' if preset == '-' else f', preset {preset}'}"
        groups.setdefault(text, []).append(f"{named} on {heading}")
    return [{"text": text, "rows": of} for text, of in groups.items()]
