"""A Slurm cluster of one node on this machine, from the Debian packages slurm-wlm and munge.

Everything lies in one folder: keys, sockets, configuration, state, logs. No service of the system
is touched, and no accounting database is needed.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scontrol", "scancel")
PATIENCE = 60
PARTITION = "quick"

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=2
{more}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000
PartitionName={partition} Nodes={host} Default=YES MaxTime=60 State=UP
"""


class UnavailableError(Exception):
    """No cluster can be started here; the message says why."""


@dataclass
class SlurmCluster:
    """A cluster in a folder; see :func:`slurm_cluster`."""

    folder: Path
    cpus: int = 2
    more: str = ""
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that let Slurm's programs find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *arguments: object) -> str:
        """Standard output of one of Slurm's programs."""
        done = subprocess.run(
            [str(argument) for argument in arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return done.stdout

    def start(self) -> None:
        """Start munge, the controller and the node, and wait until jobs can be run."""
        missing = [name for name in PROGRAMS if _program(name) is None]
        if missing:
            raise UnavailableError(f"{missing[0]} is not installed: make slurm-packages")
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        controller_port, node_port = _free_ports(2)
        text = CONFIGURATION.format(
            folder=self.folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            controller_port=controller_port,
            node_port=node_port,
            cpus=self.cpus,
            partition=PARTITION,
            more=self.more,
        )
        (self.folder / "slurm.conf").write_text(text)
        self._start(
            "munged",
            "--foreground",
            *(f"--key-file={key}", f"--socket={self.folder}/munge.socket"),
            *(f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")),
        )
        self.wait_until("munged", lambda: (self.folder / "munge.socket").exists())
        self.start_controller()
        self._start("slurmd", "-D", "-N", socket.gethostname().partition(".")[0])
        self.wait_until("slurmd", lambda: "idle" in self.call("sinfo", "-h", "-o", "%t"))

    def start_controller(self) -> None:
        """Start the controller; it reads the state that the one before has saved."""
        self._start("slurmctld", "-D")
        self.wait_until("slurmctld", lambda: "UP" in self.call("scontrol", "ping"))

    def stop_controller(self) -> None:
        """End the controller as an administrator would; jobs that run go on."""
        self._end("slurmctld")

    def stop(self) -> None:
        """End every job and every daemon."""
        if "slurmd" in self._processes:
            self._end_jobs()
        for name in ("slurmd", "slurmctld", "munged"):
            self._end(name)

    def _end_jobs(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            if "slurmctld" not in self._processes:
                self.start_controller()
            self.call("scancel", "--user", getpass.getuser(), "--full")
            end = time.monotonic() + PATIENCE
            while self.call("squeue", "-h") and time.monotonic() < end:
                time.sleep(0.1)

    def wait_until(self, name: str, ready) -> None:
        """Wait until a daemon is ready."""
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                if ready():
                    return
            if self._processes[name].poll() is not None or time.monotonic() > end:
                raise UnavailableError(f"{name} cannot be started: {self._last_words(name)}")
            time.sleep(0.1)

    def _start(self, name: str, *arguments: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as output:
            self._processes[name] = subprocess.Popen(
                [str(_program(name)), *arguments],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _last_words(self, name: str) -> str:
        lines = (self.folder / f"{name}.out").read_text(errors="replace").splitlines()
        said = [line for line in lines if re.search("error|fatal", line, re.IGNORECASE)] or lines
        return " ".join(said[-1:]) or "it said nothing"


@contextlib.contextmanager
def slurm_cluster(**options) -> Iterator[SlurmCluster]:
    """A cluster that runs while the block does.

    Its folder is short, for the names of sockets, and open to all, as munge demands.

    Raises
    ------
    UnavailableError
        Slurm is not installed, or cannot be started by this user on this machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = SlurmCluster(folder, **options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str | None:
    """Path of a program; daemons lie where only root's PATH leads."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
