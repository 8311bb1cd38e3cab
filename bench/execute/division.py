"""Division of a dataset's sections into the folds of a protocol, with the protocol's gene list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cache import JsonCache
from bench.data.card import DatasetCard, join_names
from bench.data.dataset import NO_IMAGE, PICTURES, Dataset, open_dataset
from bench.errors import BenchError, DataError
from bench.fetch.overview import summarize
from bench.files import canonical_hash
from bench.protocol.folds import (
    Fold,
    Folds,
    SectionFacts,
    make_folds,
    read_folds,
    write_folds,
)
from bench.protocol.gene_list import read_panel
from bench.protocol.listed_folds import read_listed_folds
from bench.protocol.panel import panel_by_totals
from bench.protocol.rules import BY_SECTION, Protocol
from bench.sources import code_hash
from bench.store import folds_folder, not_writable


def divide(
    card: DatasetCard,
    protocol: Protocol,
    data_root: Path | None,
    *,
    images: bool,
    aliases: Path | None = None,
    pictured: Sequence[str] = (),
) -> tuple[Dataset, Folds, tuple[str, ...] | None]:
    """Open a dataset and divide its sections by the rules of a protocol.

    Parameters
    ----------
    card, protocol, data_root, images, aliases
        See :func:`bench.data.dataset.open_dataset`.
    pictured
        Methods that need images, for the message where too few sections have one.

    Returns
    -------
    tuple of Dataset, Folds and tuple of str
        The last is the gene list if the protocol names one, otherwise None.

    Raises
    ------
    BenchError
        Damaged data, or a protocol that does not fit the dataset.
    """
    names = None
    if protocol.sections == "published":
        names = card.published_order
        if not names:
            raise BenchError(
                f"dataset {card.name} has no published list of sections, which protocol"
                f" {protocol.name} needs; {_way_out(card)}"
            )
    dataset = open_dataset(card, data_root, images=images, names=names, aliases=aliases)
    panel = panel_of(dataset, protocol)
    facts = section_facts(dataset, protocol)
    listed = _listed_folds(dataset, protocol)
    groups = card.patient_folds if protocol.patient_folds == "published" else ()
    if dataset.left_out:
        _check_enough(dataset, facts, protocol, pictured)
    return dataset, make_folds(card.name, facts, protocol, listed, groups), panel


def _check_enough(
    dataset: Dataset, facts: Sequence[SectionFacts], protocol: Protocol, pictured: Sequence[str]
) -> None:
    """Refuse a dataset that would do if all of its sections could be used; name those and why."""
    if protocol.split == "listed":
        return
    by_section = protocol.split == "section"
    units = {fact.name if by_section else fact.patient for fact in facts}
    names = [*dataset.hashes, *dataset.left_out]
    known = {name if by_section else dataset.card.section(name).patient for name in names}
    if len(units) >= 2 or len(known) < 2:
        return
    need = f"{join_names(pictured)} need{'s' * (len(pictured) == 1)}" if pictured else "is needed"
    unusable = list(dataset.left_out.items())
    reasons = [
        f"{name} has no image, which {need}" if reason == NO_IMAGE else f"{name}: {reason}"
        for name, reason in unusable[:5]
    ]
    more = f", and {len(unusable) - 5} more" if len(unusable) > 5 else ""
    unit = "section" if by_section else "patient"
    raise BenchError(
        f"protocol {protocol.name} leaves one {unit} out and needs two, but the usable sections"
        f" are of one ({join_names([fact.name for fact in facts])}); not usable:"
        f" {'; '.join(reasons)}{more}"
    )


def _way_out(card: DatasetCard) -> str:
    """Protocol that works for the patients and sections of a dataset."""
    if len(card.patients) > 1:
        return "use protocol strict"
    if len(card.sections) > 1:
        return f"use protocol {BY_SECTION.name}"
    return f"divide its section with --blocks of 'bench data add', then use {BY_SECTION.name}"


def _listed_folds(dataset: Dataset, protocol: Protocol) -> tuple[Fold, ...] | None:
    if protocol.split != "listed":
        return None
    card = dataset.card
    if card.fold_lists is None:
        raise BenchError(
            f"dataset {card.name} ships no folds, which protocol {protocol.name} needs;"
            f" {_way_out(card)}"
        )
    return read_listed_folds(dataset.root / card.fold_lists, dataset.hashes, dataset.left_out)


def panel_of(dataset: Dataset, protocol: Protocol) -> tuple[str, ...] | None:
    """Gene list of a dataset under a protocol; None where it is chosen inside each fold.

    Raises
    ------
    BenchError
        The protocol needs a list that the dataset does not have.
    """
    card = dataset.card
    if protocol.panel == "listed":
        return _spelled(protocol.genes, dataset)
    if protocol.panel == "total":
        return _panel_by_totals(dataset, protocol)
    if protocol.panel != "published":
        return None
    name = protocol.panel_name or card.published_panel
    if name is None:
        raise BenchError(
            f"dataset {card.name} has no published gene list, which protocol {protocol.name}"
            f" needs; {_way_out(card)}"
        )
    return _spelled(read_panel(card, name, dataset.root), dataset)


def _panel_by_totals(dataset: Dataset, protocol: Protocol) -> tuple[str, ...]:
    """Panel from the counts of all sections, which are read once."""
    facts = [dataset.tables_hash, protocol.panel_size, protocol.detected_share]
    key = canonical_hash([*facts, code_hash(["bench.protocol.panel"])])
    panel = _PANELS.get(key)
    if panel is None:
        panel = panel_by_totals(map(dataset.section, dataset.hashes), protocol)
        _PANELS.put(key, list(panel))
    return panel


_PANELS = JsonCache("panels-by-totals", lambda genes: tuple(str(gene) for gene in genes))
"""Gene lists by the tables they were chosen from."""


def _spelled(genes: tuple[str, ...], dataset: Dataset) -> tuple[str, ...]:
    return dataset.aliases.rename(genes)[0] if dataset.aliases else genes


def renamed_genes(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Hash of the alias table, and number of renamed genes by section; empty without a table."""
    renamed: dict[str, int] = {}
    aliases = None
    for dataset in datasets:
        if dataset.aliases is None:
            return {}
        aliases, plain = dataset.aliases, replace(dataset, aliases=None)
        for name in dataset.hashes:
            renamed[name] = aliases.rename(list(plain.section(name).adata.var_names))[1]
    return {"aliases": {"sha256": aliases.sha256, "renamed": renamed}} if aliases else {}


def section_facts(dataset: Dataset, protocol: Protocol) -> list[SectionFacts]:
    """Facts for splitting about the usable sections, in their order."""
    cards = [dataset.card.section(name) for name in dataset.hashes]
    patients = {card.patient for card in cards}
    balanced = protocol.split == "patient" and len(patients) > protocol.leave_one_out_up_to

    spots = {card.name: card.spots or 1 for card in cards}
    unknown = [card.name for card in cards if card.spots is None]
    if balanced and unknown:
        for section in summarize(dataset.card, dataset.root, unknown):
            if section.spots is None:
                raise DataError(section.problem or f"section {section.section} cannot be read")
            spots[section.section] = section.spots
    return [
        SectionFacts(
            card.name,
            card.patient,
            spots[card.name] if balanced else 1,
            _picture_hash(dataset.hashes[card.name]),
            card.block_of(dataset.hashes[card.name]),
        )
        for card in cards
    ]


def _picture_hash(hashes: Mapping[str, str]) -> str | None:
    """Hash of what shows a section: its image, or its stored patches."""
    return next((hashes[role] for role in PICTURES if role in hashes), None)


def shared_folds(results: Path, folds: Folds) -> Folds:
    """Folds as read from their file; written if they are new."""
    try:
        path = write_folds(folds_folder(results, folds.dataset, folds.protocol), folds)
    except OSError as error:
        raise not_writable(results, error) from error
    return read_folds(path)


def chosen_folds(asked: Sequence[int] | None, folds: Folds) -> list[int]:
    """Numbers of the folds that are asked for; all where None.

    Raises
    ------
    BenchError
        There is no such fold.
    """
    available = [fold.index for fold in folds.folds]
    if asked is None:
        return available
    unknown = sorted(set(asked) - set(available))
    if unknown:
        raise BenchError(
            f"no fold {join_names(map(str, unknown))}; folds are 0 to {len(available) - 1}"
        )
    return sorted(set(asked))
