"""Options that several commands share, and what they mean as values."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.errors import BenchError, ConfigError

DONE, REFUSED, FAILED, INTERRUPTED = 0, 2, 1, 130


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
MethodOption = Annotated[str, typer.Option("--method", "-m", help="Name of a method.")]
FoldsOption = Annotated[
    str | None, typer.Option(help="Folds to run, such as 0,2.", show_default="all")
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
        help="Table of gene symbols, such as HGNC's; genes go by the approved ones.",
        show_default="none",
    ),
]
ProtocolOption = Annotated[
    str, typer.Option("--protocol", "-p", help="strict, published, or the path of a YAML file.")
]


def names(text: str | None) -> tuple[str, ...]:
    """Names of a comma list, none of nothing."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def numbers(text: str | None) -> tuple[int, ...] | None:
    """Fold numbers of a comma list; None where none was typed."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BenchError(f"--folds '{text}': write fold numbers such as 0,2") from None


def settings_of(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Values of ``--set`` pairs by the names before the equals sign.

    Raises
    ------
    ConfigError
        A pair has no equals sign or no name, or its value cannot be read as YAML.
    """
    import yaml

    settings = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set '{pair}': write key=value or method.key=value")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set '{pair}': the value cannot be read") from None
    return settings
