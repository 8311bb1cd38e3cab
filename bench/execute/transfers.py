"""A test on another dataset: its sections beside those of the training, and what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.cache import JsonCache
from bench.data.card import DatasetCard
from bench.data.dataset import Dataset, open_dataset
from bench.data.scales import matching_scale
from bench.data.section import Section
from bench.errors import BenchError, DataError
from bench.execute.audits import stated_overlap
from bench.execute.division import panel_of, section_facts
from bench.files import canonical_hash
from bench.protocol.audit import Finding, audit, decode_findings, encode_findings
from bench.protocol.folds import Folds
from bench.protocol.rules import LISTS, Protocol
from bench.protocol.transfer import own_name, transfer_folds, transfer_protocol
from bench.sources import code_hash


class PairFacts(NamedTuple):
    """What two datasets have in common.

    Attributes
    ----------
    genes
        Genes measured in all sections of the training dataset, of the test dataset, and of both.
    scales
        Micrometres a pixel of the sections of the training dataset, and of the test dataset.
    """

    genes: tuple[int, int, int]
    scales: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class DatasetTransfer:
    """Division of two datasets into one fold.

    Attributes
    ----------
    trained, tested
        The datasets.
    protocol
        Rules under the name of the transfer, with its footnotes.
    folds
        The fold.
    listed_panel
        Gene list, for a protocol that uses one.
    base
        Name of the protocol as it was asked for.
    """

    trained: Dataset
    tested: Dataset
    protocol: Protocol
    folds: Folds
    listed_panel: tuple[str, ...] | None
    base: str

    @property
    def summary(self) -> str:
        """Both datasets in a few words."""
        return _summary(self.trained, self.tested)

    @property
    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says of the test dataset."""
        card = self.tested.card
        return {
            "test_dataset": {
                "name": card.name,
                "protocol": self.base,
                "platform": card.platform,
                "sections": len(self.tested.hashes),
                "patients": _patients(self.tested),
            }
        }

    def section(self, name: str) -> Section:
        """Section by its name in the fold, as its dataset has it."""
        return section_of_either(self.trained, self.tested, self.folds, name)

    def audit(self) -> list[Finding]:
        """Leaks between the datasets, as the cards state and as the data show; computed once."""
        trained, tested = self.trained, self.tested
        cautions = (*trained.card.cautions, *tested.card.cautions)
        facts = [trained.hash, tested.hash, self.folds.hash, self.protocol.hash, cautions]
        key = canonical_hash([code_hash(["bench.protocol.audit"]), *facts])
        findings = _AUDITS.get(key)
        if findings is None:
            findings = audit(self.folds, _PairedSections(self), self.protocol, cautions)
            _AUDITS.put(key, encode_findings(findings))
        # A list of the training dataset's card was chosen without the sections tested here.
        own = [f for f in findings if f.kind != "panel" or self.protocol.panel == "listed"]
        return [*stated_overlap(trained.card, tested.card), *own]


def divide_for_transfer(
    cards: tuple[DatasetCard, DatasetCard],
    protocol: Protocol,
    roots: tuple[Path | None, Path | None],
    *,
    images: bool,
    aliases: Path | None = None,
) -> DatasetTransfer:
    """Open the datasets of training and test, and divide their sections.

    Parameters
    ----------
    cards, roots
        Cards of the training and of the test dataset, and folders of their files.
    protocol, images, aliases
        As of :func:`bench.execute.division.divide`.

    Raises
    ------
    BenchError
        One dataset twice; no gene, or too different a scale; a protocol that does not fit;
        damaged data.
    """
    if cards[0].name == cards[1].name:
        raise BenchError(
            f"--test-dataset {cards[1].name} is the training dataset itself; leave it out to test"
            " on patients of it that were left out of the training"
        )
    rules = transfer_protocol(protocol, cards[1].name)
    for finding in stated_overlap(*cards):  # before anything is read
        raise DataError(f"{finding.message}; test on another dataset")
    trained, tested = (
        open_dataset(card, root, images=images, aliases=aliases)
        for card, root in zip(cards, roots, strict=True)
    )
    learned, other = (section_facts(dataset, rules) for dataset in (trained, tested))
    folds = transfer_folds(cards[0].name, cards[1].name, learned, other, rules)
    listed = panel_of(trained, protocol)
    pair = pair_facts(trained, tested)
    if not pair.genes[2]:
        raise DataError(
            f"{cards[0].name} and {cards[1].name} have no gene in common that all sections"
            " measured; their symbols may be of two kinds, see --aliases"
        )
    name = f"a section of {cards[1].name}"
    others = [matching_scale(pair.scales[0], scale, name) for scale in pair.scales[1]]
    resampled = any(scale is not None for scale in others)
    notes = (*rules.footnotes, *_notes(trained, tested, pair, rules, resampled))
    rules = rules.model_copy(update={"footnotes": notes})
    return DatasetTransfer(trained, tested, rules, folds, listed, protocol.name)


def section_of_either(trained: Dataset, tested: Dataset, folds: Folds, name: str) -> Section:
    """Section by its name in the fold of a transfer, as its dataset has it."""
    if name in folds.folds[0].test:
        return tested.section(own_name(name, tested.hashes, tested.card.name))
    return trained.section(name)


def pair_facts(trained: Dataset, tested: Dataset) -> PairFacts:
    """Genes and scales of two datasets; read once for the same data."""
    key = canonical_hash([trained.tables_hash, tested.tables_hash])
    facts = _PAIRS.get(key)
    if facts is None:
        genes, scales = [], []
        for dataset in (trained, tested):
            sections = [(set(s.adata.var_names), s.micrometres_per_pixel) for s in dataset]
            genes.append(set.intersection(*(of for of, _ in sections)))
            scales.append(tuple(scale for _, scale in sections))
        counts = (len(genes[0]), len(genes[1]), len(genes[0] & genes[1]))
        facts = PairFacts(counts, (scales[0], scales[1]))
        _PAIRS.put(key, facts._asdict())
    return facts


def _decode_pair(known: Any) -> PairFacts:
    first, second, both = map(int, known["genes"])
    trained, tested = (tuple(map(float, scales)) for scales in known["scales"])
    return PairFacts((first, second, both), (trained, tested))


_PAIRS = JsonCache("dataset-pairs", _decode_pair)
_AUDITS = JsonCache("transfer-audits", decode_findings)


class _PairedSections(Mapping[str, Section]):
    """Sections of both datasets by their names in the fold, each read when it is asked for."""

    def __init__(self, transfer: DatasetTransfer) -> None:
        self._transfer = transfer

    def __getitem__(self, name: str) -> Section:
        return self._transfer.section(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._transfer.folds.patients)

    def __len__(self) -> int:
        return len(self._transfer.folds.patients)


def _notes(
    trained: Dataset, tested: Dataset, pair: PairFacts, protocol: Protocol, resampled: bool
) -> list[str]:
    """Footnotes on a test on another dataset."""
    first, second, both = pair.genes
    chosen = "the gene list is cut to" if protocol.panel in LISTS else "the panel is chosen among"
    notes = [
        f"External validation: {_summary(trained, tested)}; {chosen} the {both:,} genes that both"
        f" measured, of {first:,} and {second:,}."
    ]
    names = (trained.card.name, tested.card.name)
    platforms = (trained.card.platform, tested.card.platform)
    if platforms[0] != platforms[1]:
        notes.append(f"Other platform: {_either(names, platforms)}.")
    spots = [of.card.spot_diameter_micrometres for of in (trained, tested)]
    if spots[0] != spots[1]:
        notes.append(f"Other spots: {_either(names, [f'{um:g} um wide' for um in spots])}.")
    scales = [_span(of) for of in pair.scales]
    if resampled:
        stored = any("patches" in roles for roles in tested.hashes.values())
        how = (
            "stored patches cannot be resampled and keep their own scale"
            if stored
            else "test patches are resampled to the scale of the training"
        )
        notes.append(f"Other scale: {_either(names, scales)}; {how}.")
    return notes


def _summary(trained: Dataset, tested: Dataset) -> str:
    first, second = (
        f"{of.card.name} ({len(of.hashes)} sections of {_patients(of)} patients)"
        for of in (trained, tested)
    )
    return f"fitted on {first}, tested on {second}"


def _span(scales: Sequence[float]) -> str:
    low, high = f"{min(scales):.3g}", f"{max(scales):.3g}"
    return f"{low if low == high else f'{low} to {high}'} um a pixel"


def _either(names: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{value} ({name})" for name, value in zip(names, values, strict=True))


def _patients(dataset: Dataset) -> int:
    return len({dataset.card.section(name).patient for name in dataset.hashes})
