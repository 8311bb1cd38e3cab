"""Slurm's programs as shell scripts on PATH, and a queue that a test moves on by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SCRIPTS = {
    "sinfo": 'cat "$FAKE/partitions"',
    "scontrol": 'cat "$FAKE/config"',
    "squeue": """
[ -f "$FAKE/down" ] && { cat "$FAKE/down" >&2; exit 1; }
for option; do case $option in --name=*) names=${option#--name=};; esac; done
for name in $(echo "$names" | tr , ' '); do grep "^$name|" "$FAKE/queue"; done
exit 0
""",
    "sbatch": """
for option; do case $option in
    --job-name=*) name=${option#--job-name=};;
    --array=0-*) last=${option#--array=0-}; last=${last%%%*};;
esac; done
printf '%s\\n' "$*" >> "$FAKE/sbatch.log"
[ -f "$FAKE/refusal" ] && { cat "$FAKE/refusal" >&2; exit 1; }
job=$(wc -l < "$FAKE/sbatch.log" | tr -d ' ')
for index in $(seq 0 "$last"); do echo "$name|$job|$index|PENDING|None" >> "$FAKE/queue"; done
[ -f "$FAKE/silence" ] && { cat "$FAKE/silence" >&2; exit 1; }
echo "$job"
""",
}
NO_ANSWER = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@dataclass
class FakeSlurm:
    """The queue of a cluster that runs a task when the test says so.

    Attributes
    ----------
    folder
        Programs, and files that steer them: ``down`` (squeue fails), ``refusal`` (sbatch fails),
        ``silence`` (sbatch fails after it has accepted).
    run_task
        Runs one task in this process.
    """

    folder: Path
    run_task: Callable[[Path, int], None]
    ran: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def install(cls, folder: Path, run_task: Callable[[Path, int], None]) -> FakeSlurm:
        """Write the programs; the folder must still be put on PATH, and ``FAKE`` be set."""
        folder.mkdir()
        for name, text in SCRIPTS.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        (folder / "partitions").write_text("cpu*\ngpu\n")
        (folder / "config").write_text("MaxArraySize            = 1001\n")
        (folder / "queue").write_text("")
        (folder / "sbatch.log").write_text("")
        return cls(folder, run_task)

    @property
    def environment(self) -> dict[str, str]:
        """Variables under which the programs are found."""
        return {"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}", "FAKE": str(self.folder)}

    @property
    def submissions(self) -> list[str]:
        """Arguments of each call of sbatch."""
        return (self.folder / "sbatch.log").read_text().splitlines()

    def tell(self, name: str, text: str | None) -> None:
        """Write one of the files that steer the programs, or remove it."""
        path = self.folder / name
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text + "\n")

    def queue(self) -> dict[tuple[str, int], str]:
        """State of each task by array and number, in the order of submission."""
        lines = (self.folder / "queue").read_text().splitlines()
        found = {}
        for line in lines:
            name, _, index, state, _ = line.split("|")
            found[name, int(index)] = state
        return found

    def set_state(self, address: tuple[str, int], state: str | None, reason: str = "None") -> None:
        """Move a task to another state; None removes it, as some minutes after its end."""
        path = self.folder / "queue"
        kept = []
        for line in path.read_text().splitlines():
            name, job, index, _, _ = line.split("|")
            if (name, int(index)) != address:
                kept.append(line)
            elif state is not None:
                kept.append(f"{name}|{job}|{index}|{state}|{reason}")
        path.write_text("".join(f"{line}\n" for line in kept))

    def pending(self) -> list[tuple[str, int]]:
        """Tasks that wait."""
        return [address for address, state in self.queue().items() if state == "PENDING"]

    def run_next(self) -> None:
        """Run the task that has waited longest."""
        waiting = self.pending()
        if not waiting:
            return
        address = waiting[0]
        self.set_state(address, "RUNNING")
        self.ran.append(address)
        try:
            self.run_task(*self.task(address))
        except Exception:  # noqa: BLE001 - as the process of a task it would end with a status
            self.set_state(address, "FAILED", "NonZeroExitCode")
        else:
            self.set_state(address, "COMPLETED")

    def task(self, address: tuple[str, int]) -> tuple[Path, int]:
        """Folder of a task's submission, and the task's number in it."""
        name, index = address
        (line,) = [line for line in self.submissions if f"--job-name={name} " in f"{line} "][-1:]
        script = Path(line.split(" ")[-1])
        start = int(script.read_text().split("--task $((")[1].split(" ")[0])
        return script.parent, start + index
