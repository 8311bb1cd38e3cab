"""Running the open fits of a study, and the record of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, DataError
from bench.execute.executors.base import Executor, Failure, JobWatcher
from bench.execute.plan import PlannedRun
from bench.execute.request import Request
from bench.execute.run import Uploads, run_request
from bench.files import write_json
from bench.records import read_json
from bench.store import RunFolder
from bench.study.declaration import Study
from bench.study.planning import StudyGroup
from bench.version import __version__

RECORD = "study.json"
"""File that lists the runs of a study, in its folder."""


def study_folder(results: Path, study: str) -> Path:
    """Folder of what is made of a study."""
    return results / "studies" / study


@dataclass(frozen=True)
class RecordedRow:
    """A row of a part on one dataset, as the record has it.

    Attributes
    ----------
    part, dataset, label, seed, patients
        Its place in the study; `patients` are those trained on in each fold, None: all.
    folder
        Of its run, below the results folder.
    key
        Of its run.
    """

    part: str
    dataset: str
    label: str
    seed: int
    patients: int | None
    folder: str
    key: str

    def run_folder(self, results: Path) -> RunFolder:
        """Folder of the run."""
        return RunFolder(results / self.folder, self.key)


@dataclass(frozen=True)
class MissingRow:
    """A row of a part on one dataset that cannot be run here, and why."""

    part: str
    dataset: str
    label: str
    reason: str


def _place(row: RecordedRow | MissingRow) -> tuple[str, str, str]:
    return row.part, row.dataset, row.label


@dataclass(frozen=True)
class StudyRecord:
    """What a study consists of on this machine.

    Attributes
    ----------
    rows
        Runs by their place in the study.
    missing
        What could not be planned.
    """

    rows: tuple[RecordedRow, ...]
    missing: tuple[MissingRow, ...]


def record_study(study: Study, groups: Sequence[StudyGroup], results: Path, whole: bool) -> None:
    """Write which runs a study consists of, for reports that are made without its data.

    Parameters
    ----------
    study, groups
        The study and its plan.
    results
        Results folder.
    whole
        Whether `groups` is all of the study; else what is recorded of the other rows is kept.
    """
    rows = [
        RecordedRow(
            part=group.part.name,
            dataset=group.dataset,
            label=group.labels[run.method_spec.label],
            seed=int(run.facts["seed"]),
            patients=run.facts.get("train_patients"),
            folder=str(run.folder.path.relative_to(results)),
            key=run.folder.key,
        )
        for group in groups
        for run in group.runs
    ]
    missing = [
        MissingRow(group.part.name, group.dataset, label, group.missing)
        for group in groups
        if group.missing
        for label in group.labels.values()
    ]
    path = study_folder(results, study.name) / RECORD
    if not whole and path.is_file():
        try:
            before = read_record(results, study.name)
        except DataError:  # as if nothing had been recorded
            before = StudyRecord((), ())
        places = {*map(_place, rows), *map(_place, missing)}
        rows += [row for row in before.rows if _place(row) not in places]
        missing += [row for row in before.missing if _place(row) not in places]
    write_json(
        path,
        {
            "study": study.name,
            "hash": study.hash,
            "version": __version__,
            "rows": [vars(row) for row in rows],
            "missing": [vars(row) for row in missing],
        },
    )


def read_record(results: Path, study: str) -> StudyRecord:
    """The record of a study in a results folder.

    Raises
    ------
    BenchError
        Nothing of it has been run here.
    DataError
        The record is damaged, or names a folder outside of the results.
    """
    path = study_folder(results, study) / RECORD
    if not path.is_file():
        raise BenchError(f"{results}: nothing of study {study} here; 'bench study run' makes it")
    content = read_json(path) or {}
    try:
        rows = tuple(RecordedRow(**row) for row in content["rows"])
        missing = tuple(MissingRow(**row) for row in content["missing"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged; 'bench study run' writes it again") from error
    for row in rows:
        parts = Path(str(row.folder)).parts
        if parts[:1] != ("runs",) or ".." in parts:
            raise DataError(f"{path}: names a run outside of the results")
    return StudyRecord(rows, missing)


@dataclass(frozen=True)
class StudyOutcome:
    """What came of a study's runs.

    Attributes
    ----------
    failures
        Folds whose method failed, with part and dataset.
    refused
        Groups that could not be run, with the reason.
    """

    failures: tuple[tuple[StudyGroup, Failure], ...]
    refused: tuple[tuple[StudyGroup, str], ...]


def run_groups(
    groups: Sequence[StudyGroup],
    executor: Executor,
    uploads: Callable[[Request], Uploads],
    watcher: JobWatcher,
    told: Callable[[str], None],
) -> StudyOutcome:
    """Run the open folds of a study's plan, request by request.

    A request that cannot be met leaves the others as they are.

    Parameters
    ----------
    groups
        The plan.
    executor, watcher
        As of :func:`bench.execute.run.run_request`.
    uploads
        Makes what receives the runs of a request.
    told
        Told the part and dataset that begins.
    """
    failures: list[tuple[StudyGroup, Failure]] = []
    refused: list[tuple[StudyGroup, str]] = []
    for group in groups:
        if group.missing or not group.open:
            continue
        told(f"{group.part.name}, {group.dataset}")
        try:
            result = run_request(
                group.request, watcher=watcher, executor=executor, uploads=uploads(group.request)
            )
        except BenchError as error:
            refused.append((group, str(error)))
            continue
        failures += ((group, failure) for failure in result.failures)
    return StudyOutcome(tuple(failures), tuple(refused))


def labelled_runs(groups: Sequence[StudyGroup]) -> list[tuple[PlannedRun, str]]:
    """Runs of a plan with their labels in the study."""
    return [(run, group.labels[run.method_spec.label]) for group in groups for run in group.runs]


def plan_facts(group: StudyGroup) -> dict[str, Any]:
    """A group of the plan for tables and JSON: where it belongs, and how far it is."""
    jobs = group.jobs
    return {
        "part": group.part.name,
        "dataset": group.dataset,
        "seeds": list(group.part.seeds),
        "rows": list(group.labels.values()),
        "fits": len(jobs),
        "done": len(jobs) - len(group.open),
        "missing": group.missing,
    }
