"""Commands on the weights of image encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.apps import encoders_app
from bench.fetch.hub_errors import TOKEN

_Name = Annotated[
    str, typer.Argument(help="A name of 'bench list encoders', or hf-hub:OWNER/NAME.")
]
_Replace = Annotated[
    bool, typer.Option("--replace", help="Replace weights that are on this machine.")
]


@encoders_app.command("get")
def get_command(
    name: _Name,
    token_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable with the access token.")
    ] = TOKEN,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit.", show_default="that of the declaration"),
    ] = None,
    replace: _Replace = False,
) -> None:
    """Fetch the weights of an encoder from the Hugging Face hub, once."""
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
        Path, typer.Argument(help="Weight file, or a folder with the files of the repository.")
    ],
    replace: _Replace = False,
) -> None:
    """Add the weights of an encoder from a file, as on a machine without internet."""
    from bench.blocks.encoders import check_weights
    from bench.encoders.weights import add_weights

    manifest = add_weights(name, file, check_weights, replace=replace)
    _say(name, manifest.file, manifest.revision)


def _say(name: str, file: str, revision: str) -> None:
    from bench.encoders.folders import stored_folder

    typer.echo(f"{name}: {file}, revision {revision}, in {stored_folder(name)}")
    typer.echo(f"run it: bench run --method 'ridge[{name}]' --dataset DATASET")
