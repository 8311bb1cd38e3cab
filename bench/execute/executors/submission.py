"""Submissions to Slurm, each in a folder that its tasks and later calls read.

Layout under ``<results>/slurm/<submission>``::

    request.json       the request, from which a task makes the plan again
    submission.json    what each task has to do
    array-<n>.sh       script of one job array, with the command that submits it
    arrays.json        numbers of the jobs, written as they are accepted
    tasks/<k>.json     what became of task k, written by the task
    logs/              output of the tasks
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.claims import claim
from bench.errors import DataError
from bench.execute.executors.profile import Profile
from bench.files import atomic_write, write_json
from bench.records import read_record
from bench.store import not_writable

_REQUEST, _SUBMISSION, _ARRAYS = "request.json", "submission.json", "arrays.json"


@dataclass(frozen=True)
class Assignment:
    """Work of a task: a fold of a run, or the trials of a study.

    Attributes
    ----------
    label, fold
        The run's or the study's label, and the fold.
    key
        Key of the run, or name of the study.
    replaces
        Version of the result that existed at the submission and is to be replaced.
    force
        Whether that result is replaced even if it is valid; see ``--force``.
    """

    label: str
    fold: int
    key: str
    replaces: str | None = None
    force: bool = False

    @property
    def name(self) -> str:
        """Name in the report of its task."""
        return f"{self.label}/{self.fold}"


@dataclass(frozen=True)
class TaskReport:
    """Report of a task, written by the task itself.

    Attributes
    ----------
    begun
        Names of started assignments.
    kept
        Names of assignments whose results already existed.
    failed
        Reasons of failure by name of the assignment.
    refused
        Reason why the task could not run at all, empty if it could.
    """

    begun: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""


@dataclass(frozen=True)
class Submission:
    """Tasks that were submitted together.

    Attributes
    ----------
    folder
        Folder of the submission.
    fetch
        Whether its tasks may download.
    array_size
        Tasks per array; the last array may have fewer.
    bundles
        Assignments of each task.
    """

    folder: Path
    fetch: bool
    array_size: int
    bundles: tuple[tuple[Assignment, ...], ...]

    @property
    def arrays(self) -> range:
        """Numbers of its arrays."""
        return range(-(-len(self.bundles) // self.array_size))

    def array_name(self, array: int) -> str:
        """Unique name of an array in the queue."""
        return f"spotbench-{self.folder.name}-{array}"

    def tasks_of(self, array: int) -> range:
        """Numbers of the tasks of an array."""
        start = array * self.array_size
        return range(start, min(start + self.array_size, len(self.bundles)))

    def address(self, task: int) -> tuple[str, int]:
        """Name of a task's array, and the task's number in it."""
        array, index = divmod(task, self.array_size)
        return self.array_name(array), index

    def log(self, task: int) -> Path:
        """Output of a task."""
        array, index = divmod(task, self.array_size)
        return self.folder / "logs" / f"array-{array}-{index}.log"

    def report(self, task: int) -> TaskReport:
        """Report of a task; empty if it has not started."""
        record = read_record(self.folder / "tasks" / f"{task}.json")
        return TaskReport(
            tuple(record.get("begun", ())),
            tuple(record.get("kept", ())),
            dict(record.get("failed", {})),
            str(record.get("refused", "")),
        )

    def write_report(self, task: int, report: TaskReport) -> None:
        """Write the current report of a task."""
        write_json(self.folder / "tasks" / f"{task}.json", asdict(report))

    def request(self) -> dict[str, Any]:
        """The request as JSON.

        Raises
        ------
        DataError
            The file is missing or damaged.
        """
        return _read(self.folder / _REQUEST)

    def accepted(self) -> dict[str, str]:
        """Job numbers of the accepted arrays, by name of the array."""
        return read_record(self.folder / _ARRAYS)

    def note_accepted(self, array: int, job: str) -> None:
        """Store the number of an array's job."""
        write_json(self.folder / _ARRAYS, {**self.accepted(), self.array_name(array): job})


def submissions_folder(results: Path) -> Path:
    """Folder of the submissions of a results folder."""
    return results.absolute() / "slurm"


@contextlib.contextmanager
def submitting(results: Path) -> Iterator[None]:
    """Lock out other calls, so that two identical calls submit only once.

    Raises
    ------
    StoreError
        The results folder cannot be written.
    """
    with claim(submissions_folder(results) / ".claim", wait=None):
        yield


def read_submission(folder: Path) -> Submission:
    """Read a submission from its folder.

    Raises
    ------
    DataError
        The folder contains no submission.
    """
    content = _read(folder / _SUBMISSION)
    try:
        bundles = tuple(tuple(Assignment(**of) for of in bundle) for bundle in content["bundles"])
        return Submission(folder, bool(content["fetch"]), int(content["array_size"]), bundles)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / _SUBMISSION}: not a submission of this version") from error


def read_submissions(results: Path) -> Iterator[Submission]:
    """All readable submissions of a results folder, the newest first."""
    for path in sorted(submissions_folder(results).glob(f"*/{_SUBMISSION}"), reverse=True):
        try:
            yield read_submission(path.parent)
        except DataError:
            continue  # of another version of the package


def write_submission(
    results: Path,
    request: Mapping[str, Any],
    bundles: Sequence[Sequence[Assignment]],
    profile: Profile,
    array_size: int,
) -> Submission:
    """Write all files of a submission, without submitting it.

    Raises
    ------
    StoreError
        They cannot be written.
    """
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    folder = submissions_folder(results) / name
    submission = Submission(folder, profile.fetch, array_size, tuple(map(tuple, bundles)))
    try:
        (folder / "logs").mkdir(parents=True)
        for array in submission.arrays:
            with atomic_write(folder / f"array-{array}.sh") as temporary:
                temporary.write_text(_script(submission, array, profile), encoding="utf-8")
        with atomic_write(folder / _REQUEST) as temporary:
            temporary.touch(mode=0o600)  # the URL of a database may contain a password
            temporary.write_text(json.dumps(request, indent=2, allow_nan=False), encoding="utf-8")
        write_json(
            folder / _SUBMISSION,
            {
                "fetch": submission.fetch,
                "array_size": array_size,
                "bundles": [[asdict(of) for of in bundle] for bundle in submission.bundles],
            },
        )
    except OSError as error:
        raise not_writable(folder, error) from error
    return submission


def script_path(submission: Submission, array: int) -> Path:
    """Script of an array."""
    return submission.folder / f"array-{array}.sh"


def sbatch_options(submission: Submission, array: int, profile: Profile) -> list[str]:
    """Options of ``sbatch`` for an array.

    They are given on the command line, where neither quoting nor ``SBATCH_`` variables of the
    user interfere, as they would with ``#SBATCH`` lines.
    """
    parallel = "" if profile.max_parallel is None else f"%{profile.max_parallel}"
    logs = str(submission.folder / "logs").replace("%", "%%")
    return [
        f"--job-name={submission.array_name(array)}",
        f"--array=0-{len(submission.tasks_of(array)) - 1}{parallel}",
        f"--output={logs}/array-{array}-%a.log",
        "--open-mode=append",
        f"--chdir={Path.cwd()}",
        *profile.options(),
    ]


def _script(submission: Submission, array: int, profile: Profile) -> str:
    """Script of an array, with the command that submits it as a comment."""
    command = ["sbatch", "--parsable", *sbatch_options(submission, array, profile)]
    command.append(str(script_path(submission, array)))
    python = sys.executable if profile.python is None else os.path.expanduser(profile.python)
    start = submission.tasks_of(array).start
    lines = [
        "#!/bin/bash",
        f"# {shlex.join(command)}",
        *profile.setup,
        "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
        *(f"export {key}={shlex.quote(value)}" for key, value in _variables(profile).items()),
        # Not from the working folder, where anything may be named bench: -P.
        f"exec {shlex.quote(python)} -P -m bench execute {shlex.quote(str(submission.folder))}"
        f" --task $(({start} + SLURM_ARRAY_TASK_ID))",
    ]
    return "\n".join(lines) + "\n"


def _variables(profile: Profile) -> dict[str, str]:
    """Environment variables of the tasks: those of this package set here, then the profile's."""
    own = {key: value for key, value in os.environ.items() if key.startswith("SPOTBENCH_")}
    for key in ("OMP_NUM_THREADS", "PYTHONPATH"):
        if os.environ.get(key):
            own[key] = os.environ[key]
    if "PYTHONPATH" in own:
        parts = own["PYTHONPATH"].split(os.pathsep)
        own["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in parts)
    return {**own, **profile.environment}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object")
    return content
