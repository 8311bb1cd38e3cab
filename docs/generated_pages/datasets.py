"""Table of the datasets, from their cards."""

from __future__ import annotations

from bench.registry import built_in_datasets, dataset_card


def table() -> str:
    """Markdown: a row a card with sections, patients, platform, licence and citation."""
    lines = [
        "| dataset | sections | patients | platform | tissue | licence | citation |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in map(dataset_card, sorted(built_in_datasets())):
        cells = (
            f"`{card.name}`",
            str(len(card.sections)),
            str(len(card.patients)),
            *map(_cell, (card.platform, card.tissue, card.licence, card.citation)),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
