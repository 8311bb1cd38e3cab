"""Tables, figures and page of a study, from its stored runs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import pandas as pd

from bench.errors import BenchError
from bench.files import atomic_write, listed
from bench.report.citations import PrintedMethod, printed_method, write_bibliography
from bench.report.drawing import draw_figures
from bench.report.formats import Format, markdown_text, rounded, write_table
from bench.report.genes import gene_ranking
from bench.report.headings import comparison_heading
from bench.report.page import ComparedRuns, write_page
from bench.report.pairs import render_pairs
from bench.report.paper import paper_table
from bench.report.paper_formats import citations, write_paper
from bench.report.published import read_published, render_published
from bench.report.tables import render
from bench.stored_runs import StoredRun, stored_run
from bench.study.declaration import Study, StudyPart
from bench.study.planning import members_of
from bench.study.running import MissingRow, RecordedRow, read_record, study_folder

REPORT = "report.md"
PAGE = "report.html"

_ENDINGS: Mapping[str, Format] = {
    "md": "markdown",
    "tex": "latex",
    "csv": "csv",
    "json": "json",
}


@dataclass(frozen=True)
class _Rows:
    """Stored runs of a part on one dataset."""

    part: StudyPart
    dataset: str
    rows: tuple[tuple[RecordedRow, StoredRun], ...]

    @property
    def name(self) -> str:
        return f"{self.part.name}-{self.dataset}"

    @property
    def labelled(self) -> list[StoredRun]:
        """Runs with the labels of the study."""
        return [_named(run, row.label) for row, run in self.rows]

    def as_published(self) -> list[StoredRun]:
        """Runs with the names under which their numbers are published."""
        names = {row.name: row.published_as for row in self.part.rows}
        return [
            run if names.get(row.label) is None else _named(run, str(names[row.label]))
            for row, run in self.rows
        ]


def _named(run: StoredRun, label: str) -> StoredRun:
    return replace(run, facts={**run.facts, "label": label})


def write_report(study: Study, results: Path, out: Path | None = None) -> list[Path]:
    """Write what a study makes of its runs; what is missing is named, never invented.

    Parameters
    ----------
    study
        The study.
    results
        Results folder.
    out
        Folder of the report; None: ``studies/NAME`` of the results.

    Returns
    -------
    list of Path
        ``report.md`` with all tables, then their files, the figures, and ``report.html``.

    Raises
    ------
    BenchError
        Nothing of the study has been run here.
    """
    record = read_record(results, study.name)
    folder = out or study_folder(results, study.name)
    each = [
        _stored(part, dataset, record.rows, results)
        for part in study.parts
        for dataset in members_of(study.datasets_of(part))
    ]
    written: list[Path] = []
    texts: list[str] = []
    for part in study.parts:
        texts.append(f"## {markdown_text(part.title)}")
        of_part = [one for one in each if one.part == part]
        paper, files_of_paper = _paper(part, of_part, folder / "tables")
        texts.append(paper)
        written += files_of_paper
        for rows in of_part:
            tables = _tables(rows)
            texts += (of["md"] for of in tables.values())
            for name, of in tables.items():
                written += (
                    _write(folder / "tables" / f"{rows.name}{name}.{ending}", text)
                    for ending, text in of.items()
                )
            done = [run for run in rows.labelled if run.done]
            if "figures" in part.make and done:
                genes = _panel_genes(done, part.genes)
                written += draw_figures(done, folder / "figures" / rows.name, genes=genes)
        texts.append(_missing(part, record.missing, each))
    compared = _compared(each)
    if study.page and compared:
        written.append(write_page(results, folder / PAGE, compared))
    about = (study.title, study.description.strip(), study.reference.strip())
    title, *heading = map(markdown_text, about)
    text = "\n\n".join(one.strip() for one in (f"# {title}", *heading, *texts) if one.strip())
    return [_write(folder / REPORT, f"{text}\n"), *written]


def _paper(part: StudyPart, each: Sequence[_Rows], folder: Path) -> tuple[str, list[Path]]:
    """Table of a part over its datasets as a paper has it, as Markdown, and its files."""
    if "table" not in part.make:
        return "", []
    runs = {rows.dataset: rows.labelled for rows in each if rows.rows}
    names = {row.published_as or row.method: row.name for row in part.rows}
    tables = [published_rows_of(part, rows.dataset) for rows in each]
    published = pd.concat(tables) if part.published != "none" and tables else None
    if published is not None:
        published = published.assign(method=published["method"].map(names))
    if not runs and (published is None or published.empty):
        return "", []
    table = paper_table({} if part.published == "only" else runs, published)
    cited = {row.name: printed_method(row.base).citation for row in part.rows}
    for row in table.rows:
        row.printed = PrintedMethod(row.label, cited.get(row.label))
    bibliography = write_bibliography(folder / f"{part.name}.bib", citations(table))
    texts = {
        ending: write_paper(
            table, how, title=part.title, ranks=True, bibliography=bibliography.name
        )
        for ending, how in {**_ENDINGS, "html": "html"}.items()
    }
    paths = [_write(folder / f"{part.name}.{ending}", text) for ending, text in texts.items()]
    return texts["md"].removeprefix(f"### {markdown_text(part.title)}").strip(), [
        *paths,
        bibliography,
    ]


def _stored(part: StudyPart, dataset: str, recorded: Sequence[RecordedRow], results: Path) -> _Rows:
    rows = []
    for row in recorded:
        if (row.part, row.dataset) == (part.name, dataset):
            run = stored_run(row.run_folder(results), "figures")
            if run is not None and run.done:
                rows.append((row, run))
    return _Rows(part, dataset, tuple(rows))


def _tables(rows: _Rows) -> dict[str, dict[str, str]]:
    """Tables of a part on a dataset: by the end of their file's name, then by format."""
    part, runs = rows.part, rows.labelled
    title = comparison_heading(rows.dataset, part.protocol, [run.facts for run in runs])
    tables: dict[str, dict[str, str]] = {}
    if runs and "table" in part.make and part.published != "only":
        tables[""] = {end: render(runs, how, title=title) for end, how in _ENDINGS.items()}
    published = published_rows_of(part, rows.dataset)
    if part.published != "none" and not published.empty:
        title_of = f"{title}, beside published numbers"
        tables["-published"] = {
            end: render_published(
                rows.as_published(),
                rows.dataset,
                part.protocol,
                how,
                title=title_of,
                published=published,
            )
            for end, how in _ENDINGS.items()
        }
    if "pairs" in part.make and len(runs) > 1:
        tables["-pairs"] = {
            end: render_pairs(runs, how, title=f"{title}, paired tests")
            for end, how in _ENDINGS.items()
        }
    if "genes" in part.make and runs:
        table, notes = _gene_table(runs, part.genes)
        tables["-genes"] = {
            end: write_table(table, rounded(table), notes, how, title=f"{title}, PCC of genes")
            for end, how in _ENDINGS.items()
        }
    return tables


def published_rows_of(part: StudyPart, dataset: str) -> pd.DataFrame:
    """Published numbers of the rows of a part, in their order.

    Returns
    -------
    DataFrame
        Columns :data:`bench.report.published.COLUMNS`.
    """
    folder = Path(str(files("bench.published")))
    if part.published_in == "ablations":
        folder /= "ablations"
    table = read_published(dataset, folder)
    names = [row.published_as or row.method for row in part.rows]
    order = {name: place for place, name in reversed(list(enumerate(names)))}
    chosen = table[table["method"].isin(order) & (table["protocol"] == part.protocol)]
    return chosen.sort_values("method", key=lambda of: of.map(order), kind="stable")


def _gene_table(runs: Sequence[StoredRun], genes: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """PCC of genes: mean over sections and best section, a row a run and gene."""
    parts, lacking = [], []
    for run in runs:
        if not (run.done and run.facts["kind"] != "oracle"):
            continue
        ranking = gene_ranking(run).set_index("gene")
        lacking += [gene for gene in genes if gene not in ranking.index]
        some = ranking.loc[[gene for gene in genes if gene in ranking.index]].reset_index()
        some.insert(0, "method", run.facts["label"])
        parts.append(some.drop(columns="rank"))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"method": []})
    notes = [f"Not in the panel: {listed(sorted(set(lacking)))}."] if lacking else []
    return table, notes


def _panel_genes(runs: Sequence[StoredRun], genes: Sequence[str]) -> tuple[str, ...]:
    known = set.intersection(*(set(run.genes()["gene"]) for run in runs))
    return tuple(gene for gene in genes if gene in known)


def _missing(part: StudyPart, missing: Sequence[MissingRow], each: Sequence[_Rows]) -> str:
    """What a part lacks, as a list."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in missing:
        if row.part == part.name:
            labels = by_reason.setdefault((row.dataset, row.reason), [])
            labels += [row.label] if row.label not in labels else []
    lines = [
        f"- {dataset}: {', '.join(labels)}: {reason}"
        for (dataset, reason), labels in by_reason.items()
    ]
    for rows in (one for one in each if one.part == part):
        lines += [
            f"- {rows.dataset}: {row.label}: {len(run.done)} of {run.facts['n_folds']} folds"
            for row, run in rows.rows
            if part.folds is None and len(run.done) < run.facts["n_folds"]
        ]
    return markdown_text("\n".join(["### Missing", "", *lines])) if lines else ""


def _compared(each: Sequence[_Rows]) -> list[ComparedRuns]:
    """Runs of the page: once a dataset and protocol, whatever parts they are in."""
    runs: dict[tuple[str, str], dict[str, StoredRun]] = {}
    for rows in each:
        for run in rows.labelled:
            place = runs.setdefault((rows.dataset, run.facts["protocol"]), {})
            place.setdefault(run.folder.key, run)
    return [
        ComparedRuns(dataset, protocol, list(some.values()), 0)
        for (dataset, protocol), some in runs.items()
    ]


def _write(path: Path, text: str) -> Path:
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path
