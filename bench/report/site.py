"""A site of rankings: static pages that need no server and ask for nothing outside.

Layout::

    index.html                     rankings
    datasets/<dataset>--<protocol>.html
    genes/<dataset>--<protocol>.html, genes/<dataset>--<protocol>/<n>.js
    methods.html, methods/<method>.html
    history.html                   runs by date
    data/<dataset>--<protocol>.csv, .json, data/history.csv
    site.css, site.js, site.json
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.errors import StoreError
from bench.evaluate.scores import BY_NAME, LEADING
from bench.records import read_record, write_record
from bench.report.formats import write_table
from bench.report.sheets import FIRST, leaderboard, sheet
from bench.report.site_content import (
    INDEX_COLUMNS,
    SiteRow,
    file_name,
    read_ranking,
    settings_of_rows,
    site_places,
)
from bench.report.site_genes import SCALE, gene_matrix
from bench.report.site_methods import about_dataset, about_method, about_methods
from bench.report.templates import templates
from bench.staging import flush, put_in_place, staging_folder, write_staged
from bench.stored_runs import damaged_records
from bench.version import __version__

if TYPE_CHECKING:
    import jinja2

MARKER = "site.json"
_KIND = "spotbench site"
_ON_INDEX = 10
_NOTES = 40
_SETTINGS = 30
_HISTORY = 500
_MANY_RUNS = 500
"""Runs from which on several processes are worth their start."""

_PROCESSES = 8


@dataclass
class _Summary:
    """What the pages over all rankings need, without the runs."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[str, str, SiteRow]] = field(default_factory=list)
    """Slug and heading of the ranking, and the row."""


@dataclass(frozen=True)
class WrittenSite:
    """What was written."""

    folder: Path
    rankings: int
    rows: int
    methods: int


def write_site(
    sources: Sequence[Path],
    out: Path,
    *,
    archives: Sequence[tuple[str, bytes]] = (),
    say: Callable[[str], None] = lambda line: None,
) -> WrittenSite:
    """Write the site of all runs in some results folders; the same runs give the same bytes.

    The folder appears as a whole; a site that is there gives way.

    Parameters
    ----------
    sources
        Results folders.
    out
        Folder to write.
    archives
        Files for the downloads, by name.
    say
        Told what is being done.

    Raises
    ------
    BenchError
        A folder has no runs with a finished fold.
    StoreError
        The folder is there and no site, or cannot be written.
    """
    out = out.absolute()
    places = site_places(sources)
    check_target(out)
    for source, place in product(sources, places):
        for path in damaged_records(source, *place):
            say(f"{path} is damaged or was edited; its run is left out")
    with staging_folder(out.parent, "site", "--out") as staged:
        environment = templates()
        summary = _Summary()
        for written in _write_rankings(staged, tuple(sources), places):
            if written is not None:
                summary.parts += written.parts
                summary.rows += written.rows
                say(f"{written.parts[0]['heading']}: {len(written.rows)} rows")
        if not summary.rows:
            raise StoreError(f"{sources[0]}: no run with a finished fold")
        methods = _write_methods(staged, environment, summary)
        _write_history(staged, environment, summary, archives)
        index = environment.get_template("site_index.html.jinja")
        told = {"parts": summary.parts, "total": len(summary.rows)}
        write_staged(staged / "index.html", index.render(**_frame("index.html"), **told))
        for name in ("site.css", "site.js"):
            write_staged(staged / name, environment.get_template(f"{name}.jinja").render())
        write_record(staged / MARKER, {"kind": _KIND, "spotbench": __version__})
        flush(staged)
        put_in_place(staged, out)
    return WrittenSite(out, len(summary.parts), len(summary.rows), methods)


def check_target(out: Path) -> None:
    """Refuse a folder that holds anything but a site.

    Raises
    ------
    StoreError
        It holds something else.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise StoreError(f"{out}: is there and is no folder; name another with --out")
    if out.is_dir() and any(out.iterdir()) and read_record(out / MARKER).get("kind") != _KIND:
        raise StoreError(f"{out}: is a folder of something else than a site; name another")


def _frame(here: str, depth: int = 0) -> dict[str, Any]:
    """Values that the frame of every page takes."""
    return {"root": "../" * depth, "here": here, "version": __version__}


def _write_rankings(
    staged: Path, sources: tuple[Path, ...], places: Sequence[tuple[str, str]]
) -> Iterator[_Summary | None]:
    """Write all rankings, several at a time where they are large; None for one without runs."""
    slugs: list[str] = []
    for dataset, protocol in places:
        slug = file_name(f"{dataset}--{protocol}")
        # Two pairs of names may join to one.
        slugs.append(f"{slug}-{len(slugs)}" if slug in slugs else slug)
    tasks = [(staged, sources, place, slug) for place, slug in zip(places, slugs, strict=True)]
    folders = (source / "runs" / dataset / of for source in sources for dataset, of in places)
    runs = sum(len(os.listdir(folder)) for folder in folders if folder.is_dir())
    processes = min(len(tasks), os.cpu_count() or 1, _PROCESSES)
    if processes == 1 or runs < _MANY_RUNS:
        yield from map(_write_ranking, tasks)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_ranking, tasks)


def _write_ranking(
    task: tuple[Path, tuple[Path, ...], tuple[str, str], str],
) -> _Summary | None:
    staged, sources, place, slug = task
    ranking = read_ranking(sources, *place, slug)
    if ranking is None:
        return None
    environment = templates()
    links = [f"../methods/{file_name(row.method)}.html" for row in ranking.rows]
    page = environment.get_template("site_dataset.html.jinja").render(
        **_frame("", 1),
        part=ranking,
        about=about_dataset(ranking.dataset),
        sections=int(ranking.table["sections"].max()),
        folds=sorted(set(ranking.table["folds_hash"])),
        table=sheet(leaderboard(ranking.table), ranking.kinds, (*FIRST, "from"), links),
        shown_notes=_NOTES,
    )
    write_staged(staged / "datasets" / f"{slug}.html", page)
    for how in ("csv", "json"):
        text = write_table(ranking.table, ranking.shown, ranking.notes, how)
        write_staged(staged / "data" / f"{slug}.{how}", text)
    matrix = gene_matrix(ranking)
    rows = [
        {"name": row.name, "kind": kind}
        for row, kind in zip(ranking.rows, ranking.kinds, strict=True)
    ]
    page = environment.get_template("site_genes.html.jinja").render(
        **_frame("", 1), part=ranking, data={**matrix.overview(), "rows": rows, "scale": SCALE}
    )
    write_staged(staged / "genes" / f"{slug}.html", page)
    for number, text in enumerate(matrix.pieces()):
        write_staged(staged / "genes" / slug / f"{number}.js", text)
    best = [row for row, kind in zip(ranking.rows, ranking.kinds, strict=True) if kind != "oracle"]
    best = best[:_ON_INDEX]
    shown = pd.DataFrame([row.cells for row in best])
    kinds = ["method" if row.rank else "control" for row in best]
    links = [f"methods/{file_name(row.method)}.html" for row in best]
    part = {
        "slug": slug,
        "heading": ranking.heading,
        "table": sheet(shown, kinds, links=links),
        "hidden": len(ranking.rows) > len(best),
        "total": len(ranking.rows),
        "leaks": ranking.leaks,
    }
    return _Summary([part], [(slug, ranking.heading, row) for row in ranking.rows])


def _write_methods(staged: Path, environment: jinja2.Environment, summary: _Summary) -> int:
    """Pages of the methods, and the list of them; their number."""
    installed = about_methods()
    of_file: dict[str, list[tuple[str, str, SiteRow]]] = {}
    for entry in summary.rows:
        of_file.setdefault(file_name(entry[2].method), []).append(entry)
    template = environment.get_template("site_method.html.jinja")
    listed = []
    for name, entries in sorted(of_file.items()):
        title = entries[0][2].method
        about = about_method(title, installed)
        page = template.render(
            **_frame("", 1),
            name=title,
            about=about,
            table=sheet(
                pd.DataFrame([_of_method(heading, row) for _, heading, row in entries]),
                ["method" if row.rank else "control" for _, _, row in entries],
                links=[f"../datasets/{slug}.html" for slug, _, _ in entries],
            ),
            settings=settings_of_rows([(heading, row) for _, heading, row in entries]),
            shown_settings=_SETTINGS,
        )
        write_staged(staged / "methods" / f"{name}.html", page)
        ranks = [row.rank for _, _, row in entries if row.rank]
        listed.append(
            {
                "method": title,
                "what it is": about["summary"],
                "rows": str(len(entries)),
                "datasets": str(len({row.facts["dataset"] for _, _, row in entries})),
                "best rank": str(min(ranks)) if ranks else "–",
            }
        )
    page = environment.get_template("site_methods.html.jinja").render(
        **_frame("methods.html"),
        table=sheet(
            pd.DataFrame(listed), links=[f"methods/{name}.html" for name in sorted(of_file)]
        ),
    )
    write_staged(staged / "methods.html", page)
    return len(of_file)


def _of_method(heading: str, row: SiteRow) -> dict[str, str]:
    """Line of a method's page: the ranking, the rank, the row."""
    cells = {name: row.cells[name] for name in INDEX_COLUMNS if name in row.cells}
    for told in ("method", "from"):  # the name of the row has it
        cells.pop(told, None)
    rank = str(row.rank) if row.rank else "–"
    return {"dataset and protocol": heading, "row": row.name, "rank": rank, **cells}


def _write_history(
    staged: Path,
    environment: jinja2.Environment,
    summary: _Summary,
    archives: Sequence[tuple[str, bytes]],
) -> None:
    leading = BY_NAME[LEADING].heading
    runs = [
        {
            "date": created.replace("T", " ")[:16],
            "row": row.name,
            "dataset and protocol": heading,
            leading: row.cells.get(leading, "–"),
            "rank": str(row.rank) if row.rank else "–",
            "seed": str(seed),
            "key": key,
            "from": str((row.facts.get("origin") or {}).get("name", "here")),
            "commit": str(row.facts.get("git_commit") or "–")[:12],
        }
        for _, heading, row in summary.rows
        for created, key, seed in row.runs
    ]
    table = pd.DataFrame(runs).sort_values("date", ascending=False, kind="stable")
    write_staged(staged / "data" / "history.csv", write_table(table, table, (), "csv"))
    for name, content in archives:
        write_staged(staged / "data" / name, content)
    page = environment.get_template("site_history.html.jinja").render(
        **_frame("history.html"),
        table=sheet(table.head(_HISTORY)),
        total=len(table),
        shown=min(len(table), _HISTORY),
        hidden=len(table) > _HISTORY,
        archives=[name for name, _ in archives],
    )
    write_staged(staged / "history.html", page)
