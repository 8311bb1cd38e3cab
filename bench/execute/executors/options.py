"""Options of the executors; plain values, so that reading them imports nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from bench.errors import BenchError

LOCAL, SLURM, RAY = "local", "slurm", "ray"


def _of(executor: str, option: str) -> dict[str, str]:
    """Metadata of a field: the only executor that reads it, and the option that sets it."""
    return {"executor": executor, "option": option}


@dataclass(frozen=True)
class ExecutorOptions:
    """Executor of the jobs, and its options.

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
        Address of a Ray cluster, None for ``RAY_ADDRESS`` or the one that runs on this machine.
    shared_disk
        Whether the nodes of the Ray cluster see the results folder and the data.
    ray_cpus, ray_gpus
        CPUs and GPUs of a Ray task; of a GPU it may be a fraction.
    """

    executor: str = LOCAL
    jobs: int = field(default=1, metadata=_of(LOCAL, "--jobs"))
    gpus: tuple[int, ...] = field(default=(), metadata=_of(LOCAL, "--gpus"))
    time_limit: float | None = field(default=None, metadata=_of(LOCAL, "--time-limit"))
    isolation: str = field(default="process", metadata=_of(LOCAL, "--isolation"))
    profile: Path | None = field(default=None, metadata=_of(SLURM, "--profile"))
    submit_only: bool = field(default=False, metadata=_of(SLURM, "--submit-only"))
    ray_address: str | None = field(default=None, metadata=_of(RAY, "--ray-address"))
    shared_disk: bool = field(default=True, metadata=_of(RAY, "--no-shared-disk"))
    ray_cpus: int = field(default=1, metadata=_of(RAY, "--ray-cpus"))
    ray_gpus: float = field(default=0.0, metadata=_of(RAY, "--ray-gpus"))

    def check_belonging(self) -> None:
        """Refuse an option that the chosen executor does not read.

        Raises
        ------
        BenchError
            The option belongs to another executor; the message names both.
        """
        for of in fields(self):
            owner = of.metadata.get("executor", self.executor)
            if owner != self.executor and getattr(self, of.name) != of.default:
                raise BenchError(f"{of.metadata['option']} belongs to --executor {owner}")
