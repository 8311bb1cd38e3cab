"""What a user may say about where jobs run; plain values, so that reading them imports nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.errors import BenchError

LOCAL, SLURM, RAY = "local", "slurm", "ray"


def _of(executor: str, option: str, default: Any) -> Any:
    """A field that one executor alone reads, with the command-line option that sets it."""
    return field(default=default, metadata={"executor": executor, "option": option})


@dataclass(frozen=True)
class ExecutorOptions:
    """Where jobs run, and how.

    Attributes
    ----------
    executor
        ``local``, ``slurm`` or ``ray``.
    jobs
        Local worker processes at a time.
    gpus
        Local GPUs by number; jobs are distributed over them. Empty: torch's own choice.
    time_limit
        Seconds that one local job may take, None without limit.
    isolation
        ``process``: each local job runs in a worker process; ``none``: in this process.
    profile
        YAML file of a Slurm cluster; see :mod:`bench.execute.executors.profile`.
    submit_only
        Return after Slurm jobs have been submitted.
    ray_address
        Address of a Ray cluster, None for one on this machine.
    shared_disk
        Whether the nodes of the Ray cluster see the results folder and the data.
    """

    executor: str = LOCAL
    jobs: int = _of(LOCAL, "--jobs", 1)
    gpus: tuple[int, ...] = _of(LOCAL, "--gpus", ())
    time_limit: float | None = _of(LOCAL, "--time-limit", None)
    isolation: str = _of(LOCAL, "--isolation", "process")
    profile: Path | None = _of(SLURM, "--profile", None)
    submit_only: bool = _of(SLURM, "--submit-only", False)
    ray_address: str | None = _of(RAY, "--ray-address", None)
    shared_disk: bool = _of(RAY, "--no-shared-disk", True)

    def check_belonging(self) -> None:
        """Refuse an option that the chosen executor does not read.

        Raises
        ------
        BenchError
            Naming the option and the executor it belongs to.
        """
        for of in fields(self):
            owner = of.metadata.get("executor", self.executor)
            if owner != self.executor and getattr(self, of.name) != of.default:
                raise BenchError(f"{of.metadata['option']} belongs to --executor {owner}")
