"""The command that lists what is installed."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from bench.cli.apps import app
from bench.cli.options import JsonOption
from bench.cli.terminal import print_rows
from bench.errors import DataError

_JSON_ALONE = {"page", "citation"}
"""Facts on encoders that no terminal has room for."""


class ListedKind(StrEnum):
    """What ``bench list`` can list."""

    all = "all"
    methods = "methods"
    datasets = "datasets"
    protocols = "protocols"
    encoders = "encoders"


@app.command("list")
def list_command(
    kind: Annotated[
        ListedKind,
        typer.Argument(
            metavar="KIND", help="What to list: all, methods, datasets, protocols or encoders."
        ),
    ] = ListedKind.all,
    as_json: JsonOption = False,
) -> None:
    """List methods, datasets, protocols and image encoders."""
    from bench.evaluate.names import ORACLE_SUMMARIES
    from bench.registry import dataset_card, find_datasets, find_methods

    listing: dict[str, list[dict[str, str]]] = {}
    if kind in {ListedKind.all, ListedKind.methods}:
        listing["methods"] = [
            {"name": method.name, "from": method.source, "summary": method.summary}
            for method in find_methods().values()
        ]
        listing["methods"].append(
            {
                "name": "shuffled:METHOD",
                "from": "built-in",
                "summary": "Control: any method that looks at images, its test images permuted.",
            }
        )
        listing["methods"] += [
            {"name": name, "from": "built-in", "summary": summary}
            for name, summary in ORACLE_SUMMARIES.items()
        ]
    if kind in {ListedKind.all, ListedKind.datasets}:
        listing["datasets"] = []
        for name in find_datasets():
            try:
                card = dataset_card(name)
            except DataError as error:  # one card must not hide the others
                count, summary = "-", f"cannot be read: {error}"
            else:
                count, summary = f"{len(card.sections)} / {len(card.patients)}", card.title
            listing["datasets"].append(
                {"name": name, "sections / patients": count, "summary": summary}
            )
    if kind in {ListedKind.all, ListedKind.protocols}:
        from bench.protocol.rules import PROTOCOLS

        listing["protocols"] = [
            {"name": protocol.name, "hash": protocol.hash[:12], "summary": protocol.title}
            for protocol in PROTOCOLS.values()
        ]
    if kind in {ListedKind.all, ListedKind.encoders}:
        from bench.execute.encoders import encoder_rows

        listing["encoders"] = encoder_rows()
    if as_json:
        typer.echo(json.dumps(listing, indent=2))
        return
    for title, rows in listing.items():
        hidden = _JSON_ALONE | ({"summary"} if title == "encoders" else set())
        print_rows(title, [{k: v for k, v in row.items() if k not in hidden} for row in rows])
