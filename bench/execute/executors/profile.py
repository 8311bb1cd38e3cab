"""The profile of a Slurm cluster: the options and resources of its tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bench.errors import DataError, UnknownNameError
from bench.faults import first_fault
from bench.yaml_files import read_yaml

_TIME = re.compile(
    r"\d+(:[0-5]?\d(:[0-5]?\d)?)?|\d+-\d{1,2}(:[0-5]?\d(:[0-5]?\d)?)?|UNLIMITED|INFINITE",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"[1-9]\d*[KMGT]", re.IGNORECASE)
_OPTION = re.compile(r"--?[A-Za-z][\w-]*(=.+| .+)?")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")

_OURS = {
    "array": "a",
    "chdir": "D",
    "error": "e",
    "job-name": "J",
    "open-mode": "",
    "output": "o",
    "parsable": "",
    "test-only": "",
    "wait": "W",
    "wrap": "",
}
"""Options of sbatch that the executor sets itself or does not support, with short forms."""


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


def _time(value: object) -> object:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        # YAML reads 2:00:00 without quotes as the number 7200, which Slurm would take as minutes.
        raise ValueError("write a text that Slurm reads, in quotes: '2:00:00' or '1-12:00:00'")
    return value


def _memory(value: object) -> object:
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise ValueError("write a number and a unit, such as 16G")
    return value


def _gpus(value: str | int) -> str | int:
    if isinstance(value, str) and not value.startswith("gpu"):
        raise ValueError("write a number, or what --gres takes, such as gpu:a100:1")
    return value


def _lines(value: object) -> object:
    return value.splitlines() if isinstance(value, str) else value


def _option(text: str) -> str:
    if not _OPTION.fullmatch(text):
        raise ValueError(f"'{text}': write one option of sbatch, such as --exclusive")
    dashes = 2 if text.startswith("--") else 1
    name = re.split("[= ]", text)[0][dashes:]
    if name in _OURS if dashes == 2 else name[:1] in _OURS.values():
        raise ValueError(f"'{text}': is set by the executor")
    return text


def _variables(names: dict[str, str]) -> dict[str, str]:
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"'{name}' is no name of an environment variable")
    return names


Text = Annotated[str, AfterValidator(_one_line)]
Lines = Annotated[tuple[Text, ...], BeforeValidator(_lines)]
Time = Annotated[Text, BeforeValidator(_time)]
Memory = Annotated[Text, BeforeValidator(_memory)]
Gpus = Annotated[Annotated[int, Field(ge=0, strict=True)] | Text, AfterValidator(_gpus)]
SbatchOption = Annotated[Text, AfterValidator(_option)]
Variables = Annotated[dict[str, Text], AfterValidator(_variables)]


class Profile(BaseModel):
    """Resources and options of each task of an array; a task runs one or several folds.

    Attributes
    ----------
    partition
        One name, or several separated by commas; None: the cluster's default.
    time
        Time limit of a task, in Slurm's notation.
    cpus
        Processors of a task.
    gpus
        Number, or a text for ``--gres``.
    memory
        Memory of a task, with its unit.
    account, qos, constraint, exclude
        Options of ``sbatch`` of the same name; `exclude` lists nodes.
    setup
        Shell lines before the task: modules, virtual environment.
    python
        Interpreter on the nodes; None: that of the caller.
    environment
        Variables of the task.
    sbatch_options
        Further options, one per item.
    bundle
        Folds that a task runs one after another.
    array_limit
        Maximum number of tasks of an array, if below the cluster's ``MaxArraySize``.
    max_parallel
        Maximum number of tasks running at a time.
    retries
        Resubmissions of a fold whose task ended without a result.
    fetch
        Whether tasks may download data and weights.
    poll_seconds
        Seconds between two queries of the queue.
    settle_seconds
        Seconds between the end of a task and the conclusion that its results are missing; shared
        file systems may show new files late.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    partition: Text | None = None
    time: Time | None = None
    cpus: int = Field(default=1, ge=1, strict=True)
    gpus: Gpus = 0
    memory: Memory | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    exclude: tuple[Text, ...] = ()
    setup: Lines = ()
    python: Text | None = None
    environment: Variables = {}
    sbatch_options: tuple[SbatchOption, ...] = ()
    bundle: int = Field(default=1, ge=1, strict=True)
    array_limit: int | None = Field(default=None, ge=1, strict=True)
    max_parallel: int | None = Field(default=None, ge=1, strict=True)
    retries: int = Field(default=2, ge=0, strict=True)
    fetch: bool = Field(default=False, strict=True)
    poll_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    settle_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)

    def options(self) -> list[str]:
        """Options of ``sbatch`` that ask for the resources of one task."""
        gres = f"gpu:{self.gpus}" if isinstance(self.gpus, int) and self.gpus else self.gpus
        named = {
            "partition": self.partition,
            "time": self.time,
            "cpus-per-task": self.cpus,
            "gres": gres or None,
            "mem": self.memory,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": ",".join(self.exclude) or None,
        }
        given = [f"--{name}={value}" for name, value in named.items() if value is not None]
        return [*given, *self.sbatch_options]


def read_profile(path: Path) -> Profile:
    """Read a profile from its YAML file.

    Raises
    ------
    DataError
        The file is missing or not YAML, or a field is unknown or invalid.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a profile, which has fields such as partition and time")
    unknown = [str(name) for name in content if name not in Profile.model_fields]
    if unknown:
        raise DataError(
            f"{path}: {UnknownNameError('profile field', unknown[0], Profile.model_fields)}"
        )
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error)}") from error
