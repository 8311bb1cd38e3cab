"""Commands that read results: tables, report, genes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.apps import app
from bench.cli.help_pages import examples
from bench.cli.option_groups import with_groups
from bench.cli.options import (
    MethodRowOption,
    ResultsOption,
    StoredDatasetOption,
    StoredProtocolOption,
    names,
)
from bench.cli.paper_table import print_paper_table
from bench.cli.table_options import (
    MACHINES,
    FormatOption,
    PlainFormatOption,
    TableFormat,
    TableGroup,
    TableLayout,
)
from bench.cli.terminal import complain, terminal_width
from bench.errors import BenchError
from bench.evaluate.scores import COMPARABLE, LEADING
from bench.execute.request import Request

if TYPE_CHECKING:
    from bench.store import Use
    from bench.stored_runs import StoredRun


def stored_by_protocol(
    results: Path, dataset: str, protocol: str | None, use: Use = "tables"
) -> list[tuple[str, list[StoredRun]]]:
    """Stored runs on a dataset, by protocol."""
    from bench.inventory import named_runs, without_replaced
    from bench.report.tables import newest
    from bench.stored_runs import damaged_records, protocols_with_runs, stored_runs

    protocols = protocols_with_runs(results, dataset, protocol)
    for name in protocols:
        for path in damaged_records(results, dataset, name):
            complain(f"{path} is damaged or was edited; its run is left out")
    by_protocol = []
    for name in protocols:
        every = newest(stored_runs(results, dataset, name, use))
        runs = without_replaced(every)
        if len(runs) < len(every):
            complain(
                f"{dataset}, protocol {name}: {len(every) - len(runs)} failed runs that later ones"
                " replace are left out; 'bench runs rm --failed' removes them"
            )
        by_protocol.append((name, named_runs(runs)))
    return by_protocol


@app.command(
    "tables",
    epilog=examples(
        "bench tables --dataset demo",
        "bench tables --dataset demo --pairs --score pcc_heg",
        "bench tables --dataset her2st,stnet --layout paper --out table.tex",
    ),
)
@with_groups
def tables_command(
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME",
            help="Dataset or collection, such as hest; with --layout paper also several,"
            " comma-separated.",
            show_default=False,
        ),
    ] = None,
    protocol: StoredProtocolOption = None,
    how: FormatOption = None,
    table: TableGroup = TableGroup(),  # noqa: B008 - read by with_groups
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Compare the methods pairwise, with paired tests.")
    ] = False,
    with_published: Annotated[
        bool, typer.Option("--with-published", help="Add the published numbers to the table.")
    ] = False,
    published: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Print only the published numbers of a dataset, collection or paper.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        str,
        typer.Option(help=f"With --pairs: score, one of {', '.join(COMPARABLE)}.", metavar="NAME"),
    ] = LEADING,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="ROW",
            help="With --pairs: compare all rows with this one only.",
            show_default="all pairs",
        ),
    ] = None,
    results: ResultsOption = Request.results,
) -> None:
    """Print the table of all stored runs on a dataset."""
    from bench.errors import UnknownNameError
    from bench.registry import collection, dataset_name
    from bench.report.headings import comparison_heading

    how, view = table.format(how), table.view()
    if published is not None and (dataset is not None or pairs or with_published):
        raise BenchError("--published is a table without runs; ask for it alone")
    if table.layout is TableLayout.paper:
        if pairs:
            raise BenchError("--pairs and --layout paper are two tables; ask for one")
        print_paper_table(
            table,
            how,
            dataset=dataset,
            protocol=protocol,
            published=published,
            with_published=with_published,
            results=results,
            stored=stored_by_protocol,
        )
        return
    if table.ranks:
        raise BenchError("--ranks belongs to --layout paper")
    if published is not None:
        from bench.report.literature import render_literature

        title = f"{published}, published numbers"
        text = render_literature(
            published, how.value, title=title, width=table.width(how), view=view
        )
        table.emit(text, how)
        return
    if dataset is None:
        raise BenchError("name a dataset with --dataset, or published numbers with --published")
    if pairs and with_published:
        raise BenchError("--pairs and --with-published are two tables; ask for one")
    if (pairs or with_published) and table.spread is not None:
        raise BenchError("--spread does not belong to --pairs or --with-published")
    if pairs and table.decimals is not None:
        raise BenchError("--decimals does not belong to --pairs")
    if against is not None and not pairs:
        raise BenchError("--against belongs to --pairs")
    if score not in COMPARABLE:
        raise UnknownNameError("score", score, COMPARABLE)

    if len(several := names(dataset)) > 1:
        raise BenchError(
            f"--dataset {dataset}: {len(several)} datasets in one table need --layout paper"
        )
    members = collection(dataset)
    if members:
        if pairs:
            raise BenchError(f"--pairs compares runs on one dataset; {dataset} is a collection")
        _print_collection(dataset, members, protocol, how, with_published, results, table)
        return
    dataset = dataset_name(dataset)
    by_protocol = stored_by_protocol(results, dataset, protocol)
    if len(by_protocol) > 1 and (how in MACHINES or table.out is not None):
        stored = ", ".join(name for name, _ in by_protocol)
        raise BenchError(f"{dataset} has runs under protocols {stored}; name one with --protocol")
    if not with_published:  # which has rows that were not run
        by_protocol = _with_rows(by_protocol, view.methods)
    for name, runs in by_protocol:
        title = comparison_heading(dataset, name, [run.facts for run in runs])
        labels = [run.facts["label"] for run in runs]
        view = table.view() if with_published else table.view().among(labels)
        if pairs:
            from bench.report.pairs import render_pairs

            title += f": pairs by {score}"
            text = render_pairs(
                runs,
                how.value,
                score=score,
                title=title,
                against=against,
                view=view,
                width=table.width(how),
            )
        elif with_published:
            from bench.report.published import render_published

            title += ", beside published numbers"
            text = render_published(
                runs, dataset, name, how.value, title=title, width=table.width(how), view=view
            )
        else:
            from bench.report.tables import render

            text = render(runs, how.value, title=title, width=table.width(how), view=view)
        table.emit(text, how)


def _with_rows(
    by_protocol: list[tuple[str, list[StoredRun]]], methods: Sequence[str]
) -> list[tuple[str, list[StoredRun]]]:
    """Protocols with any of the rows asked for, each of which must be under one of them."""
    from bench.report.views import check_wanted, is_wanted

    check_wanted(methods, (run.facts["label"] for _, runs in by_protocol for run in runs))
    return [
        (name, runs)
        for name, runs in by_protocol
        if not methods or any(is_wanted(run.facts["label"], methods) for run in runs)
    ]


def _print_collection(
    name: str,
    members: Sequence[str],
    protocol: str | None,
    how: TableFormat,
    published: bool,
    results: Path,
    table: TableGroup,
) -> None:
    """One table a protocol over the datasets of a collection."""
    from bench.report.collections import render_collection
    from bench.stored_runs import stored_names

    stored = stored_names(results)
    here = [dataset for dataset in members if dataset in stored]
    if not here:
        raise BenchError(f"{results}: no runs on {name}; make some with 'bench run'")
    protocols = sorted({of for dataset in here for of in stored[dataset]})
    if protocol is not None and protocol not in protocols:
        from bench.errors import UnknownNameError

        raise UnknownNameError(f"protocol with runs on {name}", protocol, protocols)
    if protocol is None and len(protocols) > 1 and (how in MACHINES or table.out is not None):
        found = ", ".join(protocols)
        raise BenchError(f"{name} has runs under protocols {found}; name one with --protocol")
    for one in [protocol] if protocol else protocols:
        runs = {
            dataset: stored_by_protocol(results, dataset, one)[0][1]
            if one in stored.get(dataset, ())
            else []
            for dataset in members
        }
        text = render_collection(
            name,
            runs,
            how.value,
            protocol=one,
            published=published,
            title=f"{name}, protocol {one}",
            width=table.width(how),
            view=table.view(),
        )
        table.emit(text, how)


@app.command("report")
def report_command(
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME",
            help="Dataset of the stored runs.",
            show_default="all that have runs",
        ),
    ] = None,
    protocol: StoredProtocolOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="HTML file to write.",
            show_default="report.html in the results folder",
        ),
    ] = None,
    results: ResultsOption = Request.results,
) -> None:
    """Write one HTML page with tables, figures and maps.

    The file contains the tables and figures of the stored runs, maps of genes, and all settings.
    """
    from bench.report.page import stored_comparisons, write_page

    comparisons = stored_comparisons(results, dataset, protocol)
    typer.echo(write_page(results, out or results / "report.html", comparisons))


@app.command("genes", epilog=examples("bench genes --dataset demo --method ridge --top 20"))
def genes_command(
    dataset: StoredDatasetOption,
    method: MethodRowOption,
    protocol: StoredProtocolOption = None,
    how: PlainFormatOption = TableFormat.text,
    top: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Number of best-predicted genes to list or test."),
    ] = 50,
    gmt: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --enriched: file with gene sets in GMT format.",
            show_default="marker genes of the package",
        ),
    ] = None,
    enriched: Annotated[
        bool,
        typer.Option(
            "--enriched", help="Print gene sets over-represented among the best-predicted genes."
        ),
    ] = False,
    results: ResultsOption = Request.results,
) -> None:
    """Rank genes by the PCC of their prediction.

    With --enriched, test which gene sets are over-represented among the best-predicted genes.
    """
    from bench.errors import UnknownNameError
    from bench.method_references import split_encoder
    from bench.report.genes import render_genes, render_sets
    from bench.report.presets import shown_preset

    stored = [
        (name, [run for run in runs if run.done])
        for name, runs in stored_by_protocol(results, dataset, protocol, "figures")
    ]
    labels = {run.facts["label"] for _, runs in stored for run in runs}
    # The name without its encoder stands for the rows of all encoders.
    made_by = {
        run.facts["label"]: run.facts.get("method_label", run.facts["label"])
        for _, runs in stored
        for run in runs
    }
    wanted = {method} & labels or {
        name for name, of in made_by.items() if method in {of, split_encoder(of)[0]}
    }
    if not wanted:
        what = "method with finished folds" + (f" under {protocol}" if protocol else "")
        raise UnknownNameError(what, method, sorted(labels))
    width = terminal_width() if how is TableFormat.text else 0
    for name, runs in stored:
        for run in (run for run in runs if run.facts["label"] in wanted):
            preset = shown_preset(run.facts)
            title = f"{run.facts['label']} on {dataset}, protocol {name}, preset {preset}"
            if [of.facts["label"] for of in runs].count(run.facts["label"]) > 1:
                title += f", seed {run.facts['seed']}, run {run.facts['key'][:8]}"
            if enriched:
                text = render_sets(run, how.value, top=top, gmt=gmt, title=title, width=width)
            else:
                text = render_genes(run, how.value, top=top, title=title, width=width)
            typer.echo(text, nl=how is TableFormat.text)
