"""The table of ``bench tables --layout paper``: which datasets, runs and published numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.options import names
from bench.cli.table_options import TableFormat, TableGroup
from bench.cli.terminal import complain
from bench.errors import BenchError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

    from bench.report.paper import PaperTable
    from bench.report.views import View
    from bench.stored_runs import StoredRun

Stored = Callable[[Path, str, str], list[tuple[str, list["StoredRun"]]]]


def print_paper_table(
    table: TableGroup,
    how: TableFormat,
    *,
    dataset: str | None,
    protocol: str | None,
    published: str | None,
    with_published: bool,
    results: Path,
    stored: Stored,
) -> None:
    """Print or write the table.

    Parameters
    ----------
    table, how
        What it shows, and its format.
    dataset, protocol
        Datasets with commas between them, and the protocol of their runs.
    published
        Datasets, collections or papers whose published numbers are shown alone.
    with_published
        Show published numbers on the datasets and the protocol too.
    results
        Results folder.
    stored
        Reads the runs on a dataset under a protocol.
    """
    from bench.report.paper import paper_table
    from bench.report.paper_formats import citations, write_paper

    view = table.view()
    if published is not None:
        paper = paper_table({}, _published(names(published), protocol), view)
        title = f"{', '.join(names(published))}, published numbers"
        title += f", protocol {protocol}" if protocol is not None else ""
    else:
        paper, protocol, datasets = read_paper_table(
            dataset or "", protocol, results, stored, view, with_published=with_published
        )
        title = f"{', '.join(datasets)}, protocol {protocol}"
    text = write_paper(
        paper,
        how.value,
        title=title,
        width=table.width(how),
        view=view,
        ranks=table.ranks,
        bibliography=table.bibliography.name if table.bibliography else "",
    )
    table.emit(text, how, citations(paper))


def read_paper_table(
    dataset: str,
    protocol: str | None,
    results: Path,
    stored: Stored,
    view: View,
    *,
    with_published: bool = False,
) -> tuple[PaperTable, str, list[str]]:
    """Table over datasets, the protocol of its runs, and the datasets.

    Parameters
    ----------
    dataset, protocol, results, stored, with_published
        See :func:`print_paper_table`.
    view
        Rows and scores.

    Raises
    ------
    BenchError
        A dataset has no run under the protocol, or several protocols have runs.
    """
    from bench.report.paper import paper_table

    datasets, optional = _datasets(dataset), _members(dataset)
    protocol = _protocol(datasets, protocol, results)
    numbers = _published(datasets, protocol, known_only=True) if with_published else None
    runs = {name: _runs(name, protocol, results, stored) for name in datasets}
    missing = [name for name, of in runs.items() if not of]
    named = [name for name in missing if name not in optional]
    if named and not with_published:
        raise BenchError(f"no run on {', '.join(named)} under protocol {protocol}")
    if missing and not with_published:
        complain(f"no run on {', '.join(missing)} under protocol {protocol}; left out")
        runs = {name: of for name, of in runs.items() if of}
    return paper_table(runs, numbers, view), protocol, list(runs)


def _datasets(text: str) -> list[str]:
    """Datasets of a comma list; a collection stands for its members."""
    from bench.registry import collection, dataset_name

    named = [one for name in names(text) for one in (collection(name) or (dataset_name(name),))]
    if not named:
        raise BenchError("name datasets with --dataset, or published numbers with --published")
    return list(dict.fromkeys(named))


def _members(text: str) -> set[str]:
    """Datasets of the collections in a comma list."""
    from bench.registry import collection

    return {member for name in names(text) for member in collection(name)}


def _protocol(datasets: Sequence[str], protocol: str | None, results: Path) -> str:
    """Protocol of the runs: the one that is named, or the only one that there is."""
    from bench.stored_runs import protocols_with_runs, stored_names

    stored = stored_names(results)
    here = {of for name in datasets for of in stored.get(name, ())}
    if protocol is not None:
        if protocol not in here:
            raise UnknownNameError("protocol with runs on these datasets", protocol, here)
        return protocol
    if not here:  # say what there is instead
        protocols_with_runs(results, datasets[0])
    if len(here) != 1:
        found = ", ".join(sorted(here)) or "none"
        raise BenchError(f"the runs are under protocols {found}; name one with --protocol")
    return here.pop()


def _runs(dataset: str, protocol: str, results: Path, stored: Stored) -> list[StoredRun]:
    from bench.stored_runs import stored_names

    if protocol not in stored_names(results).get(dataset, ()):
        return []
    return [run for _, of in stored(results, dataset, protocol) for run in of]


def _published(
    wanted: Sequence[str], protocol: str | None, known_only: bool = False
) -> pd.DataFrame:
    """Published numbers on datasets, or those that papers have."""
    import pandas as pd

    from bench.report.literature import published_datasets, published_rows

    known = published_datasets()
    tables = [published_rows(name) for name in wanted if not known_only or name in known]
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if not known_only and protocol is not None:
        protocols = set(rows["protocol"])
        if protocol not in protocols:
            raise UnknownNameError("protocol with published numbers", protocol, protocols)
    if protocol is not None and len(rows):
        rows = rows[rows["protocol"] == protocol]
    if rows.empty:
        raise BenchError(f"no published number on {', '.join(wanted)} is known")
    return rows.drop_duplicates(ignore_index=True)
