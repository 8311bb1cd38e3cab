"""``bench data add``: a dataset of the user's own folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.apps import data_app
from bench.cli.data import PITCH, SCALE, SectionsOption, left_out_text
from bench.cli.options import (
    JsonOption,
    names,
)
from bench.cli.terminal import complain, confirm_removal, plural, print_rows, say
from bench.errors import BenchError, UnknownNameError
from bench.files import listed


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
            help="Distance between neighbouring spots in micrometres. Default: what the files"
            " state, else 100 (Space Ranger, AnnData, SpatialData) or 200 (legacy arrays).",
            show_default=False,
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
    gene_column: Annotated[
        str | None,
        typer.Option(
            "--gene-column",
            metavar="NAME",
            help="AnnData file: column of var with the gene symbols.",
            show_default="the names of the genes",
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
            options={
                "bin_micrometres": _micrometres(bin_size),
                "by": by,
                "gene_column": gene_column,
                "genome": genome,
            },
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
        f"found {plural(len(made.sections), 'section')} in layout {made.card.layout};"
        f" {plural(made.shared_genes, 'gene')} {'is' if made.shared_genes == 1 else 'are'} in all"
        " of them"
    )
    print_rows("", [_added_row(line) for line in made.sections])
    for section, numbers in made.left_out.items():
        if numbers:
            say(f"left out: {section}: {left_out_text(numbers)}")
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
        quick = " --preset quick" if pictured and not _has_gpu() else ""
        rules = "" if len(made.card.patients) > 1 else " --protocol by-section"
        typer.echo(f"run a method:  bench run --method {method} --dataset {name}{quick}{rules}")


@data_app.command("remove")
def remove_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a dataset that you added.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
) -> None:
    """Remove a dataset that you added: its card and its cached tables.

    Your files and stored results stay.
    """
    from bench.fetch.remove import added_dataset, remove_dataset
    from bench.registry import built_in_datasets, own_datasets

    if name in built_in_datasets():
        raise BenchError(
            f"dataset '{name}' is part of the package; only a dataset made by 'bench data add' can"
            " be removed"
        )
    if name not in own_datasets():
        raise UnknownNameError("added dataset", name, own_datasets())
    dataset = added_dataset(name)
    told = f"dataset {name} ({dataset.card} and {plural(len(dataset.cached), 'cached file')})"
    if not yes and not confirm_removal(told):
        return
    remove_dataset(dataset)
    where = f" in {dataset.folder}" if dataset.folder else ""
    say(f"removed {told}; your files{where} and stored results stay")


def _has_gpu() -> bool:
    from bench.devices import available_devices

    return set(available_devices()) != {"cpu"}


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
    headings = {"pitch": PITCH, "um/px": SCALE}
    return {
        headings.get(key, key): "-" if value is None else format(value, forms.get(key, ""))
        for key, value in line.items()
        if key not in ("left out", "filled")
    }
