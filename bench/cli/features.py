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
from bench.cli.option_groups import ExecutorGroup, with_groups
from bench.cli.options import (
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    DataRootOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ResultsOption,
    SeedOption,
    names,
    settings_of,
)
from bench.cli.terminal import complain, print_rows
from bench.execute.request import Request

if TYPE_CHECKING:
    from bench.data.dataset import Dataset
    from bench.execute.features import FeatureRequest, SectionFeatures

EncodersOption = Annotated[
    str,
    typer.Option(
        "--encoder", metavar="NAMES", help="Names from 'bench list encoders', comma-separated."
    ),
]
FeatureSettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, as for the runs. Repeatable."
    ),
]


@features_app.command("compute")
@with_groups
def compute_command(
    *,
    dataset: DatasetOption,
    encoder: EncodersOption,
    settings: FeatureSettingsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder for a copy of the features in HDF5, one file per section.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    where: ExecutorGroup,
    seed: SeedOption = Request.seed,
    data_root: DataRootOption = None,
    results: ResultsOption = Request.results,
    as_json: JsonOption = False,
) -> None:
    """Compute and store features of frozen encoders, for later runs.

    Give the same device, precision, seed and settings as for the runs. The same call resumes an
    interrupted computation. Slurm nodes must share the cache folder of this machine
    ($SPOTBENCH_CACHE).
    """
    from bench.execute.executors.choose import make_executor
    from bench.execute.executors.feature_runners import make_feature_runner
    from bench.execute.features import FeatureWork, compute_features

    with redirect_stdout(sys.stderr):
        executor = make_executor(where.options())
        request = _request(
            encoder, settings, device.value, precision.value, seed, elsewhere=executor.elsewhere
        )
        work = FeatureWork(_opened(dataset, data_root), request)
        runner = make_feature_runner(executor, dataset, data_root, results, complain)
        rows = compute_features(work, _say, out, runner)
    _print(rows, as_json)


@features_app.command("show")
def show_command(
    dataset: DatasetOption,
    encoder: EncodersOption,
    settings: FeatureSettingsOption = None,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    seed: SeedOption = Request.seed,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which features of frozen encoders are stored."""
    from bench.execute.features import FeatureWork, stored_features

    with redirect_stdout(sys.stderr):
        request = _request(encoder, settings, device.value, precision.value, seed)
        rows = stored_features(FeatureWork(_opened(dataset, data_root), request))
    _print(rows, as_json)


def _request(
    encoders: str,
    settings: list[str] | None,
    device: str,
    precision: str,
    seed: int,
    *,
    elsewhere: bool = False,
) -> FeatureRequest:
    from bench.execute.features import FeatureRequest
    from bench.execute.job_devices import Devices

    of = Devices(device, precision, elsewhere=elsewhere).of(needs_image=True)
    return FeatureRequest(names(encoders), settings_of(settings), *of, seed)


def _opened(name: str, data_root: Path | None) -> Dataset:
    from bench.data.dataset import open_dataset
    from bench.fetch.fetch import fetch_if_absent
    from bench.registry import dataset_card

    card = dataset_card(name)
    fetch_if_absent(card, data_root)
    return open_dataset(card, data_root, images=True)


def _say(result: SectionFeatures) -> None:
    of = f"{result.encoder}, {result.section}: {result.spots} patches"
    if result.seconds is None:
        typer.echo(of)
    elif result.seconds:
        typer.echo(f"{of}, {result.spots / result.seconds:.1f} a second")


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
                "seconds": _seconds([result.seconds for result in own]),
            }
        )
    print_rows("features", rows)


def _seconds(of: list[float | None]) -> str:
    known = [value for value in of if value is not None]
    return f"{sum(known):.1f}" if len(known) == len(of) else "-"
