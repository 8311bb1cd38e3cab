"""The plan of a request: its runs, their keys, and their folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from bench.data.card import DatasetCard
from bench.data.dataset import Dataset
from bench.errors import BenchError, DataError
from bench.evaluate.oracles import ORACLES
from bench.execute.audits import dataset_audit
from bench.execute.checkpoints import checkpoints_by_fold, is_one_file
from bench.execute.division import chosen_folds, divide, renamed_genes, shared_folds
from bench.execute.encoders import encoder_identity, prepare_encoder
from bench.execute.ensembles import Member
from bench.execute.environment import git_commit, package_versions
from bench.execute.inputs import FoldSource
from bench.execute.job_devices import Devices
from bench.execute.keys import run_key
from bench.execute.method_specs import MethodSpec, released_spec, resolve_methods, tuned_spec
from bench.execute.request import Request
from bench.execute.transfers import DatasetTransfer, divide_for_transfer
from bench.execute.variants import Variant, variants_of
from bench.files import canonical_hash, file_hash
from bench.method import Precision
from bench.method_references import SHUFFLED, is_handed, split_ensemble
from bench.protocol.audit import check_audit
from bench.protocol.folds import Folds
from bench.protocol.rules import Protocol, find_protocol, with_panel
from bench.protocol.training_patients import mean_training_patients
from bench.registry import dataset_card
from bench.store import (
    FoldFolder,
    RunFolder,
    check_writable,
    run_folder,
)


@dataclass(frozen=True)
class Job:
    """One fold of one run, with all its inputs; picklable."""

    method_spec: MethodSpec
    source: FoldSource
    seed: int
    device: str
    precision: Precision
    compile: bool
    run: RunFolder
    twin: RunFolder | None = None
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """Identity of its image encoder, see :func:`bench.execute.encoders.encoder_identity`."""
    members: tuple[Member, ...] = ()
    """Rows that an ensemble averages."""
    variant: str = ""
    """Seed and training patients, if the request has several runs a method."""

    @property
    def row(self) -> str:
        """Unique name of the run in its plan, for messages."""
        return row_name(self.method_spec, self.variant)

    @property
    def name(self) -> str:
        """Row and fold, for messages."""
        return f"{self.row} fold {self.fold}"

    @property
    def fold(self) -> int:
        """Number of the fold."""
        return self.source.index

    @property
    def limit(self) -> int:
        """Number of training patients; 0 for all. Jobs that differ in it have other data."""
        return self.source.train_patients or 0

    @property
    def folder(self) -> FoldFolder:
        """Folder of the result."""
        return self.run.fold(self.fold)


@dataclass(frozen=True)
class PlannedRun:
    """A run with its requested jobs."""

    method_spec: MethodSpec
    folder: RunFolder
    facts: Mapping[str, Any]
    jobs: tuple[Job, ...]
    variant: str = ""

    @property
    def row(self) -> str:
        """As :attr:`Job.row`."""
        return row_name(self.method_spec, self.variant)


def row_name(method_spec: MethodSpec, variant: str) -> str:
    """Label of a method with its variant."""
    return f"{method_spec.label}, {variant}" if variant else method_spec.label


@dataclass(frozen=True)
class Plan:
    """All runs of a request."""

    request: Request
    dataset: Dataset
    protocol: Protocol
    folds: Folds
    runs: tuple[PlannedRun, ...]
    transfer: DatasetTransfer | None = None

    @property
    def left_out(self) -> dict[str, str]:
        """Reasons by section that is left out, of all datasets."""
        tested = self.transfer.tested.left_out if self.transfer is not None else {}
        return {**self.dataset.left_out, **tested}

    @property
    def summary(self) -> str:
        """Data and folds in one line."""
        if self.transfer is not None:
            return (
                f"{self.transfer.summary} ({self.folds.hash[:12]}), protocol {self.protocol.name}"
            )
        return (
            f"{self.dataset.card.name}: {len(self.dataset.hashes)} sections,"
            f" {len(set(self.folds.patients.values()))} patients,"
            f" {len(self.folds.folds)} folds ({self.folds.hash[:12]}), protocol"
            f" {self.protocol.name}"
        )

    def jobs(self) -> list[Job]:
        """All jobs, fold by fold, so that a fold's data is made once for all methods.

        A shuffled twin comes after its method, whose fit it can then load.
        """
        return sorted(
            (job for run in self.runs for job in run.jobs),
            key=lambda job: (job.fold, job.limit, job.method_spec.shuffled),
        )


def make_plan(request: Request, *, elsewhere: bool = False) -> Plan:
    """Check a request and plan its jobs; nothing is trained and no run is written.

    Parameters
    ----------
    request
        Request of the user.
    elsewhere
        Whether the jobs run on other machines, whose devices are not known here.

    Raises
    ------
    BenchError
        The request cannot be met: an unknown name or setting, damaged data, a protocol that
        does not fit, a results folder that cannot be written.
    """
    card = dataset_card(request.dataset)
    protocol = find_protocol(request.protocol)
    if request.panel is not None:
        protocol = with_panel(protocol, request.panel, card.panels)
    specs = _method_specs(request, card.name, protocol)
    for method_spec in specs:
        for row in method_spec.members or (method_spec,):
            prepare_encoder(row.config, row.changes)
    if elsewhere:
        _check_sendable(specs)
    devices = Devices(request.device, request.precision, elsewhere=elsewhere)
    check_writable(request.results)

    images = any(method_spec.needs_image for method_spec in specs)
    transfer: DatasetTransfer | None = None
    if request.test_dataset:
        transfer = _transfer(request, card, protocol, images=images)
        dataset, protocol, listed_panel = transfer.trained, transfer.protocol, transfer.listed_panel
        folds = transfer.folds
    else:
        dataset, folds, listed_panel = divide(
            card,
            protocol,
            request.data_root,
            images=images,
            aliases=request.aliases,
            pictured=[one.label for one in specs if one.needs_image],
        )
    variants = variants_of(request, folds, protocol)
    findings = transfer.audit() if transfer else dataset_audit(dataset, folds, protocol)
    check_audit(findings, protocol)
    folds = shared_folds(request.results, folds)
    chosen = chosen_folds(request.folds, folds)
    specs = [_with_checkpoints(method_spec, request, folds, chosen) for method_spec in specs]
    tested = transfer.tested if transfer else None
    sources = {
        (index, limit): FoldSource(
            dataset, protocol, listed_panel, folds, index, tested=tested, train_patients=limit
        )
        for index in chosen
        for limit in {None, *(variant.patients for variant in variants)}
    }

    shared = {
        "dataset": card.name,
        "protocol": protocol.name,
        "protocol_hash": protocol.hash,
        "folds_hash": folds.hash,
        "compile": request.compile,
    }
    datasets = (dataset,) if tested is None else (dataset, tested)
    commit, renamed = git_commit(), renamed_genes(datasets)
    left_out = {name: why for one in datasets for name, why in one.left_out.items()}

    def dataset_hash(method_spec: MethodSpec) -> str:
        # A row does not depend on whether another method of the request reads images.
        needs = method_spec.needs_image
        return _joint([one.hash if needs else one.hash_without_images for one in datasets])

    def folder_of(method_spec: MethodSpec, precision: Precision, variant: Variant) -> RunFolder:
        facts = {
            **shared,
            **variant.facts,
            "seed": variant.seed,
            "dataset_hash": dataset_hash(method_spec),
            "precision": precision,
        }
        key = run_key(method_spec, facts)
        return run_folder(request.results, card.name, protocol.name, method_spec.label, key)

    runs = []
    for method_spec, variant in _planned(specs, variants):
        device, precision = devices.of(needs_image=method_spec.needs_image)
        folder = folder_of(method_spec, precision, variant)
        facts = {
            **shared,
            **variant.facts,
            **(transfer.facts if transfer else {}),
            "seed": variant.seed,
            "dataset_hash": dataset_hash(method_spec),
            "precision": precision,
            "packages": package_versions(),
            "tables_hash": _joint([one.tables_hash for one in datasets]),
            "label": method_spec.label,
            "kind": method_spec.kind,
            "method": method_spec.name,
            "preset": request.preset if method_spec.has_presets else "-",
            "config": dict(method_spec.config),
            "changes": dict(method_spec.changes),
            **_tuned(method_spec),
            **_studies(request, method_spec),
            "n_folds": len(folds.folds),
            "n_sections": len(folds.patients),
            "training_patients": mean_training_patients(folds),
            "left_out": left_out,
            "rules": protocol.model_dump(mode="json"),
            "footnotes": list(protocol.footnotes),
            "audit": [vars(finding) for finding in findings],
            **renamed,
            **_checkpoint(method_spec),
            "git_commit": commit,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        twin = (
            folder_of(method_spec.without_shuffling(), precision, variant)
            if method_spec.shuffled
            else None
        )
        members = tuple(
            Member(
                member, folder_of(member, devices.of(needs_image=member.needs_image)[1], variant)
            )
            for member in method_spec.members
        )
        jobs = tuple(
            Job(
                method_spec=method_spec.in_fold(index),
                source=sources[index, variant.patients],
                seed=variant.seed,
                device=device,
                precision=precision,
                compile=request.compile,
                run=folder,
                twin=twin,
                encoder=encoder_identity(method_spec.in_fold(index).config),
                members=members,
                variant=variant.name,
            )
            for index in chosen
            if not method_spec.fold_configs or index in method_spec.fold_configs
        )
        runs.append(PlannedRun(method_spec, folder, facts, jobs, variant.name))
    return Plan(request, dataset, protocol, folds, tuple(runs), transfer)


def _planned(
    specs: Sequence[MethodSpec], variants: Sequence[Variant]
) -> Iterator[tuple[MethodSpec, Variant]]:
    """Every method in every variant; an oracle, which has no seed and no training, in one."""
    for variant in variants:
        for method_spec in specs:
            if method_spec.kind != "oracle":
                yield method_spec, variant
            elif variant == variants[0]:
                yield method_spec, Variant(variant.seed)


def _transfer(
    request: Request, card: DatasetCard, protocol: Protocol, *, images: bool
) -> DatasetTransfer:
    cards = (card, dataset_card(str(request.test_dataset)))
    roots = (request.data_root, request.test_data_root)
    return divide_for_transfer(cards, protocol, roots, images=images, aliases=request.aliases)


def _joint(hashes: Sequence[str]) -> str:
    """Hash of several datasets; that of a single one is its own."""
    return hashes[0] if len(hashes) == 1 else canonical_hash(list(hashes))


def _method_specs(request: Request, dataset: str, protocol: Protocol) -> list[MethodSpec]:
    chosen = (dataset, request.preset, _settings(request, protocol))
    if request.tuned:
        return [tuned_spec(name, of, *chosen) for name, of in request.tuned.items()]
    if request.checkpoint is None:
        specs = resolve_methods(
            request.methods,
            *chosen,
            encoders=request.encoders,
            random_encoders=request.random_encoders,
        )
    else:
        specs = [released_spec(name, request.checkpoint, *chosen) for name in request.methods]
    if not request.oracles:
        return specs
    # Oracles show next to the scored methods what a score rewards.
    named = {method_spec.label for method_spec in specs}
    return specs + [MethodSpec(name, None) for name in ORACLES if name not in named]


def _settings(request: Request, protocol: Protocol) -> dict[str, Any]:
    """Settings of the request, after those that the protocol has for the methods of it."""
    settings = dict(request.settings)
    asked = (*request.methods, *request.tuned)
    rows = [row for name in asked for row in split_ensemble(name) or (name,)]
    # A row may name an encoder behind the method: ridge[uni].
    named = {row.removeprefix(f"{SHUFFLED}:").partition("[")[0] for row in rows}
    for method, of_method in protocol.method_settings.items():
        for name, value in of_method.items() if method in named else ():
            if name not in settings:
                settings.setdefault(f"{method}.{name}", value)
    return settings


def _check_sendable(specs: Sequence[MethodSpec]) -> None:
    for spec in specs:
        if spec.method is not None and is_handed(spec.method):
            raise BenchError(
                f"{spec.label}: a class of this process cannot be sent to another machine; write it"
                " to a file that all nodes see and give the file's path"
            )


def _checkpoint(method_spec: MethodSpec) -> dict[str, Any]:
    path, by_fold = method_spec.checkpoint, method_spec.fold_checkpoints
    if by_fold:
        names = [path.name for _, path in sorted(by_fold.items())]
        shown = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        hashes = {str(fold): file_hash(path) for fold, path in sorted(by_fold.items())}
        return {"checkpoint": {"file": shown, "sha256": hashes}}
    return {} if path is None else {"checkpoint": {"file": path.name, "sha256": file_hash(path)}}


def _with_checkpoints(
    method_spec: MethodSpec, request: Request, folds: Folds, chosen: Sequence[int]
) -> MethodSpec:
    """A released method with its checkpoint of each fold, where the request names one a fold."""
    checkpoint = request.checkpoint
    if checkpoint is None or is_one_file(checkpoint):
        return method_spec
    by_fold = checkpoints_by_fold(checkpoint, [fold.index for fold in folds.folds])
    missing = [str(fold) for fold in chosen if fold not in by_fold]
    if missing:
        raise DataError(
            f"{checkpoint}: no checkpoint of fold {', '.join(missing)}; choose others with --folds"
        )
    return replace(method_spec, fold_checkpoints=by_fold)


def _tuned(method_spec: MethodSpec) -> dict[str, Any]:
    """Settings by fold, in the form of ``run.json``."""
    configs = method_spec.fold_configs
    by_fold = {str(fold): dict(config) for fold, config in sorted(configs.items())}
    return {"tuned": by_fold} if by_fold else {}


def _studies(request: Request, method_spec: MethodSpec) -> dict[str, Any]:
    """Folders of the studies that found the settings, by fold."""
    by_fold = request.tuned.get(str(method_spec.method), {})
    return {"studies": {str(fold): of.study for fold, of in by_fold.items()}} if by_fold else {}
