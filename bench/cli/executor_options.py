"""Options on where jobs run: worker processes of this machine, Slurm, Ray."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.help_pages import WHERE


class Isolation(StrEnum):
    """Where a local job fits and predicts."""

    process = "process"
    none = "none"


ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|slurm|ray",
        help="Run jobs on this machine, on a Slurm cluster or on a Ray cluster.",
        rich_help_panel=WHERE,
    ),
]
JobsOption = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        min=1,
        help="Number of worker processes on this machine.",
        rich_help_panel=WHERE,
    ),
]
GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="LIST",
        help="Numbers of the GPUs to use on this machine, such as 0,1; one worker per GPU.",
        show_default="all",
        rich_help_panel=WHERE,
    ),
]
TimeLimitOption = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        metavar="TIME",
        help="Stop a job that takes longer, such as 2h, 90min or 45s.",
        show_default=False,
        rich_help_panel=WHERE,
    ),
]
IsolationOption = Annotated[
    Isolation,
    typer.Option(
        "--isolation",
        help="Fit in worker processes, or (none) in the main process, for debugging.",
        rich_help_panel=WHERE,
    ),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Slurm: YAML file that describes the cluster.",
        show_default=False,
        rich_help_panel=WHERE,
    ),
]
SubmitOnlyOption = Annotated[
    bool,
    typer.Option(
        "--submit-only",
        help="Slurm: return once the jobs are submitted.",
        rich_help_panel=WHERE,
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT|auto|local",
        help="Ray: address of the cluster; local starts Ray on this machine.",
        envvar="RAY_ADDRESS",
        show_default="the cluster that runs on this machine",
        rich_help_panel=WHERE,
    ),
]
NoSharedDiskOption = Annotated[
    bool,
    typer.Option(
        "--no-shared-disk",
        help="Ray: send data and results through its object store.",
        rich_help_panel=WHERE,
    ),
]
RayCpusOption = Annotated[
    int,
    typer.Option(
        "--ray-cpus", metavar="N", min=1, help="Ray: CPUs per task.", rich_help_panel=WHERE
    ),
]
RayGpusOption = Annotated[
    float,
    typer.Option(
        "--ray-gpus",
        metavar="X",
        min=0,
        help="Ray: GPUs per task; may be a fraction.",
        rich_help_panel=WHERE,
    ),
]
