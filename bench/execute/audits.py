"""Audits of a dataset on its own, and of a model that is tested on another dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.cache import JsonCache
from bench.data.card import DatasetCard
from bench.data.dataset import Dataset, open_dataset
from bench.data.folders import is_here
from bench.errors import BenchError
from bench.execute.division import divide
from bench.files import canonical_hash
from bench.protocol.audit import Finding, audit, decode_findings, encode_findings, shared_data
from bench.protocol.folds import Fold, Folds
from bench.protocol.rules import Protocol
from bench.sources import code_hash


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


def full_audit(
    card: DatasetCard, protocol: Protocol, data_root: Path | None
) -> tuple[Folds, list[str], list[Finding]]:
    """Search all sections of a dataset for leaks, by image where the image is on this machine.

    Returns
    -------
    tuple
        The folds, the names of the sections that were compared by image, and the findings.

    Raises
    ------
    BenchError
        Damaged data, or a protocol that does not fit the dataset.
    """
    dataset, folds, _ = divide(card, protocol, data_root, images=False)
    opened = open_dataset(card, data_root, images=None, names=list(dataset.hashes))
    findings = audit(folds, opened.sections, protocol, card.cautions)
    return folds, _pictured(opened), findings


def cross_audit(
    trained: DatasetCard, tested: DatasetCard, protocol: Protocol, roots: Sequence[Path | None]
) -> tuple[list[str], list[Finding]]:
    """Overlap of a training and a test dataset: patients, images and counts that both contain.

    Parameters
    ----------
    trained, tested
        Cards of the dataset that a model was fitted on and of the one it is tested on.
    protocol
        Rules of the audit; data shared by two datasets are forbidden under every protocol.
    roots
        Their data folders. A dataset that is not on this machine is judged by its card alone.

    Returns
    -------
    tuple
        Names of the datasets whose sections were compared, and the findings.
    """
    if trained.name == tested.name:
        raise BenchError(f"both datasets are {trained.name}; audit it under a protocol instead")
    findings = stated_overlap(trained, tested)
    cards = list(zip((trained, tested), roots, strict=True))
    here = [card.name for card, root in cards if is_here(card, root)]
    if len(here) < len(cards):
        return here, findings
    opened = [open_dataset(card, root, images=None) for card, root in cards]
    sections = {
        f"{dataset.card.name}:{name}": section
        for dataset in opened
        for name, section in dataset.sections.items()
    }
    names = [tuple(n for n in sections if n.startswith(f"{d.card.name}:")) for d in opened]
    folds = Folds(
        dataset=f"{trained.name} to {tested.name}",
        protocol=protocol.name,
        protocol_hash=protocol.hash,
        patients={name: f"{name.partition(':')[0]}:{s.patient}" for name, s in sections.items()},
        folds=(Fold(index=0, train=names[0], validation=(), test=names[1]),),
    )
    shared = [
        replace(finding, forbidden=True) for finding in shared_data(folds, sections, protocol)
    ]
    return here, findings + shared


def stated_overlap(trained: DatasetCard, tested: DatasetCard) -> list[Finding]:
    """Findings on patients that two datasets have in common as one of their cards states."""
    said = (
        trained.shares_patients_with.get(tested.name),
        tested.shares_patients_with.get(trained.name),
    )
    reasons = dict.fromkeys(" ".join(reason.split()) for reason in said if reason)
    return [
        Finding(
            "patient",
            f"{tested.name} holds patients of {trained.name}: {reason}",
            (0,),
            forbidden=True,
        )
        for reason in reasons
    ]


def _pictured(dataset: Dataset) -> list[str]:
    return [name for name, roles in dataset.hashes.items() if "image" in roles]
