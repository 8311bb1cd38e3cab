"""The program and its groups of commands, to which the modules of commands add theirs."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="bench",
    help="Benchmark methods that predict spatial gene expression from H&E histology.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Fetch, check and look at datasets; add your own.", no_args_is_help=True
)
app.add_typer(data_app, name="data")
runs_app = typer.Typer(help="List, remove or name stored runs.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")
encoders_app = typer.Typer(help="Fetch or add weights of image encoders.", no_args_is_help=True)
app.add_typer(encoders_app, name="encoders")
features_app = typer.Typer(
    help="Compute features of frozen encoders ahead of runs.", no_args_is_help=True
)
app.add_typer(features_app, name="features")
