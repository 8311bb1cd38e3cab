"""What a paper with stored runs has to cite: methods, datasets, encoders, and this program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.data.card import DatasetCard
from bench.encoders.declaration import declarations
from bench.errors import BenchError
from bench.evaluate.oracles import ORACLES
from bench.method_references import split_encoder, split_ensemble
from bench.registry import dataset_card
from bench.report.citations import Citation, citation_key, printed_method
from bench.version import __version__

_OF_DATASET = re.compile(
    r"^(?P<authors>[^.]+?)(?P<others>,? et al)?\.\s(?P<title>[^.]+)\.\s(?P<where>.+?)\.?$"
)
_OF_ENCODER = re.compile(
    r"^(?P<authors>[^,]+?)(?P<others> et al)?\.?, (?P<title>.+), (?P<where>[^,]+?)$"
)
_YEAR = re.compile(r"\b(19|20)\d\d\b(?!\.\d)")
_SIMULATED = "simulated"


def software() -> Citation:
    """SpotBench in its version."""
    return Citation(
        key="spotbench",
        authors="The SpotBench developers",
        title="SpotBench: a benchmark of methods that predict spatial gene expression from H&E"
        " histology",
        where=f"Computer program, version {__version__}",
        year="",
    )


def references(facts: Sequence[Mapping[str, Any]]) -> list[Citation]:
    """References of stored runs: this program, then datasets, methods and encoders.

    Parameters
    ----------
    facts
        Contents of ``run.json`` of each.

    Returns
    -------
    list of Citation
        Each once. A dataset whose card is not here, a method without a publication and weights of
        the user's own have none.
    """
    found = [software()]
    for run in facts:
        tested = run.get("test_dataset")
        names = [run["dataset"], *([tested["name"]] if isinstance(tested, Mapping) else [])]
        found += (one for name in names if (one := _of_dataset(str(name))))
        found += _of_methods(run)
        found += _of_encoder(run)
    return list({citation.key: citation for citation in found}.values())


def _of_dataset(name: str) -> Citation | None:
    try:
        card = dataset_card(name)
    except BenchError:  # a card of the user's own, which a run does not store
        return None
    return None if card.citation.startswith(_SIMULATED) else dataset_citation(card)


def dataset_citation(card: DatasetCard) -> Citation:
    """Reference of a dataset as its card words it.

    Examples
    --------
    >>> from bench.registry import dataset_card
    >>> dataset_citation(dataset_card("her2st")).key
    'andersson2021spatial'
    """
    text = " ".join(card.citation.split())
    match = _OF_DATASET.match(text)
    if match is None:  # several publications, or words on them: as they stand
        return Citation(f"{card.name}-dataset", "", text, "", _year(text), card.doi or "")
    names = [_swapped(name) for name in match["authors"].split(", ")]
    year = _year(match["where"])
    return Citation(
        key=citation_key(match["authors"], year, match["title"]),
        authors=" and ".join([*names, *(["others"] if match["others"] else [])]),
        title=match["title"],
        where=match["where"].replace(f" ({year})", ""),
        year=year,
        doi=card.doi or "",
    )


def _swapped(name: str) -> str:
    """``Andersson A`` is ``Andersson, A.`` in BibTeX."""
    family, _, initials = name.rpartition(" ")
    if not family:
        return name
    return f"{family}, {' '.join(f'{letter}.' for letter in initials)}"


def _of_methods(run: Mapping[str, Any]) -> Iterator[Citation]:
    label = str(run.get("method_label", run["label"]))
    for name in split_ensemble(label) or (str(run.get("method") or label),):
        citation = None if name in ORACLES else printed_method(split_encoder(name)[0]).citation
        if citation is not None:
            yield citation


def _of_encoder(run: Mapping[str, Any]) -> Iterator[Citation]:
    config = run.get("config")
    name = config.get("encoder") if isinstance(config, Mapping) else None
    match = _OF_ENCODER.match(declarations()[name].citation) if name in declarations() else None
    if match is None:
        return
    year = _year(match["where"])
    yield Citation(
        key=citation_key(match["authors"], year, match["title"]),
        authors=match["authors"] + (" and others" if match["others"] else ""),
        title=match["title"],
        where=match["where"].removesuffix(year).strip(),
        year=year,
    )


def _year(text: str) -> str:
    found = _YEAR.search(text)
    return found[0] if found else ""
