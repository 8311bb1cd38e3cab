"""The plan: which runs a request means, under which keys, on which folds."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

import bench
from bench.data.card import join_names
from bench.data.dataset import Dataset, open_dataset
from bench.errors import BenchError, ConfigError, UnknownNameError
from bench.evaluate.oracles import ORACLES
from bench.files import canonical_hash, file_hash, source_hash
from bench.method import Method, MethodConfig
from bench.protocol.folds import Folds, SectionFacts, make_folds, write_folds
from bench.protocol.panel import read_panel
from bench.protocol.rules import Protocol, find_protocol
from bench.registry import dataset_card, find_methods, method_class, method_source
from bench.store import RunFolder, check_writable, folds_folder, not_writable, run_folder

SHUFFLED = "shuffled"

PACKAGES = (
    "anndata",
    "lightning",
    "numpy",
    "pillow",
    "scanpy",
    "scikit-learn",
    "scipy",
    "spotbench",
    "timm",
    "torch",
    "torchvision",
)
"""Packages whose version is part of a run's key."""

_HARNESS = ("data", "protocol", "evaluate", "blocks", "training.py", "execute/job.py")
"""Sources of the harness that decide numbers, and so belong to the key."""


@dataclass(frozen=True)
class Request:
    """What a user asked for; see the options of ``bench run``."""

    methods: tuple[str, ...]
    dataset: str
    protocol: str = "strict"
    folds: tuple[int, ...] | None = None
    preset: str = "authors"
    settings: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    data_root: Path | None = None
    results: Path = Path("results")
    force: bool = False


@dataclass(frozen=True)
class Entrant:
    """Something that is run and gets a row: a method, a shuffled twin, or an oracle.

    Attributes
    ----------
    label
        The row's name: ``mclstexp``, ``shuffled:mclstexp``, ``depth``.
    method
        Name of the method, None for an oracle.
    shuffled
        Whether test images are dealt to the wrong spots.
    config
        Settings of the method.
    """

    label: str
    method: str | None
    shuffled: bool = False
    config: MethodConfig = field(default_factory=MethodConfig)

    @property
    def kind(self) -> str:
        """``oracle``, ``control`` or ``method``."""
        if self.method is None:
            return "oracle"
        return "control" if self.shuffled or method_class(self.method).control else "method"


@dataclass(frozen=True)
class Job:
    """One fold of one run, with all its inputs; picklable."""

    entrant: Entrant
    dataset: Dataset
    protocol: Protocol
    published_panel: tuple[str, ...] | None
    folds: Folds
    fold: int
    seed: int
    device: str
    run: RunFolder
    twin: RunFolder | None = None


@dataclass(frozen=True)
class PlannedRun:
    """A run with the jobs that were asked for."""

    entrant: Entrant
    folder: RunFolder
    facts: Mapping[str, Any]
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a request means."""

    request: Request
    dataset: Dataset
    protocol: Protocol
    folds: Folds
    runs: tuple[PlannedRun, ...]

    def jobs(self) -> list[Job]:
        """All jobs, fold by fold, so that a fold's data is made once for all methods."""
        return sorted((job for run in self.runs for job in run.jobs), key=lambda job: job.fold)


def make_plan(request: Request) -> Plan:
    """Check a request and say what it takes; nothing is trained and no run is written.

    Raises
    ------
    BenchError
        The request cannot be met: an unknown name or setting, damaged data, a protocol that
        does not fit, a results folder that cannot be written.
    """
    card = dataset_card(request.dataset)
    protocol = find_protocol(request.protocol)
    entrants = _entrants(request, card.name)
    device = choose_device(request.device)
    check_writable(request.results)

    images = any(e.method is not None and method_class(e.method).needs_image for e in entrants)
    names = None
    if protocol.sections == "published":
        names = card.published_order
        if not names:
            raise BenchError(
                f"protocol {protocol.name} needs a published list of sections, which dataset"
                f" {card.name} has not; protocol strict works"
            )
    dataset = open_dataset(card, request.data_root, images=images, names=names)
    published_panel = None
    if protocol.panel == "published":
        published_panel = _published_panel(dataset, protocol)
    folds = make_folds(card.name, _facts(dataset, protocol), protocol)
    chosen = _chosen_folds(request.folds, folds)

    shared = {
        "dataset": card.name,
        "dataset_hash": dataset.hash,
        "protocol": protocol.name,
        "protocol_hash": protocol.hash,
        "folds_hash": folds.hash,
        "seed": request.seed,
        "packages": package_versions(),
    }
    folders: dict[str, RunFolder] = {}
    planned = []
    for entrant in entrants:
        key = _run_key(entrant, shared)
        folder = run_folder(request.results, card.name, protocol.name, entrant.label, key)
        folders[entrant.label] = folder
        facts = {
            **shared,
            "label": entrant.label,
            "kind": entrant.kind,
            "method": entrant.method,
            "preset": request.preset if _has_presets(entrant) else "-",
            "config": entrant.config.model_dump(mode="json"),
            "n_folds": len(folds.folds),
            "n_sections": len(folds.patients),
            "left_out": dict(dataset.left_out),
            "footnotes": list(protocol.footnotes),
            "version": bench.__version__,
            "git_commit": git_commit(),
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        planned.append((entrant, folder, facts))

    def jobs(entrant: Entrant, folder: RunFolder) -> tuple[Job, ...]:
        return tuple(
            Job(
                entrant=entrant,
                dataset=dataset,
                protocol=protocol,
                published_panel=published_panel,
                folds=folds,
                fold=index,
                seed=request.seed,
                device=device,
                run=folder,
                twin=folders.get(str(entrant.method)) if entrant.shuffled else None,
            )
            for index in chosen
        )

    runs = tuple(PlannedRun(e, folder, facts, jobs(e, folder)) for e, folder, facts in planned)
    try:
        write_folds(folds_folder(request.results, card.name, protocol.name), folds)
    except OSError as error:
        raise not_writable(request.results, error) from error
    return Plan(request, dataset, protocol, folds, runs)


def _published_panel(dataset: Dataset, protocol: Protocol) -> tuple[str, ...]:
    card = dataset.card
    if card.published_panel is None:
        raise BenchError(
            f"protocol {protocol.name} needs a published gene list, which dataset {card.name}"
            " has not; protocol strict works"
        )
    return read_panel(card, card.published_panel, dataset.root)


def _facts(dataset: Dataset, protocol: Protocol) -> list[SectionFacts]:
    cards = [dataset.card.section(name) for name in dataset.hashes]
    patients = {card.patient for card in cards}
    balanced = protocol.split == "patient" and len(patients) > protocol.leave_one_out_up_to

    def spots(name: str, known: int | None) -> int:
        if not balanced:
            return 1
        return known if known is not None else dataset.section(name).adata.n_obs

    return [
        SectionFacts(
            card.name,
            card.patient,
            spots(card.name, card.spots),
            dataset.hashes[card.name].get("image"),
        )
        for card in cards
    ]


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


def _entrants(request: Request, dataset: str) -> list[Entrant]:
    known = find_methods()
    labels: list[str] = []
    for label in request.methods:
        if label == SHUFFLED:
            twins = [
                f"{SHUFFLED}:{name}"
                for name in request.methods
                if name in known and method_class(name).needs_image
            ]
            if not twins:
                raise BenchError(
                    "'shuffled' is the twin of a method that looks at images; name one beside"
                    " it, or write shuffled:METHOD"
                )
            labels += twins
        else:
            labels.append(label)
    labels = list(dict.fromkeys(labels))
    if not labels:
        raise BenchError("no method named; see 'bench list methods'")

    settings = _settings(request.settings)
    used: set[str] = set()
    entrants = []
    for label in labels:
        if label in ORACLES:
            entrants.append(Entrant(label, None))
            continue
        shuffled = label.startswith(f"{SHUFFLED}:")
        name = label.removeprefix(f"{SHUFFLED}:")
        if name not in known:
            raise UnknownNameError("method", name, [*known, *ORACLES, SHUFFLED])
        kind = method_class(name)
        if shuffled and not kind.needs_image:
            raise BenchError(f"{label}: {name} does not look at images, shuffling changes nothing")
        entrants.append(Entrant(label, name, shuffled, _configure(kind, request, settings, used)))
    unused = set(settings) - used
    if unused:
        fields = {
            key for e in entrants for key in type(e.config).model_fields if e.method is not None
        }
        raise UnknownNameError("setting", sorted(unused)[0], fields or {"(none)"})
    return entrants


def _configure(
    kind: type[Method], request: Request, settings: Mapping[str, Any], used: set[str]
) -> MethodConfig:
    changes = {}
    for key, value in settings.items():
        owner, _, field_name = key.rpartition(".")
        if owner == kind.name or (not owner and field_name in kind.Config.model_fields):
            changes[field_name] = value
            used.add(key)
    return kind.configure(request.dataset, request.preset, changes)


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set '{pair}': write key=value or method.key=value")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set '{pair}': the value cannot be read") from None
    return settings


def _has_presets(entrant: Entrant) -> bool:
    return entrant.method is not None and any(method_class(entrant.method).presets.values())


def _run_key(entrant: Entrant, shared: Mapping[str, Any]) -> str:
    package = Path(bench.__file__).parent
    sources = [source_hash(*(package / part for part in _HARNESS))]
    if entrant.method is not None:
        sources.append(source_hash(method_source(entrant.method)))
    config = entrant.config.model_dump(mode="json")
    # A setting that names a file stands for its content.
    files = {
        key: file_hash(Path(value))
        for key, value in config.items()
        if isinstance(value, str) and Path(value).is_file()
    }
    return canonical_hash(
        {**shared, "label": entrant.label, "config": config, "files": files, "source": sources}
    )


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can change numbers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def git_commit() -> str | None:
    """Commit of the checkout the package runs from, None for an installed package."""
    root = Path(bench.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def choose_device(asked: str) -> str:
    """Device by name; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises
    ------
    BenchError
        Unknown, or not on this machine.
    """
    if asked == "cpu":
        return "cpu"
    if asked not in {"auto", "cuda", "mps"}:
        raise UnknownNameError("device", asked, {"auto", "cpu", "cuda", "mps"})
    if asked == "auto":
        # Settled when a job starts, so that planning needs no torch.
        return "auto"
    if asked not in available_devices():
        raise BenchError(f"device {asked} is not available on this machine; use --device auto")
    return asked


def available_devices() -> list[str]:
    """Devices torch can use here, the fastest first."""
    import torch

    devices = []
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]
