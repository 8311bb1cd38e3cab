"""Client of Slurm's programs: their calls, and the interpretation of their output.

``sacct`` is not used, as it needs an accounting database.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.files import one_line

_PROGRAMS = ("sbatch", "squeue", "sinfo", "scontrol")
_TIMEOUT_SECONDS = 120.0
"""Seconds, longer than the programs themselves wait for a controller."""

_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}
"""States of a task that will not run again by itself."""

_STUCK = {
    *("BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS"),
    *("JobHeldAdmin", "JobHeldUser", "JobHoldMaxRequeue", "launch failed requeued held"),
    *("PartitionConfig", "PartitionDown", "PartitionInactive", "PartitionNodeLimit"),
    "PartitionTimeLimit",
}
"""Reasons for which a task waits until a user or administrator acts."""


class SlurmError(BenchError):
    """A program of Slurm failed or is missing; the message is that of the program, in one line."""


@dataclass(frozen=True)
class TaskState:
    """State of a task in the queue.

    Attributes
    ----------
    state
        Slurm's word, such as ``PENDING``.
    reason
        Reason why it waits or has ended, ``None`` where Slurm gives no reason.
    job
        Number of the array's job.
    """

    state: str
    reason: str = "None"
    job: str = ""

    @property
    def ended(self) -> bool:
        """Whether it will not run again by itself."""
        return self.state in _ENDED

    @property
    def stuck(self) -> bool:
        """Whether it waits until a user or administrator acts, such as a held task."""
        return self.state == "PENDING" and self.reason in _STUCK

    @property
    def accepted(self) -> bool:
        """Whether it proves that its job was accepted; a refused job may be listed as failed."""
        return not self.ended or self.state == "COMPLETED"

    def __str__(self) -> str:
        return self.state if self.reason in {"None", ""} else f"{self.state}, {self.reason}"


def check_cluster(partition: str | None) -> None:
    """Check that this machine can submit to a partition.

    Parameters
    ----------
    partition
        Names separated by commas, None for the cluster's default.

    Raises
    ------
    SlurmError
        Slurm's programs are missing, the controller does not answer, no such partition.
    """
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        raise SlurmError(
            f"{missing[0]} is not on this machine; --executor slurm is called on a login node of"
            " a Slurm cluster"
        )
    try:
        known = partitions()
    except SlurmError as error:
        raise SlurmError(
            f"no Slurm controller answers on this machine; --executor slurm is called on a login"
            f" node of a Slurm cluster ({error})"
        ) from error
    for name in (partition or "").split(",") if partition else ():
        if name not in known:
            raise SlurmError(
                f"the cluster has no partition '{name}'; it has {', '.join(known) or 'none'}"
            )


def partitions() -> list[str]:
    """Names of the cluster's partitions.

    Raises
    ------
    SlurmError
        The controller does not answer.
    """
    # The default partition is marked by an asterisk.
    lines = _call("sinfo", "--noheader", "--format=%P").splitlines()
    return list(dict.fromkeys(line.strip().removesuffix("*") for line in lines if line.strip()))


def largest_array() -> int:
    """Maximum number of tasks of an array; they are numbered from 0.

    Raises
    ------
    SlurmError
        The controller does not answer, or has arrays switched off.
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call("scontrol", "show", "config"), re.M)
    limit = int(match[1]) if match else 1001
    if limit < 1:
        raise SlurmError("job arrays are switched off on this cluster (MaxArraySize is 0)")
    return limit


def submit(script: Path, options: Sequence[str] = ()) -> str:
    """Submit a script.

    Returns
    -------
    str
        Number of the job.

    Raises
    ------
    SlurmError
        The script was refused, or the controller did not answer and may have accepted it.
    """
    answer = _call("sbatch", "--parsable", *options, str(script))
    # Some clusters print advice before it, and federations add a name after it.
    last = answer.split()[-1].partition(";")[0] if answer.split() else ""
    if not last.isdecimal():
        raise SlurmError(f"sbatch answered '{one_line(answer)}', not the number of a job")
    return last


def array_tasks(names: Collection[str]) -> dict[tuple[str, int], TaskState]:
    """Tasks of the named arrays known to the controller, which keeps ended ones for some minutes.

    Returns
    -------
    dict
        State by name of the array and number of the task.

    Raises
    ------
    SlurmError
        The controller does not answer.
    """
    if not names:
        return {}
    answer = _call(
        "squeue",
        *("--noheader", "--array", "--states=all", f"--name={','.join(sorted(names))}"),
        "--format=%j|%F|%K|%T|%r",
    )
    states: dict[tuple[str, int], TaskState] = {}
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split("|", 4)]
        if len(parts) == 5 and parts[0] in names and parts[2].isdecimal():
            name, job, number, state, reason = parts
            states[name, int(number)] = TaskState(state, reason, job)
    return states


def _call(program: str, *arguments: str) -> str:
    """Standard output of a program."""
    # Formats and filters that a user has set for squeue and sinfo would change their answers.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SINFO_"))}
    try:
        done = subprocess.run(
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{program} did not answer within {_TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{program} cannot be started: {os.strerror(error.errno or 0)}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        said = "; ".join(re.sub(rf"^{program}: (error|fatal): ", "", line) for line in lines)
        raise SlurmError(f"{program}: {one_line(said, 400) or f'exit status {done.returncode}'}")
    return done.stdout
