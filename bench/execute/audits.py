"""The audit of a dataset on its own, with every image that is on this machine."""

from __future__ import annotations

from pathlib import Path

from bench.data.card import DatasetCard
from bench.data.dataset import open_dataset
from bench.execute.plan import divide
from bench.protocol.audit import Finding, audit
from bench.protocol.folds import Folds
from bench.protocol.rules import Protocol


def full_audit(
    card: DatasetCard, protocol: Protocol, data_root: Path | None
) -> tuple[Folds, list[str], list[Finding]]:
    """Look for leaks among all sections of a dataset, by image where one is there.

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
    pictured = [
        name
        for name in folds.patients
        if (file := card.section(name).files.get("image")) is not None
        and (dataset.root / file.path).is_file()
    ]
    sections = {name: dataset.section(name) for name in folds.patients}
    if pictured:
        opened = open_dataset(card, data_root, images=True, names=pictured)
        sections |= {name: opened.section(name) for name in pictured}
    return folds, pictured, audit(folds, sections, protocol)
