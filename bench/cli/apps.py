"""The program and its groups of commands, to which the modules of commands add theirs."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.help_pages import HelpGroup, HelpTyper, ProgramGroup, examples
from bench.version import __version__

app = HelpTyper(
    name="bench",
    cls=ProgramGroup,
    help="Benchmark methods that predict spatial gene expression from H&E histology.",
    epilog=examples(
        "bench run --method mean,ridge --dataset demo --preset quick",
        "bench tables --dataset demo",
        "bench COMMAND --help",
    ),
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


def _group(name: str, purpose: str) -> HelpTyper:
    """Add a group of commands to the program."""
    group = HelpTyper(help=purpose, no_args_is_help=True, cls=HelpGroup)
    app.add_typer(group, name=name)
    return group


data_app = _group("data", "Download, check and inspect datasets; add your own.")
study_app = _group("study", "Run a study (YAML file): its fits, tables and figures.")
runs_app = _group("runs", "List, remove or name stored runs.")
encoders_app = _group("encoders", "Download or add the weights of image encoders.")
submission_app = _group("submission", "Check results that are submitted to a leaderboard.")
features_app = _group("features", "Compute features of frozen image encoders before runs.")
