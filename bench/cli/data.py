"""Commands on a dataset: ``bench data ...``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.apps import data_app
from bench.cli.options import (
    FAILED,
    REFUSED,
    DataRootOption,
    JsonOption,
    names,
)
from bench.cli.terminal import complain, plural, print_rows, say
from bench.files import printable

if TYPE_CHECKING:
    from bench.fetch.overview import SectionOverview

PITCH, SCALE = "pitch\npx", "um\nper px"
"""Headings of the distance of spots in pixels and of the scale, in two lines."""

SectionsOption = Annotated[
    str | None,
    typer.Option(
        "--sections",
        metavar="NAMES",
        help="Names of sections, comma-separated.",
        show_default="all",
    ),
]
DatasetArgument = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="Name from 'bench list datasets', or path of a card."),
]


@data_app.command("show")
def show_command(
    dataset: DatasetArgument,
    sections: SectionsOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Image file to draw the sections with their spots to: .png, .pdf or .svg.",
        ),
    ] = None,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the sections of a dataset and which files are missing."""
    from dataclasses import asdict

    from bench.data.dataset import known_sections, local_card, open_dataset
    from bench.data.folders import data_folder
    from bench.errors import DataError
    from bench.fetch.overview import summarize
    from bench.registry import dataset_card
    from bench.report.dataset_figures import check_picture, draw_sections

    card = dataset_card(dataset)
    chosen = known_sections(card, names(sections))
    if plot is not None:
        check_picture(plot)
    root: Path | None = None
    try:
        folder = data_folder(card, data_root)
        card, root, note = local_card(card, folder), folder, ""
    except DataError as error:
        if data_root is not None or plot is not None:
            raise
        note = str(error)
    with redirect_stdout(sys.stderr):
        overviews = summarize(card, root, chosen)
    if as_json:
        facts = card.model_dump(mode="json", exclude={"sections"})
        rows = [asdict(section) for section in overviews]
        content = {"card": facts, "folder": str(root) if root else None, "sections": rows}
        typer.echo(json.dumps(content, indent=2))
    else:
        say(card.title)
        say(card.citation)
        for name in ("doi", "licence", "source", "platform", "tissue", "note"):
            value = getattr(card, name)
            if value:
                say(f"{name}: {value}")
        say(f"folder: {root or note}")
        print_rows("", _overview_rows(overviews))
        for section in overviews:
            if section.left_out:
                say(f"left out: {section.section}: {left_out_text(section.left_out)}")
        typer.echo("counts: median per spot; pitch: distance of spots; labels: labelled spots")
        for section in overviews:
            if section.problem:
                complain(section.problem)
    if plot is not None:
        images = any("image" not in section.missing for section in overviews)
        there = [s.section for s in overviews if not s.problem and (not images or _drawable(s))]
        opened = open_dataset(card, root, images=images, names=there)
        say(f"wrote {draw_sections(list(opened), plot)}")
    if any(section.problem for section in overviews):
        raise typer.Exit(REFUSED)


def _drawable(section: SectionOverview) -> bool:
    return not {"counts", "image"} & set(section.missing)


def left_out_text(numbers: Mapping[str, int]) -> str:
    """Numbers of what was left out, by reason."""
    return ", ".join(f"{number:,} {reason}" for reason, number in numbers.items())


def _overview_rows(sections: Sequence[SectionOverview]) -> list[dict[str, str]]:
    """Rows of the table; columns that say nothing are left out to fit into 80 characters."""
    rows = [_overview_row(section) for section in sections]
    empty = {
        name
        for name, nothing in (("labels", ("-", "0")), ("missing", ("-",)))
        if all(row[name] in nothing for row in rows)
    }
    return [{k: value for k, value in row.items() if k not in empty} for row in rows]


def _overview_row(section: SectionOverview) -> dict[str, str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return {
        "section": section.section,
        "patient": section.patient,
        "spots": number(section.spots, ","),
        "genes": number(section.genes, ","),
        "counts": number(section.median_counts, ",.0f"),
        PITCH: number(section.pitch_pixels, ".1f"),
        SCALE: number(section.micrometres_per_pixel, ".3f"),
        "labels": number(section.labelled, ","),
        "missing": ", ".join(section.missing) or "-",
    }


@data_app.command("preview")
def preview_command(
    dataset: DatasetArgument,
    section: Annotated[str, typer.Argument(metavar="SECTION", help="Name of a section.")],
    gene: Annotated[str, typer.Option("--gene", "-g", metavar="NAME", help="Gene symbol.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Image file to write.",
            show_default="SECTION-GENE.png",
        ),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Draw the counts of a gene on a section, beside the H&E image."""
    import numpy as np

    from bench.data.dataset import known_sections, local_card, open_dataset
    from bench.data.folders import data_folder
    from bench.data.stored_files import is_stored
    from bench.registry import dataset_card
    from bench.report.dataset_figures import check_picture, draw_gene

    card = dataset_card(dataset)
    known_sections(card, (section,))
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", printable(gene)).strip("-")[:80]
    picture = output or Path(f"{section}-{safe}.png")
    check_picture(picture)
    root = data_folder(card, data_root)
    card = local_card(card, root)
    image = card.section(section).files.get("image")
    with_image = image is not None and is_stored(root / image.path)
    section_data = open_dataset(card, root, images=with_image, names=[section]).section(section)
    path = draw_gene(section_data, gene, picture)
    counts = section_data.adata[:, gene].X.toarray().ravel()
    say(
        f"{gene} in {section}: detected in {(counts > 0).mean():.0%} of"
        f" {plural(len(counts), 'spot')}, median {np.median(counts):g},"
        f" largest {counts.max()} counts; wrote {path}"
    )


@data_app.command("verify")
def verify_command(
    dataset: DatasetArgument,
    data_root: DataRootOption = None,
    sections: SectionsOption = None,
    lock: Annotated[
        bool,
        typer.Option(
            "--lock", help="Record the present hashes of files for which the card has no hash."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the files of a dataset with the hashes of its card.

    Missing files are listed. Exit status 2: a file differs from its hash.
    """
    from bench.data.dataset import advice_on_difference, local_card
    from bench.data.folders import data_folder
    from bench.data.lock import LOCK
    from bench.fetch.lock import entry_of, write_lock
    from bench.fetch.verify import survey, verified_files
    from bench.registry import dataset_card

    card = dataset_card(dataset)
    root = data_folder(card, data_root)
    card = local_card(card, root)
    checked = survey(verified_files(card, root, names(sections)), root)
    unchecked = checked.unchecked
    if lock and unchecked:
        write_lock(root, {path: entry_of(root / path) for path in unchecked})
    advice = advice_on_difference(card)
    wrong = [f"{root / path}: {fault}; {advice}" for path, fault in checked.wrong.items()]
    if as_json:
        facts = {"good": len(checked.good), "unchecked": unchecked, "missing": checked.missing}
        typer.echo(json.dumps({"folder": str(root), **facts, "wrong": wrong}, indent=2))
    else:
        typer.echo(
            f"{plural(len(checked.good), 'file')} match{'es' * (len(checked.good) == 1)} the card,"
            f" {len(checked.missing)} missing, {len(wrong)} different from it"
        )
        if unchecked and lock:
            typer.echo(
                f"{plural(len(unchecked), 'hash', 'hashes')} that the card does not have"
                f" {'is' if len(unchecked) == 1 else 'are'} recorded in {LOCK}"
            )
        elif unchecked:
            typer.echo(
                f"{plural(len(unchecked), 'file')} {'has' if len(unchecked) == 1 else 'have'} no"
                " hash in the card; --lock records present ones"
            )
        for name in checked.missing[:10]:
            say(f"  missing: {name}")
        if len(checked.missing) > 10:
            typer.echo(f"  and {len(checked.missing) - 10} more")
        for line in wrong:
            complain(line)
    if wrong:
        raise typer.Exit(REFUSED)


@data_app.command("get")
def get_command(
    dataset: DatasetArgument,
    sections: SectionsOption = None,
    data_root: DataRootOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Download files again that differ from their hash.")
    ] = False,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep archives after unpacking.")
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Use the files of this folder; the data folder becomes a link to it.",
            show_default="download",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Download the missing files of a dataset and check their hashes."""
    from bench.registry import members

    complete = [
        _get(one, sections, root, force, keep_archives, source, as_json)
        for one, root in members(dataset, data_root)
    ]
    if not all(complete):
        raise typer.Exit(FAILED)


def _get(
    dataset: str,
    sections: str | None,
    data_root: Path | None,
    force: bool,
    keep_archives: bool,
    source: Path | None,
    as_json: bool,
) -> bool:
    """Fetch one dataset, print what came of it, and say whether it is complete."""
    from dataclasses import asdict

    from bench.cli.download_display import DownloadDisplay
    from bench.data.folders import download_folder
    from bench.fetch.fetch import fetch_dataset
    from bench.fetch.linked import link_folder
    from bench.fetch.outcome import Outcome
    from bench.registry import dataset_card

    card = dataset_card(dataset)
    root = download_folder(card, data_root)
    outcome = Outcome()
    if source is not None:
        outcome = link_folder(card, source, root)
    elif card.generator is None:
        with DownloadDisplay() as bar:
            outcome = fetch_dataset(
                card,
                root,
                sections=names(sections),
                force=force,
                keep_archives=keep_archives,
                watcher=bar,
            )
    if as_json:
        typer.echo(json.dumps({"folder": str(root), **asdict(outcome)}, indent=2))
    elif card.generator is not None:
        typer.echo(f"{card.name} is generated on this machine when it is used; nothing to download")
    else:
        typer.echo(
            f"{root}: {plural(len(outcome.fetched), 'file')} downloaded, {len(outcome.kept)} kept,"
            f" {len(outcome.failed)} failed"
        )
        if outcome.by_hand:
            typer.echo("to download by hand:")
        for file in outcome.by_hand:
            needed = "" if file.needed else " (optional)"
            say(f"  {file.how}{needed}")
            say(f"    put it at {file.put}")
    for path, fault in outcome.failed.items():
        complain(f"{path}: {fault}")
    if outcome.failed and not as_json:
        typer.echo(f"call again to continue, or put these files into {root} at the same paths")
    return outcome.complete
