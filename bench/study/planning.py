"""Plan of a study: its requests, what is done, what is missing and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.data.card import join_names
from bench.data.dataset import Dataset
from bench.data.folders import is_here
from bench.errors import BenchError, UnknownNameError
from bench.evaluate.oracles import ORACLES
from bench.execute.method_specs import MethodSpec, resolve_methods
from bench.execute.plan import Job, Plan, PlannedRun, make_plan
from bench.execute.request import Request
from bench.files import canonical_hash
from bench.protocol.rules import Protocol, find_protocol, with_panel
from bench.registry import collection, dataset_card, dataset_name
from bench.study.declaration import Study, StudyPart, StudyRow

_NO_IMAGE = "image "
"""Begin of the reason why a section without its image is left out."""


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run on this machine; what it computes is the study's own affair.

    Attributes
    ----------
    data_root
        Folder with one folder a dataset, named as the dataset; None: where each dataset lies.
    results
        Results folder.
    device, precision
        As of ``bench run``.
    only
        Names of parts, datasets and rows to be taken; each kind restricts, empty: all.
    partial
        Whether sections whose image is missing may be left out.
    elsewhere
        Whether fits run on other machines.
    """

    data_root: Path | None = None
    results: Path = Request.results
    device: str = Request.device
    precision: str = Request.precision
    only: tuple[str, ...] = ()
    partial: bool = False
    elsewhere: bool = False


@dataclass(frozen=True)
class StudyGroup:
    """Rows of a part on one dataset, as one request.

    Attributes
    ----------
    part
        Part of the study.
    dataset
        Name of the dataset.
    request
        The request; its data folder is chosen.
    labels_of
        Of each method of the request: labels in the study by those of its runs.
    plan
        Plan of the request; None where it cannot be met.
    missing
        Why not.
    """

    part: StudyPart
    dataset: str
    request: Request
    labels_of: Mapping[str, Mapping[str, str]]
    plan: Plan | None = None
    missing: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """Labels in the study by those of the runs."""
        return {run: label for labels in self.labels_of.values() for run, label in labels.items()}

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Runs of the plan."""
        return self.plan.runs if self.plan else ()

    @property
    def jobs(self) -> list[Job]:
        """Folds of the plan."""
        return self.plan.jobs() if self.plan else []

    @property
    def open(self) -> list[Job]:
        """Folds that are not stored."""
        return [job for job in self.jobs if not job.folder.state("tables").done]


def plan_study(
    study: Study, options: StudyOptions, told: Callable[[str], None] = lambda _: None
) -> list[StudyGroup]:
    """Check all of a study, then plan each of its requests; nothing is fitted.

    Parameters
    ----------
    study
        The study.
    options
        Folders, device, and what is wanted of it.
    told
        Told the part and dataset that is being planned.

    Returns
    -------
    list of StudyGroup
        In the order of the parts; what cannot be met says why.

    Raises
    ------
    BenchError
        An unknown method, setting, encoder, dataset or protocol, or a name of ``only`` that the
        study does not have: nothing has been planned.
    """
    chosen = _chosen(study, options.only)
    groups: list[StudyGroup] = []
    for part in study.parts:
        with _named(study, part):
            groups += _groups(study, part, options, chosen)
    planned = []
    for group in groups:
        told(f"{group.part.name}, {group.dataset}: {', '.join(group.labels.values())}")
        planned += _planned(group, options)
    return planned


@contextmanager
def _named(study: Study, part: StudyPart) -> Iterator[None]:
    """Put the names of study and part before what is wrong with the part."""
    try:
        yield
    except BenchError as error:
        raise BenchError(f"study {study.name}, part {part.name}: {error}") from error


def members_of(names: Sequence[str]) -> dict[str, str]:
    """Datasets by name: what a request calls each; a collection stands for its members."""
    asked = [one for name in names for one in collection(name) or (dataset_name(name),)]
    return {dataset_card(one).name: one for one in asked}


@dataclass(frozen=True)
class _Chosen:
    """Parts, datasets and rows that are wanted; each restricts where it is not empty."""

    parts: frozenset[str]
    datasets: frozenset[str]
    rows: frozenset[str]

    def part(self, name: str) -> bool:
        return not self.parts or name in self.parts

    def dataset(self, name: str) -> bool:
        return not self.datasets or name in self.datasets

    def row(self, row: StudyRow) -> bool:
        return not self.rows or row.name in self.rows


def _chosen(study: Study, only: Sequence[str]) -> _Chosen:
    parts = {part.name for part in study.parts}
    datasets: set[str] = set()
    for part in study.parts:
        with _named(study, part):
            datasets |= set(members_of(study.datasets_of(part)))
    rows = {row.name for part in study.parts for row in part.rows} | {*ORACLES}
    for name in only:
        if name not in parts | datasets | rows:
            known = parts | datasets | rows
            raise UnknownNameError(f"part, dataset or row of {study.name}", name, known)
    asked = frozenset(only)
    return _Chosen(asked & parts, asked & (datasets - parts), asked & (rows - datasets - parts))


def _groups(
    study: Study, part: StudyPart, options: StudyOptions, chosen: _Chosen
) -> Iterator[StudyGroup]:
    protocol = find_protocol(part.protocol)
    if part.test_dataset is not None:
        dataset_card(part.test_dataset)
    for dataset, reference in members_of(study.datasets_of(part)).items():
        if part.panel is not None:
            with_panel(protocol, part.panel, dataset_card(reference).panels)
        request = Request(
            methods=(),
            dataset=reference,
            protocol=part.protocol,
            panel=part.panel,
            folds=part.folds,
            seed=part.seeds[0],
            seeds=part.seeds if len(part.seeds) > 1 else (),
            test_dataset=part.test_dataset,
            test_data_root=_root_of(options.data_root, part.test_dataset),
            train_patients=tuple(
                None if number == "all" else number for number in part.train_patients
            ),
            device=options.device,
            precision=options.precision,
            data_root=_root_of(options.data_root, reference),
            results=options.results,
            oracles=False,
            encoders=part.encoders,
            random_encoders=part.random_encoders,
        )
        together = _together(part, dataset)
        if part.encoders and not any(map(_has_encoder, together)):
            raise BenchError("encoders are named, and no row has one")
        for resolved in together:
            rows = [(row, specs) for row, specs in resolved if chosen.row(row)]
            if not (rows and chosen.part(part.name) and chosen.dataset(dataset)):
                continue
            first = rows[0][0]
            methods = tuple(dict.fromkeys(row.method for row, _ in rows))
            labels = {
                row.method: {spec.label: _label(row, spec) for spec in specs} for row, specs in rows
            }
            yield StudyGroup(
                part,
                dataset,
                replace(
                    request,
                    methods=methods,
                    preset=first.preset or part.preset,
                    settings=dict(first.settings),
                    encoders=request.encoders if _has_encoder(rows) else (),
                ),
                labels,
            )


_Resolved = tuple[StudyRow, list[MethodSpec]]


def _together(part: StudyPart, dataset: str) -> list[list[_Resolved]]:
    """Rows that one request can hold: of one preset, of the same settings, with or without images.

    Rows that read no image come by themselves, for they need no section's image to be here.
    """
    groups: dict[str, list[_Resolved]] = {}
    rows = [row for row in part.rows if not row.published]
    if part.oracles:
        named = {row.method for row in rows}
        rows += [StudyRow(method=name) for name in ORACLES if name not in named]
    for row in rows:
        preset = row.preset or part.preset
        specs = _specs(row, part, dataset, preset)
        images = any(spec.needs_image for spec in specs)
        own = [row.base, row.settings] if row.settings else []
        key = canonical_hash([preset, images, own])
        groups.setdefault(key, []).append((row, specs))
    return list(groups.values())


def _specs(row: StudyRow, part: StudyPart, dataset: str, preset: str) -> list[MethodSpec]:
    def resolve(encoders: Sequence[str]) -> list[MethodSpec]:
        return resolve_methods(
            (row.method,),
            dataset,
            preset,
            row.settings,
            encoders=encoders,
            random_encoders=part.random_encoders,
        )

    plain = resolve(())
    facts = plain[0].facts
    sweeps = part.encoders and facts is not None and "encoder" in facts.settings
    return resolve(part.encoders) if sweeps else plain


def _has_encoder(rows: Sequence[_Resolved]) -> bool:
    specs = [spec for _, some in rows for spec in some]
    return any(spec.facts is not None and "encoder" in spec.facts.settings for spec in specs)


def _label(row: StudyRow, spec: MethodSpec) -> str:
    """Label of a row, with what the run's label says of its encoder."""
    if row.label is None:
        return spec.label
    _, bracket, encoder = spec.label.partition("[")
    return row.label if "encoder" in row.settings else f"{row.label}{bracket}{encoder}"


def _root_of(root: Path | None, dataset: str | None) -> Path | None:
    """Folder of a dataset in that of all; a generated one needs none."""
    if root is None or dataset is None:
        return None
    card = dataset_card(dataset)
    folder = root / card.name
    return None if card.generator and not folder.is_dir() else folder


def _planned(group: StudyGroup, options: StudyOptions) -> list[StudyGroup]:
    """The group with its plan; where it cannot be met, its rows one by one."""
    request = group.request
    pairs = [(request.dataset, request.data_root)]
    pairs += [(request.test_dataset, request.test_data_root)] if request.test_dataset else []
    for name, root in pairs:
        card = dataset_card(name)
        if not is_here(card, root):
            where = f" in {root}" if root else ""
            reason = f"{card.name} is not here{where}; see 'bench data get {card.name}'"
            return [replace(group, missing=reason)]
    try:
        plan = make_plan(group.request, elsewhere=options.elsewhere)
    except BenchError as error:
        if len(group.request.methods) == 1:
            return [replace(group, missing=str(error))]
        each = [_alone(group, method) for method in group.request.methods]
        return [one for some in each for one in _planned(some, options)]
    opened = [plan.dataset, *([plan.transfer.tested] if plan.transfer else [])]
    lacking = [
        name
        for dataset in opened
        for name, reason in dataset.left_out.items()
        if reason.startswith(_NO_IMAGE) and _is_used(dataset, plan.protocol, name)
    ]
    if lacking and not options.partial:
        reason = f"the images of {len(lacking)} sections are not here ({join_names(lacking, 6)})"
        return [replace(group, missing=f"{reason}; --partial leaves these sections out")]
    return [replace(group, plan=plan)]


def _is_used(dataset: Dataset, protocol: Protocol, section: str) -> bool:
    """Whether the protocol would use a section if it were here."""
    return protocol.sections == "all" or section in dataset.card.published_order


def _alone(group: StudyGroup, method: str) -> StudyGroup:
    request = replace(group.request, methods=(method,))
    return replace(group, request=request, labels_of={method: group.labels_of[method]})


def seen(groups: Sequence[StudyGroup]) -> dict[str, Any]:
    """Numbers of a plan: ``fits``, ``done``, ``open``, and ``missing`` groups."""
    jobs = {job.folder.path: job for group in groups for job in group.jobs}
    left = {job.folder.path for group in groups for job in group.open}
    return {
        "fits": len(jobs),
        "done": len(jobs) - len(left),
        "open": len(left),
        "missing": sum(bool(group.missing) for group in groups),
    }
