"""Options that several commands share, and what they mean as values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.help_pages import OUTPUT, VARIANTS, WHERE
from bench.errors import BenchError, ConfigError
from bench.execute.request import Request
from bench.execute.seed_lists import read_seeds
from bench.files import one_line
from bench.yaml_files import parse_yaml

DONE, REFUSED, FAILED, INTERRUPTED, TERMINATED = 0, 2, 1, 130, 143


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
    Path,
    typer.Option(
        "--results",
        metavar="FOLDER",
        help="Results folder.",
        envvar="SPOTBENCH_RESULTS",
        rich_help_panel=OUTPUT,
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help="Folder with the files of the dataset.",
        show_default="$SPOTBENCH_DATA or the user's data folder",
    ),
]
RunsDatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset", "-d", metavar="NAME", help="Dataset of the runs.", show_default="all"
    ),
]
RunsMethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAMES",
        help="Methods or names of rows, comma-separated.",
        show_default="all",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)]
DatasetOption = Annotated[
    str,
    typer.Option(
        "--dataset",
        "-d",
        metavar="NAME|FILE",
        help="Name from 'bench list datasets', or path of a card.",
    ),
]
StoredDatasetOption = Annotated[
    str,
    typer.Option("--dataset", "-d", metavar="NAME", help="Dataset of the stored runs."),
]
StoredProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        "-p",
        metavar="NAME",
        help="Protocol of the stored runs.",
        show_default="all that have runs",
    ),
]
DeviceOption = Annotated[
    Device,
    typer.Option(
        "--device",
        help="Device that networks run on; auto: a GPU if there is one.",
        rich_help_panel=WHERE,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Number format of image encoders; auto: bf16 if the device supports it.",
        rich_help_panel=WHERE,
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile image encoders (torch.compile) in fits that are long enough.",
        rich_help_panel=WHERE,
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Seed of all random numbers.")
]
SeedsOption = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="LIST",
        help="One run per seed, such as 0-4 or 0,1,7; tables average over seeds.",
        show_default="--seed alone",
        rich_help_panel=VARIANTS,
    ),
]
TestDatasetOption = Annotated[
    str | None,
    typer.Option(
        "--test-dataset",
        metavar="NAME|FILE",
        help="Fit on all patients of --dataset and test on this dataset.",
        show_default=False,
        rich_help_panel=VARIANTS,
    ),
]
TestDataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--test-data-root",
        metavar="FOLDER",
        help="Folder with the files of the test dataset.",
        show_default="$SPOTBENCH_DATA or the user's data folder",
        rich_help_panel=VARIANTS,
    ),
]
TrainPatientsOption = Annotated[
    str | None,
    typer.Option(
        "--train-patients",
        metavar="LIST",
        help="One run per number of training patients in each fold, such as 1,2,4,all.",
        show_default="all",
        rich_help_panel=VARIANTS,
    ),
]
MethodOption = Annotated[
    str,
    typer.Option("--method", "-m", metavar="NAME", help="Name from 'bench list methods'."),
]
MethodRowOption = Annotated[
    str,
    typer.Option(
        "--method", "-m", metavar="NAME", help="Method, or its row as 'bench tables' prints it."
    ),
]
FoldsOption = Annotated[
    str | None,
    typer.Option(
        "--folds",
        metavar="LIST",
        help="Numbers of the folds to run, such as 0,2.",
        show_default="all",
    ),
]
PresetOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Settings to start from; authors: those of the paper; quick: for a machine without a"
        " GPU; tiny: for tests.",
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of all methods, or of one: METHOD.KEY=VALUE. Repeatable.",
    ),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        metavar="URI|none",
        help="MLflow tracking URI; none: do not track.",
        show_default="$MLFLOW_TRACKING_URI or SQLite in the results folder",
        rich_help_panel=OUTPUT,
    ),
]
PanelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Genes to predict: hvg, svg or expressed, with a number as in svg:500; the name of a"
        " gene list of the card; or a file of gene symbols.",
        show_default="the protocol's",
    ),
]
AliasesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Table of gene symbols, such as that of HGNC; genes are renamed to the approved"
        " symbols.",
        show_default=False,
    ),
]
ProtocolOption = Annotated[
    str,
    typer.Option(
        "--protocol",
        "-p",
        metavar="NAME|FILE",
        help="Name from 'bench list protocols', or path of a YAML file.",
    ),
]


def check_file(path: Path | None) -> None:
    """Refuse an input file that is missing.

    Raises
    ------
    BenchError
        The path names no file.
    """
    if path is not None and not path.is_file():
        raise BenchError(
            f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}"
        )


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
