"""Command that draws stored runs: figures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.apps import app
from bench.cli.help_pages import examples
from bench.cli.options import ResultsOption, StoredProtocolOption, names
from bench.cli.paper_table import read_paper_table
from bench.cli.reporting import stored_by_protocol
from bench.errors import BenchError, UnknownNameError
from bench.execute.request import Request


class FigurePurpose(StrEnum):
    """What figures are for."""

    paper = "paper"
    talk = "talk"


@app.command(
    "figures",
    epilog=examples(
        "bench figures --dataset demo",
        "bench figures --dataset her2st --gene GNAS,FASN --format svg --style talk",
    ),
)
def figures_command(
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAMES",
            help="Dataset of the stored runs; several, comma-separated, or a collection: draw a"
            " heat map of methods and datasets.",
        ),
    ],
    protocol: StoredProtocolOption = None,
    sections: Annotated[
        str | None,
        typer.Option(
            "--section",
            metavar="NAMES",
            help="Sections to map, comma-separated.",
            show_default="chosen from the runs",
        ),
    ] = None,
    genes: Annotated[
        str | None,
        typer.Option(
            "--gene",
            metavar="NAMES",
            help="Genes to map, comma-separated.",
            show_default="chosen from the runs",
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Score of the heat map over several datasets.",
            show_default="pcc_acg",
        ),
    ] = None,
    style: Annotated[
        FigurePurpose, typer.Option(help="For a paper, or wide and with large text for a talk.")
    ] = FigurePurpose.paper,
    width_mm: Annotated[
        float | None,
        typer.Option(
            "--width-mm",
            metavar="MM",
            help="Width in millimetres, from 50 to 500.",
            show_default="178; with --style talk 254",
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAMES",
            help="File formats: png, pdf or svg, comma-separated.",
        ),
    ] = "png,pdf",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder to write to.",
            show_default="figures/DATASET in the results folder",
        ),
    ] = None,
    results: ResultsOption = Request.results,
) -> None:
    """Draw figures of the stored runs on a dataset.

    Drawn are scores, genes, ranks, cost, encoders, and maps of genes and spatial domains, as far as
    the runs allow.
    """
    from bench.registry import collection, dataset_name
    from bench.report.drawing import FORMATS, draw_figures, draw_summary
    from bench.report.figure_style import NARROWEST, WIDEST, figure_style
    from bench.report.views import View

    kinds = names(formats)
    for kind in kinds or ("",):
        if kind not in FORMATS:
            raise UnknownNameError("format of figures", kind, FORMATS)
    if width_mm is not None and not NARROWEST <= width_mm <= WIDEST:
        raise BenchError(f"--width-mm {width_mm:g}: choose {NARROWEST:g} to {WIDEST:g}")
    drawn = figure_style(style.value, width_mm)
    named = [one for name in names(dataset) for one in (collection(name) or (name,))]
    if len(named) > 1:
        if sections or genes:
            raise BenchError("--section and --gene are for the maps of one dataset")
        view = View(columns=(score,) if score else ())
        table, of, _ = read_paper_table(
            dataset,
            protocol,
            results,
            stored_by_protocol,
            view,
        )
        folder = out or results / "figures" / "summary" / of
        for path in draw_summary(table, folder, drawn, kinds):
            typer.echo(path)
        return
    if score is not None:
        raise BenchError("--score is for a heat map over several datasets")
    name = dataset_name(dataset)
    for of, runs in stored_by_protocol(results, name, protocol, "figures"):
        folder = (out or results / "figures" / name) / of
        written = draw_figures(
            runs,
            folder,
            sections=names(sections),
            genes=names(genes),
            style=drawn,
            formats=kinds,
        )
        for path in written:
            typer.echo(path)
