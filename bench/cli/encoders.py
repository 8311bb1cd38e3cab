"""Commands on the weights of image encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.apps import encoders_app
from bench.fetch.hub_errors import TOKEN

_Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name from 'bench list encoders', or hf-hub:OWNER/NAME."),
]
_Replace = Annotated[
    bool, typer.Option("--replace", help="Replace weights that are stored already.")
]


@encoders_app.command("get")
def get_command(
    name: _Name,
    token_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the access token.")
    ] = TOKEN,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Branch, tag or commit of the repository.",
            show_default="that of 'bench list encoders --json'",
        ),
    ] = None,
    replace: _Replace = False,
) -> None:
    """Download the weights of an encoder from Hugging Face."""
    from bench.blocks.encoders import check_weights
    from bench.encoders.hub import get_weights

    manifest = get_weights(
        name, check_weights, token_env=token_env, revision=revision, replace=replace
    )
    _say(name, manifest.file, manifest.revision)


@encoders_app.command("add")
def add_command(
    name: _Name,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|FOLDER", help="Weight file, or folder with the files of the repository."
        ),
    ],
    replace: _Replace = False,
) -> None:
    """Add the weights of an encoder from a file, without internet."""
    from bench.blocks.encoders import check_weights
    from bench.encoders.weights import add_weights

    manifest = add_weights(name, file, check_weights, replace=replace)
    _say(name, manifest.file, manifest.revision)


def _say(name: str, file: str, revision: str) -> None:
    from bench.encoders.folders import stored_folder

    typer.echo(f"{name}: {file}, revision {revision}, in {stored_folder(name)}")
    typer.echo(f"run it: bench run --method 'ridge[{name}]' --dataset DATASET")
