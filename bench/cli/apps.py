"""The program and its groups of commands, to which the modules of commands add theirs."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.version import __version__

app = typer.Typer(
    name="bench",
    help="Benchmark methods that predict spatial gene expression from H&E histology.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"spotbench {__version__}")
        raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Benchmark methods that predict spatial gene expression from H&E histology."""


data_app = typer.Typer(
    help="Fetch, check and look at datasets; add your own.", no_args_is_help=True
)
app.add_typer(data_app, name="data")
study_app = typer.Typer(
    help="Run the studies of a file: a paper's tables and figures again.", no_args_is_help=True
)
app.add_typer(study_app, name="study")
runs_app = typer.Typer(help="List, remove or name stored runs.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")
encoders_app = typer.Typer(help="Fetch or add weights of image encoders.", no_args_is_help=True)
app.add_typer(encoders_app, name="encoders")
submission_app = typer.Typer(
    help="Check results that are handed in for a leaderboard.", no_args_is_help=True
)
app.add_typer(submission_app, name="submission")
features_app = typer.Typer(
    help="Compute features of frozen encoders ahead of runs.", no_args_is_help=True
)
app.add_typer(features_app, name="features")
