"""The plan of a request: its runs, their keys, and their folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.cache import JsonCache
from bench.data.card import join_names
from bench.data.dataset import Dataset
from bench.devices import check_device, check_precision, remember_devices, remembered_devices
from bench.errors import BenchError, DataError
from bench.evaluate.oracles import ORACLES
from bench.execute.checkpoints import checkpoints_by_fold, is_one_file
from bench.execute.division import divide
from bench.execute.encoders import encoder_identity, prepare_encoder
from bench.execute.ensembles import Member
from bench.execute.environment import git_commit, package_versions
from bench.execute.inputs import FoldSource
from bench.execute.keys import run_key
from bench.execute.method_specs import MethodSpec, released_spec, resolve_methods, tuned_spec
from bench.execute.request import Request
from bench.files import canonical_hash, file_hash
from bench.method import Precision
from bench.method_references import SHUFFLED, is_handed, split_ensemble
from bench.protocol.audit import (
    Finding,
    audit,
    check_audit,
    decode_findings,
    encode_findings,
)
from bench.protocol.folds import Folds, read_folds, write_folds
from bench.protocol.rules import Protocol, find_protocol, with_panel
from bench.registry import dataset_card
from bench.sources import code_hash
from bench.store import (
    FoldFolder,
    RunFolder,
    check_writable,
    folds_folder,
    not_writable,
    run_folder,
)
from bench.worker.process import run_worker


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

    @property
    def name(self) -> str:
        """Row and fold, for messages."""
        return f"{self.method_spec.label} fold {self.fold}"

    @property
    def fold(self) -> int:
        """Number of the fold."""
        return self.source.index

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


@dataclass(frozen=True)
class Plan:
    """All runs of a request."""

    request: Request
    dataset: Dataset
    protocol: Protocol
    folds: Folds
    runs: tuple[PlannedRun, ...]

    def jobs(self) -> list[Job]:
        """All jobs, fold by fold, so that a fold's data is made once for all methods.

        A shuffled twin comes after its method, whose fit it can then load.
        """
        return sorted(
            (job for run in self.runs for job in run.jobs),
            key=lambda job: (job.fold, job.method_spec.shuffled),
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
    dataset, folds, listed_panel = divide(
        card, protocol, request.data_root, images=images, aliases=request.aliases
    )
    folds = _shared_folds(request.results, folds)
    findings = dataset_audit(dataset, folds, protocol)
    check_audit(findings, protocol)
    chosen = _chosen_folds(request.folds, folds)
    specs = [_with_checkpoints(method_spec, request, folds, chosen) for method_spec in specs]
    sources = {index: FoldSource(dataset, protocol, listed_panel, folds, index) for index in chosen}

    shared = {
        "dataset": card.name,
        "protocol": protocol.name,
        "protocol_hash": protocol.hash,
        "folds_hash": folds.hash,
        "seed": request.seed,
        "compile": request.compile,
    }
    commit, renamed = git_commit(), _aliases(dataset)

    def dataset_hash(method_spec: MethodSpec) -> str:
        # A row does not depend on whether another method of the request reads images.
        return dataset.hash if method_spec.needs_image else dataset.hash_without_images

    def folder_of(method_spec: MethodSpec, precision: Precision) -> RunFolder:
        facts = {**shared, "dataset_hash": dataset_hash(method_spec), "precision": precision}
        key = run_key(method_spec, facts)
        return run_folder(request.results, card.name, protocol.name, method_spec.label, key)

    runs = []
    for method_spec in specs:
        device, precision = devices.of(needs_image=method_spec.needs_image)
        folder = folder_of(method_spec, precision)
        facts = {
            **shared,
            "dataset_hash": dataset_hash(method_spec),
            "precision": precision,
            "packages": package_versions(),
            "tables_hash": dataset.tables_hash,
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
            "left_out": dict(dataset.left_out),
            "rules": protocol.model_dump(mode="json"),
            "footnotes": list(protocol.footnotes),
            "audit": [vars(finding) for finding in findings],
            **renamed,
            **_checkpoint(method_spec),
            "git_commit": commit,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        twin = (
            folder_of(method_spec.without_shuffling(), precision) if method_spec.shuffled else None
        )
        members = tuple(
            Member(member, folder_of(member, devices.of(needs_image=member.needs_image)[1]))
            for member in method_spec.members
        )
        jobs = tuple(
            Job(
                method_spec=method_spec.in_fold(index),
                source=source,
                seed=request.seed,
                device=device,
                precision=precision,
                compile=request.compile,
                run=folder,
                twin=twin,
                encoder=encoder_identity(method_spec.in_fold(index).config),
                members=members,
            )
            for index, source in sources.items()
            if not method_spec.fold_configs or index in method_spec.fold_configs
        )
        runs.append(PlannedRun(method_spec, folder, facts, jobs))
    return Plan(request, dataset, protocol, folds, tuple(runs))


class Devices:
    """Device and precision of jobs; torch is queried only if a method reads images."""

    def __init__(self, device: str, precision: str, *, elsewhere: bool = False) -> None:
        check_device(device)
        check_precision(precision)
        self._device, self._precision, self._elsewhere = device, precision, elsewhere
        if device in {"cuda", "mps"} and not elsewhere and device not in self._here:
            raise BenchError(f"device {device} is not available on this machine; use --device auto")

    def of(self, *, needs_image: bool) -> tuple[str, Precision]:
        """Device and precision of a method; an accelerator only for methods that read images."""
        device, precision = self._device, self._precision
        if device == "auto":
            device = next(iter(self._here)) if needs_image else "cpu"
        if not needs_image:  # precision is of image encoders
            return device, "float32"
        if precision == "auto" and device == "cuda" and self._elsewhere:
            return device, "bf16"
        if precision == "auto":
            return device, self._here.get(device, "float32")
        return device, "bf16" if precision == "bf16" else "float32"

    @cached_property
    def _here(self) -> Mapping[str, Precision]:
        known = remembered_devices()
        if known is None:
            remember_devices(run_worker("devices", "{}")["devices"])
            known = remembered_devices()
        assert known is not None  # it has just been written
        return known


def dataset_audit(dataset: Dataset, folds: Folds, protocol: Protocol) -> list[Finding]:
    """Leaks of a dataset's folds; computed once for the same data, folds and rules."""
    source = code_hash(["bench.protocol.audit"])
    cautions = dataset.card.cautions
    key = canonical_hash([source, dataset.hash, folds.hash, protocol.hash, cautions])
    findings = _AUDITS.get(key)
    if findings is None:
        sections = dataset.only(list(folds.patients)).sections
        findings = audit(folds, sections, protocol, cautions)
        _AUDITS.put(key, encode_findings(findings))
    return findings


_AUDITS = JsonCache("audits", decode_findings)


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


def _shared_folds(results: Path, folds: Folds) -> Folds:
    """Folds as read from their file; written if they are new."""
    try:
        path = write_folds(folds_folder(results, folds.dataset, folds.protocol), folds)
    except OSError as error:
        raise not_writable(results, error) from error
    return read_folds(path)


def _aliases(dataset: Dataset) -> dict[str, Any]:
    """Hash of the alias table, and number of renamed genes by section; empty without a table."""
    if dataset.aliases is None:
        return {}
    plain = replace(dataset, aliases=None)
    genes = {name: list(plain.section(name).adata.var_names) for name in dataset.hashes}
    renamed = {name: dataset.aliases.rename(of)[1] for name, of in genes.items()}
    return {"aliases": {"sha256": dataset.aliases.sha256, "renamed": renamed}}


def _chosen_folds(asked: Sequence[int] | None, folds: Folds) -> list[int]:
    available = [fold.index for fold in folds.folds]
    if asked is None:
        return available
    unknown = sorted(set(asked) - set(available))
    if unknown:
        raise BenchError(
            f"no fold {join_names(map(str, unknown))}; folds are 0 to {len(available) - 1}"
        )
    return sorted(set(asked))
