"""The command that measures speed."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import (
    CompileOption,
    DataRootOption,
    Device,
    DeviceOption,
    JsonOption,
    Precision,
    PrecisionOption,
    SettingsOption,
    names,
    settings_of,
)
from bench.cli.terminal import complain, print_rows


def speed_command(
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="Methods, comma-separated, or none.",
            show_default="those that learn from images spot by spot",
        ),
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="Dataset whose first fold is used, or synthetic.")
    ] = "synthetic",
    batch: Annotated[
        int | None,
        typer.Option(min=2, help="Spots a batch.", show_default="16 on a CPU, 128 on a GPU"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps a measurement.", show_default="2 on a CPU, 20 on a GPU"),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each variant.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=0, help="Begin no further round of a method's after so long.")
    ] = 120.0,
    precision: PrecisionOption = Precision.auto,
    compile_encoders: CompileOption = False,
    image_size: Annotated[
        int | None,
        typer.Option(min=8, max=4096, help="Edge of a patch.", show_default="the method's"),
    ] = None,
    spots: Annotated[
        int | None,
        typer.Option(
            min=4, help="Training spots.", show_default="32 batches at most, or 4 sections of 300"
        ),
    ] = None,
    test_spots: Annotated[
        int | None,
        typer.Option(
            min=1, help="Spots to predict.", show_default="16 or 300 on a CPU, 4096 on a GPU"
        ),
    ] = None,
    genes: Annotated[int, typer.Option(min=1, help="Panel of the synthetic fold.")] = 785,
    trajectory: Annotated[
        int, typer.Option(min=0, help="Steps whose losses are compared with the plain loop's.")
    ] = 0,
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="Leave out the plain loop.")
    ] = False,
    no_retrieval: Annotated[
        bool, typer.Option("--no-retrieval", help="Leave out the retrieval.")
    ] = False,
    queries: Annotated[
        int | None,
        typer.Option(min=1, help="Of the retrieval.", show_default="2000 on a CPU, else 30000"),
    ] = None,
    keys: Annotated[int, typer.Option(min=1, help="Of the retrieval.")] = 30_000,
    top_k: Annotated[int, typer.Option(min=1, help="Of the retrieval.")] = 200,
    settings: SettingsOption = None,
    plain_settings: Annotated[
        list[str] | None,
        typer.Option(
            "--plain-set", metavar="KEY=VALUE", help="Change a setting in the plain loop alone."
        ),
    ] = None,
    device: DeviceOption = Device.auto,
    data_root: DataRootOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file to write.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how close training and prediction come to what this machine can do.

    Each method is trained and predicts by the harness's own path, and by turns the same network
    steps on a batch that already lies on the device (the ceiling), and in a plain loop as released
    code has it (the reference).
    """
    from bench.files import write_json
    from bench.speed.run import SpeedOptions, measure, memory_rows, method_rows, retrieval_rows

    chosen = SpeedOptions(
        methods=None if method is None else tuple(n for n in names(method) if n != "none"),
        dataset=dataset,
        data_root=data_root,
        device=device.value,
        batch=batch,
        steps=steps,
        repeats=repeats,
        seconds=seconds,
        precision=precision.value,
        compile=compile_encoders,
        image_size=image_size,
        spots=spots,
        test_spots=test_spots,
        genes=genes,
        trajectory=trajectory,
        reference=not no_reference,
        retrieval=not no_retrieval,
        queries=queries,
        keys=keys,
        top_k=top_k,
        settings=settings_of(settings),
        plain_settings=settings_of(plain_settings),
    )

    def progress(what: str) -> None:
        typer.echo(what, err=True)

    with redirect_stdout(sys.stderr):
        found: dict[str, Any] = measure(chosen, progress)
    for warning in found["warnings"]:
        complain(warning)
    if output is not None:
        write_json(output, found)
    if as_json:
        typer.echo(json.dumps(found, indent=2, sort_keys=True))
        return
    for title, rows in (
        ("Training", method_rows(found, "training")),
        ("Prediction", method_rows(found, "prediction")),
        ("Peak memory in GB, and on the GPU", memory_rows(found)),
        ("Retrieval", retrieval_rows(found)),
    ):
        if rows:
            print_rows(title, rows)
    if found["retrieval"] is not None:
        largest = found["retrieval"]["largest_difference"]
        typer.echo(f"retrieval: predictions differ from the loop's by {largest:.1e} at most")
    for one in found["methods"]:
        for note in one["notes"]:
            typer.echo(f"{one['method']}: {note}")
        if "trajectory" in one:
            losses = one["trajectory"]
            typer.echo(
                f"{one['method']}: losses of {len(losses['harness'])} steps differ from the plain"
                f" loop's by {losses['largest_difference']:.1e} at most"
            )
