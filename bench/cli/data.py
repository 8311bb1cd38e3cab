"""Commands on a dataset: ``bench data ...``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import (
    REFUSED,
    DataRootOption,
    JsonOption,
)
from bench.cli.terminal import complain, print_rows


def show_command(
    dataset: Annotated[str, typer.Argument(help="Dataset name, or the path of a card.")],
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a dataset's sections, and which of their files are on this machine."""
    from bench.data.dataset import data_folder
    from bench.errors import DataError
    from bench.registry import dataset_card

    card = dataset_card(dataset)
    try:
        root: Path | None = data_folder(card, data_root)
        note = ""
    except DataError as error:
        if data_root is not None:
            raise
        root, note = None, str(error)
    rows = []
    for section in card.sections:
        missing = [
            role
            for role, file in section.files.items()
            if root is None or not (root / file.path).is_file()
        ]
        rows.append(
            {
                "section": section.name,
                "patient": section.patient,
                "spots": str(section.spots or "-"),
                "um/px": f"{scale:.3f}" if (scale := card.scale(section)) else "-",
                "labels": "yes" if "labels" in section.files else "-",
                "missing": ", ".join(missing) or "-",
            }
        )
    if as_json:
        facts = card.model_dump(mode="json", exclude={"sections"})
        folder = str(root) if root else None
        typer.echo(json.dumps({"card": facts, "folder": folder, "sections": rows}, indent=2))
        return
    typer.echo(f"{card.title}\n{card.citation}")
    for name in ("doi", "licence", "source", "platform", "tissue", "note"):
        value = getattr(card, name)
        if value:
            typer.echo(f"{name}: {value}")
    typer.echo(f"folder: {root or note}")
    print_rows("", rows)


def verify_command(
    dataset: Annotated[str, typer.Argument(help="Dataset name, or the path of a card.")],
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every file of a dataset that is here against its card; missing files are listed."""
    from bench.data.dataset import data_folder
    from bench.errors import DataError
    from bench.registry import dataset_card

    card = dataset_card(dataset)
    root = data_folder(card, data_root)
    good, missing, wrong = 0, [], []
    for section in card.sections:
        for file in section.files.values():
            path = root / file.path
            if not path.is_file():
                missing.append(file.path)
                continue
            try:
                file.verify(path)
                good += 1
            except DataError as error:
                wrong.append(str(error))
    if as_json:
        typer.echo(json.dumps({"good": good, "missing": missing, "wrong": wrong}, indent=2))
    else:
        typer.echo(f"{good} files are what the card says, {len(missing)} are missing")
        for name in missing[:10]:
            typer.echo(f"  missing: {name}")
        if len(missing) > 10:
            typer.echo(f"  and {len(missing) - 10} more")
        for line in wrong:
            complain(line)
    if wrong:
        raise typer.Exit(REFUSED)
