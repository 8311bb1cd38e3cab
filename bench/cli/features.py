"""Commands on the features of frozen encoders."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.apps import features_app
from bench.cli.options import (
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    DataRootOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    SeedOption,
    SettingsOption,
    names,
    settings_of,
)
from bench.cli.terminal import print_rows
from bench.execute.request import Request

if TYPE_CHECKING:
    from bench.data.dataset import Dataset
    from bench.execute.features import FeatureRequest, SectionFeatures

EncodersOption = Annotated[
    str, typer.Option("--encoder", help="Encoders, comma-separated; see 'bench list encoders'.")
]


@features_app.command("compute")
def compute_command(
    dataset: DatasetOption,
    encoder: EncodersOption,
    settings: SettingsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a copy as HDF5, a file a section.", show_default="none"),
    ] = None,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    seed: SeedOption = Request.seed,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute features of frozen encoders, which runs then find; the same call continues.

    Give device, precision, seed and settings as the run will have them.
    """
    from bench.execute.features import compute_features

    with redirect_stdout(sys.stderr):
        request = _request(encoder, settings, device.value, precision.value, seed)
        opened = _opened(dataset, data_root)
        results = compute_features(opened, request, _say, out)
    _print(results, as_json)


@features_app.command("show")
def show_command(
    dataset: DatasetOption,
    encoder: EncodersOption,
    settings: SettingsOption = None,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    seed: SeedOption = Request.seed,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which features of frozen encoders have been computed."""
    from bench.execute.features import stored_features

    with redirect_stdout(sys.stderr):
        request = _request(encoder, settings, device.value, precision.value, seed)
        results = stored_features(_opened(dataset, data_root), request)
    _print(results, as_json)


def _request(
    encoders: str, settings: list[str] | None, device: str, precision: str, seed: int
) -> FeatureRequest:
    from bench.devices import choose_device, choose_precision
    from bench.execute.features import FeatureRequest

    chosen = choose_device(device)
    return FeatureRequest(
        names(encoders), settings_of(settings), chosen, choose_precision(precision, chosen), seed
    )


def _opened(name: str, data_root: Path | None) -> Dataset:
    from bench.data.dataset import open_dataset
    from bench.fetch.fetch import fetch_if_absent
    from bench.registry import dataset_card

    card = dataset_card(name)
    fetch_if_absent(card, data_root)
    return open_dataset(card, data_root, images=True)


def _say(result: SectionFeatures) -> None:
    if result.seconds:
        rate = result.spots / result.seconds
        typer.echo(
            f"{result.encoder}, {result.section}: {result.spots} patches, {rate:.1f} a second"
        )


def _print(results: list[SectionFeatures], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=2))
        return
    rows = []
    for encoder in dict.fromkeys(result.encoder for result in results):
        own = [result for result in results if result.encoder == encoder]
        there = [result for result in own if result.features is not None]
        rows.append(
            {
                "encoder": encoder,
                "sections": f"{len(there)}/{len(own)}",
                "spots": f"{sum(result.spots for result in there):,}",
                "features": str(there[0].features) if there else "-",
                "MB": f"{sum(result.megabytes for result in there):.1f}",
                "seconds": f"{sum(result.seconds for result in own):.1f}",
            }
        )
    print_rows("features", rows)
