"""Options that several commands share, and what they mean as values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.errors import BenchError, ConfigError
from bench.execute.request import Request
from bench.execute.seed_lists import read_seeds
from bench.files import one_line
from bench.yaml_files import parse_yaml

DONE, REFUSED, FAILED, INTERRUPTED, TERMINATED = 0, 2, 1, 130, 143


class Isolation(StrEnum):
    """Where a local job fits and predicts."""

    process = "process"
    none = "none"


class Device(StrEnum):
    """Where networks can run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(StrEnum):
    """What image encoders can compute in."""

    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"


DEFAULT_DEVICE, DEFAULT_PRECISION = Device(Request.device), Precision(Request.precision)

ResultsOption = Annotated[
    Path, typer.Option("--results", help="Results folder.", envvar="SPOTBENCH_RESULTS")
]
DataRootOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder of the dataset's files.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DatasetOption = Annotated[
    str, typer.Option("--dataset", "-d", help="Dataset name, or the path of a card.")
]
StoredProtocolOption = Annotated[
    str | None,
    typer.Option("--protocol", "-p", help="Protocol.", show_default="all that have runs"),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where networks run.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision", help="Of image encoders; auto takes bf16 where the device computes in it."
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile image encoders (torch.compile) where a fit is long enough."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="All randomness follows from it.")]
SeedsOption = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        help="Seeds with a run each, such as 0-4 or 0,1,7; tables average over them.",
        show_default="--seed alone",
    ),
]
TestDatasetOption = Annotated[
    str | None,
    typer.Option(
        "--test-dataset",
        metavar="NAME",
        help="Fit on all patients of --dataset and test on this dataset instead.",
        show_default="none",
    ),
]
TestDataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--test-data-root", help="Folder of the test dataset's files.", show_default=False
    ),
]
TrainPatientsOption = Annotated[
    str | None,
    typer.Option(
        "--train-patients",
        help="Numbers of training patients in each fold with a run each, such as 1,2,4,all.",
        show_default="all",
    ),
]
MethodOption = Annotated[str, typer.Option("--method", "-m", help="Name of a method.")]
FoldsOption = Annotated[
    str | None, typer.Option("--folds", help="Folds, such as 0,2.", show_default="all")
]
PresetOption = Annotated[
    str, typer.Option(help="authors' settings, or quick ones for machines without a GPU.")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; METHOD.KEY for one."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        metavar="URI|none",
        help="MLflow tracking URI.",
        show_default="$MLFLOW_TRACKING_URI or SQLite in the results folder",
    ),
]
PanelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Genes: hvg, svg or expressed, as in svg:500; a list of the card; a file of symbols.",
        show_default="the protocol's",
    ),
]
AliasesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Table of gene symbols, such as HGNC's; genes are renamed to the approved symbols.",
        show_default="none",
    ),
]
ProtocolOption = Annotated[
    str, typer.Option("--protocol", "-p", help="strict, published, or the path of a YAML file.")
]


ExecutorOption = Annotated[
    str,
    typer.Option("--executor", metavar="local|slurm|ray", help="Where jobs run."),
]
JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", min=1, help="Worker processes on this machine.")
]
GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus", help="GPUs of this machine, such as 0,1; a worker each.", show_default="all"
    ),
]
TimeLimitOption = Annotated[
    str | None,
    typer.Option("--time-limit", help="Longest time of a job, such as 2h.", show_default="none"),
]
IsolationOption = Annotated[
    Isolation,
    typer.Option("--isolation", help="none: fit in the process of the harness, to debug."),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile", metavar="FILE", help="YAML profile of the Slurm cluster.", show_default=False
    ),
]
SubmitOnlyOption = Annotated[
    bool, typer.Option("--submit-only", help="Return once Slurm jobs are submitted.")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT|auto|local",
        help="Ray cluster; local starts Ray on this machine.",
        envvar="RAY_ADDRESS",
        show_default="the one that runs on this machine",
    ),
]
NoSharedDiskOption = Annotated[
    bool,
    typer.Option("--no-shared-disk", help="Send data and results through Ray's object store."),
]
RayCpusOption = Annotated[int, typer.Option("--ray-cpus", min=1, help="CPUs of a Ray task.")]
RayGpusOption = Annotated[
    float, typer.Option("--ray-gpus", min=0, help="GPUs of a Ray task; may be a fraction.")
]


def names(text: str | None) -> tuple[str, ...]:
    """Names of a comma list, none of nothing."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def numbers(text: str | None, option: str = "--folds") -> tuple[int, ...] | None:
    """Numbers of a comma list; None where none was typed."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BenchError(f"{option} '{text}': write numbers such as 0,2") from None


def seeds_of(text: str | None) -> tuple[int, ...]:
    """Seeds of a list with ranges such as ``0-4,7``; none where none was typed.

    Raises
    ------
    BenchError
        It is no such list, a range ends before it begins, or there are too many seeds.
    """
    if text is None:
        return ()
    try:
        return tuple(dict.fromkeys(read_seeds(text)))
    except ValueError as error:
        raise BenchError(f"--seeds '{one_line(text, 60)}': {error}") from None


def patients_of(text: str | None) -> tuple[int | None, ...]:
    """Numbers of training patients of a list such as ``1,2,all``; None for ``all``, none of None.

    Raises
    ------
    BenchError
        It is no such list, or has a number below 1.
    """
    if text is None:
        return ()
    limits: list[int | None] = []
    for part in text.split(","):
        word = part.strip()
        if word != "all" and not (re.fullmatch(r"\d{1,9}", word, re.ASCII) and int(word) > 0):
            raise BenchError(
                f"--train-patients '{one_line(text, 60)}': write numbers from 1 on such as"
                " 1,2,4,all"
            )
        limits.append(None if word == "all" else int(word))
    return tuple(dict.fromkeys(limits))


def settings_of(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Values of ``--set`` pairs by the names before the equals sign; of equal names the last.

    Raises
    ------
    ConfigError
        A pair has no equals sign or no name, or its value cannot be read as YAML.
    """
    settings: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        key, shown = name.strip(), one_line(pair, 80)
        if not equals or not key:
            raise ConfigError(f"--set '{shown}': write key=value or method.key=value")
        try:
            settings[key] = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"--set '{shown}': the value cannot be read ({error})") from None
    return settings


def read_seconds(text: str, option: str = "--timeout") -> float:
    """Seconds of a length of time such as ``2h``, ``90min`` or ``45s``.

    Parameters
    ----------
    text
        Length of time.
    option
        Option that it was typed for, for the message.

    Raises
    ------
    ConfigError
        It is none, or not above zero.
    """
    import pandas as pd

    try:
        seconds = pd.Timedelta(text).total_seconds()
    except ValueError:
        seconds = float("nan")
    # A bare number would be read as nanoseconds.
    if text.strip().replace(".", "", 1).isdigit() or not seconds > 0:
        raise ConfigError(f"{option} '{text}': write a length of time such as 2h, 90min or 45s")
    return seconds
