"""Commands on a dataset: ``bench data ...``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.apps import data_app
from bench.cli.options import (
    FAILED,
    REFUSED,
    DataRootOption,
    JsonOption,
    names,
)
from bench.cli.terminal import complain, print_rows, say
from bench.errors import BenchError
from bench.files import listed, printable

if TYPE_CHECKING:
    from bench.fetch.overview import SectionOverview

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
        print_rows("", [_overview_row(section) for section in overviews])
        for section in overviews:
            if section.left_out:
                say(f"left out: {section.section}: {_left_out(section.left_out)}")
        typer.echo(
            "counts: median per spot; pitch: spot distance in pixels; labels: labelled spots"
        )
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


def _overview_row(section: SectionOverview) -> dict[str, str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return {
        "section": section.section,
        "patient": section.patient,
        "spots": number(section.spots, ","),
        "genes": number(section.genes, ","),
        "counts": number(section.median_counts, ",.0f"),
        "pitch": number(section.pitch_pixels, ".1f"),
        "um/px": number(section.micrometres_per_pixel, ".3f"),
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
        f"{gene} in {section}: detected in {(counts > 0).mean():.0%} of {len(counts)} spots,"
        f" median {np.median(counts):g}, largest {counts.max()} counts; wrote {path}"
    )


@data_app.command("add")
def add_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with your sections.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the new dataset.")],
    patients: Annotated[
        Path | None,
        typer.Option(
            "--patients",
            metavar="FILE",
            help="CSV file with columns section and patient; not needed if the files name the"
            " patients.",
            show_default=False,
        ),
    ] = None,
    pitch: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=1,
            help="Distance between neighbouring spots in micrometres.",
            show_default="that of the platform",
        ),
    ] = None,
    patch: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=1,
            help="Edge length of an image patch in micrometres.",
            show_default="112",
        ),
    ] = None,
    sections: SectionsOption = None,
    bin_size: Annotated[
        str | None,
        typer.Option(
            "--bin",
            metavar="SIZE",
            help="Visium HD: size of the bins to read, such as 8um.",
            show_default="16um",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="AnnData file: column of obs that names the section.",
            show_default="library_id",
            metavar="COLUMN",
        ),
    ] = None,
    genome: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Genome to keep if the reference has several, such as GRCh38.",
            show_default=False,
        ),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            max=16,
            help="Divide each section into N blocks of spots, for data with one section only.",
            show_default="sections stay whole",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace a dataset of this name that you added before."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Add your own sections as a dataset.

    The files are checked; they stay in their folder.
    """
    from bench.fetch.add import add_dataset
    from bench.registry import built_in_datasets

    with redirect_stdout(sys.stderr):
        made = add_dataset(
            folder,
            name,
            patients,
            list(built_in_datasets()),
            pitch=pitch,
            patch=patch,
            sections=names(sections),
            options={"bin_micrometres": _micrometres(bin_size), "by": by, "genome": genome},
            blocks=blocks,
            replace=replace,
        )
    if as_json:
        content = {
            "name": made.card.name,
            "card": str(made.path),
            "sections": made.sections,
            "shared_genes": made.shared_genes,
            "assumed": made.assumed,
            "warnings": made.warnings,
            "left_out": made.left_out,
        }
        typer.echo(json.dumps(content, indent=2))
        return
    typer.echo(
        f"found {len(made.sections)} section{'s' * (len(made.sections) > 1)} in layout"
        f" {made.card.layout}; {made.shared_genes:,} genes are in all of them"
    )
    print_rows("", [_added_row(line) for line in made.sections])
    for section, numbers in made.left_out.items():
        if numbers:
            say(f"left out: {section}: {_left_out(numbers)}")
    added = [line["section"] for line in made.sections]
    for one in _together(made.assumed, added):
        say(f"assumed: {one}")
    for one in _together(made.warnings, added):
        complain(f"look at this: {one}")
    say(f"wrote {made.path}; correct wrong assumptions in this file")
    say(f"see the spots: bench data show {name} --plot {name}.png")
    if len(made.sections) > 1:
        pictured = all("image" in section.files for section in made.card.sections)
        method = "mclstexp" if pictured else "coordinates"
        rules = "" if len(made.card.patients) > 1 else " --protocol by-section"
        typer.echo(f"run a method:  bench run --method {method} --dataset {name}{rules}")


def _micrometres(text: str | None) -> int | None:
    if text is None:
        return None
    number = text.strip().lower().removesuffix("um").strip()
    if not number.isdecimal() or not 0 < int(number) <= 1000:
        raise BenchError(f"--bin {text[:40]}: must be a number of micrometres such as 8um")
    return int(number)


def _together(lines: Sequence[str], sections: Sequence[str]) -> list[str]:
    """Lines that say the same of several sections as one line; ``SECTION: text`` is of one."""
    of_text: dict[str, list[str]] = {}
    for line in lines:
        name, colon, text = line.partition(": ")
        of_text.setdefault(text if colon and name in sections else line, []).append(name)
    return [
        line
        if line in lines
        else f"{names[0]}: {line}"
        if len(names) == 1
        else f"{len(names)} sections ({listed(names)}): {line}"
        for line, names in of_text.items()
    ]


def _added_row(line: Mapping[str, Any]) -> dict[str, str]:
    forms = {
        "spots": ",",
        "genes": ",",
        "counts": ",.0f",
        "pitch": ".1f",
        "um/px": ".3f",
        "on tissue": ".0%",
    }
    return {
        key: "-" if value is None else format(value, forms.get(key, ""))
        for key, value in line.items()
        if key not in ("left out", "filled")
    }


def _left_out(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in numbers.items())


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
    from bench.data.dataset import local_card
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
    wrong = [f"{root / path}: {fault}; fetch it again" for path, fault in checked.wrong.items()]
    if as_json:
        facts = {"good": len(checked.good), "unchecked": unchecked, "missing": checked.missing}
        typer.echo(json.dumps({"folder": str(root), **facts, "wrong": wrong}, indent=2))
    else:
        typer.echo(
            f"{len(checked.good)} files match the card, {len(checked.missing)} are missing,"
            f" {len(wrong)} differ from it"
        )
        if unchecked and lock:
            typer.echo(
                f"{len(unchecked)} hashes that the card does not have are recorded in {LOCK}"
            )
        elif unchecked:
            typer.echo(
                f"{len(unchecked)} files have no hash in the card; --lock records present ones"
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
            f"{root}: {len(outcome.fetched)} files downloaded, {len(outcome.kept)} kept,"
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
